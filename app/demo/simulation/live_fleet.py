"""Feeds the live fleet into a store: the recorded machines as if they ran now.

The worn machine comes first, with its earlier windows, so that its trend is known as soon as the
service answers; then all machines run, and the last day of the others is filled in hour by hour.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np

from app.core.errors import StoreUnavailable
from app.core.settings import Settings
from app.demo.rig.feed import LiveFeed, Replay
from app.demo.rig.measurements import CYCLE_S
from app.demo.simulation.commissioning import put_as_new
from app.demo.simulation.live_files import (
    PAST_STEP,
    LiveMachine,
    counted,
    cycles_of,
    past_ends,
    read_live_fleet,
)
from app.features.binning import Floats
from app.serving.observability.feed_metrics import FeedMetrics
from app.store.readings import Readings
from app.store.store import Store, open_store

EVERY_S = 5
"""Seconds of readings in one write."""
DAY_H = 24
PAUSE_S = 1.0
"""Between two windows of the last day, which are written in the background."""


async def run_fleet(settings: Settings, metrics: FeedMetrics) -> None:
    """Feed the recorded machines into the database of the settings until cancelled.

    Args:
        settings: of the database.
        metrics: of this process.

    Raises:
        ReadingError: a recording is damaged.
        StoreError: the store refused the readings.
    """
    machines = await asyncio.to_thread(read_live_fleet)
    store = open_store(settings)
    metrics.database.watch(store)
    try:
        await _persist(store.migrate)
        async with asyncio.TaskGroup() as tasks:
            for machine in machines:
                await _persist(partial(register, store, machine, datetime.now(UTC)))
                tasks.create_task(_feed_of(store, machine, metrics).run())
            await _persist(partial(fill_day, store, machines, datetime.now(UTC)))
    finally:
        await store.close()


async def _persist(write: Callable[[], Awaitable[object]]) -> None:
    """Write, again from the beginning whenever the store is unavailable."""
    while True:
        try:
            await write()
        except StoreUnavailable:
            await asyncio.sleep(PAUSE_S)
        else:
            return


async def register(store: Store, machine: LiveMachine, now: datetime) -> None:
    """Register a machine with its baseline, its counter and its earlier windows.

    Args:
        store: with its schema.
        machine: of the fleet.
        now: the present.
    """
    equipment = machine.equipment
    ends = past_ends(now)
    # the counter runs with the clock: as many operating hours as hours
    since_h = len(ends) * PAST_STEP.total_seconds() / 3_600
    for at, hours in ((ends[0], 0.0), (now, (now - ends[0]).total_seconds() / 3_600)):
        await store.put_equipment(counted(equipment, at, since_h + hours))
    await put_as_new(store, equipment.equipment_id, equipment.revision, machine.baseline, ends[0])
    for end, values_TS in zip(ends, machine.past_NTS, strict=False):
        await store.ingest_many([window_readings(machine, values_TS, end)])


async def fill_day(store: Store, machines: Sequence[LiveMachine], now: datetime) -> None:
    """Write one window of each hour of the last day, for each machine, the newest hours first."""
    for hour in range(1, DAY_H):
        for machine in machines:
            end = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=hour)
            values_TS = machine.live_NTS[hour % len(machine.live_NTS)]
            await store.ingest_many([window_readings(machine, values_TS, end)])
            await asyncio.sleep(PAUSE_S)


def window_readings(machine: LiveMachine, values_TS: Floats, end: datetime) -> Readings:
    """Return the readings of a window that ends at a time.

    Args:
        machine: of the fleet.
        values_TS: one row a second.
        end: of the window, on a whole second.
    """
    sensors = machine.equipment.sensor_ids
    begin_s = math.floor(end.timestamp()) - len(values_TS)
    second_T = np.arange(begin_s, begin_s + len(values_TS), dtype=np.int64)
    return Readings(
        machine.equipment.equipment_id,
        sensors * len(values_TS),
        np.repeat(second_T * 1_000_000, len(sensors)),
        values_TS.reshape(-1).astype(np.float64),
    )


def _feed_of(store: Store, machine: LiveMachine, metrics: FeedMetrics) -> LiveFeed:
    replay = Replay(machine.equipment.sensor_ids, cycles_of(machine.live_NTS, CYCLE_S))
    return LiveFeed(
        store,
        machine.equipment,
        replay,
        time.time,
        backfill_s=round(machine.equipment.window_s) + EVERY_S,
        every_s=EVERY_S,
        metrics=metrics,
    )
