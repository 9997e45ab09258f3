"""Feeds simulated machines into a store or over HTTP as they run, at any multiple of real time.

Readings end at the present. At a higher speed operating hours pass faster than the clock: the feed
begins in the past and ends when it has caught up, then it goes on at the pace of the clock.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from app.core.errors import HydraulicDiagnosticsError, InputError, StoreUnavailable
from app.core.settings import Settings
from app.demo.simulation.generate import blocks_of, register
from app.demo.simulation.history import Recording, Unit, record_gapless
from app.demo.simulation.injections import injections_of, plan_with
from app.demo.simulation.wear import WearPlan
from app.store.readings import Readings
from app.store.store import open_store

BATCH_S = 10
"""Seconds of readings in one write."""

Write = Callable[[Unit, Readings], Awaitable[None]]


def pieces(
    unit: Unit, hours: float, plan: Callable[[], WearPlan] | None = None
) -> Iterator[Recording]:
    """Yield the history of a machine in pieces of `BATCH_S`, without end when `hours` is inf."""
    for recording in record_gapless(unit, 0.0, hours, plan):
        for first in range(0, len(recording.values_TS), BATCH_S):
            values_TS = recording.values_TS[first : first + BATCH_S]
            yield Recording(recording.hour + first / 3_600, values_TS)


async def feed(
    units: Sequence[Unit],
    start: datetime,
    hours: float,
    speed: float,
    write: Write,
    var_dir: Path | None = None,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Feed machines until their history ends.

    Args:
        units: the machines.
        start: time of their operating hour 0.
        hours: length of their history.
        speed: simulated seconds per second until the clock is reached; then 1.
        write: writes readings of a machine.
        var_dir: with the injected faults, read before each minute.
        now: returns seconds since 1970-01-01T00:00Z.
        sleep: waits for a number of seconds.

    Raises:
        InputError: the speed is not above 0.
    """
    if not speed > 0:
        raise InputError(f"expected a speed above 0, found {speed:g}", "speed")

    def plan_of(unit: Unit) -> WearPlan:
        if var_dir is None:
            return unit.plan
        return plan_with(unit.plan, injections_of(var_dir, unit.equipment_id), start)

    histories = [pieces(unit, hours, partial(plan_of, unit)) for unit in units]
    began = now()
    written_s = 0.0
    while True:
        # simulated time that may have passed: at the given speed, but never beyond the clock
        due_s = min((now() - began) * speed, now() - start.timestamp())
        if written_s + BATCH_S > due_s:
            await sleep(min(1.0, (written_s + BATCH_S - due_s) / min(speed, 1e6)))
            continue
        for unit, history in zip(units, histories, strict=True):
            recording = await asyncio.to_thread(next, history, None)
            if recording is None:
                return
            for block in blocks_of(unit, recording, start):
                await write(unit, block)
        written_s += BATCH_S


async def feed_store(
    units: Sequence[Unit], start: datetime, hours: float, speed: float, settings: Settings
) -> None:
    """Feed the database of the settings; waits while it is unavailable.

    Raises:
        StoreError: the database refused the readings.
    """
    store = open_store(settings)

    async def write(_: Unit, block: Readings) -> None:
        while True:
            try:
                await store.ingest_many([block])
            except StoreUnavailable:
                await asyncio.sleep(1.0)
            else:
                return

    try:
        await store.migrate()
        for unit in units:
            await register(store, unit, start)
        await feed(units, start, hours, speed, write, settings.var_dir)
    finally:
        await store.close()


async def feed_http(
    units: Sequence[Unit],
    start: datetime,
    hours: float,
    speed: float,
    url: str,
    api_key: str | None,
    var_dir: Path,
    transport: httpx.AsyncBaseTransport | None = None,
) -> None:
    """Feed a service over HTTP.

    Raises:
        HydraulicDiagnosticsError: the service refused the machine or its readings.
    """
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=30.0, transport=transport
    ) as client:

        async def write(unit: Unit, block: Readings) -> None:
            times = np.asarray(block.times_us) // 1_000_000
            lines = (
                f"{unit.equipment_id},{sensor},{_iso(int(second))},{value:.7g}"
                for sensor, second, value in zip(
                    block.sensor_ids, times, np.asarray(block.values), strict=True
                )
            )
            body = "\n".join(["equipment_id,sensor_id,time,value", *lines])
            kind = {"Content-Type": "text/csv"}
            _check(await client.post("/v1/readings", content=body, headers=kind))

        for unit in units:
            topology = unit.design.equipment(unit.equipment_id)
            path = f"/v1/equipment/{unit.equipment_id}"
            _check(await client.put(path, json=topology.model_dump(mode="json")))
        await feed(units, start, hours, speed, write, var_dir)


def _iso(second: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)).isoformat()


def _check(response: httpx.Response) -> None:
    if response.is_error:
        raise HydraulicDiagnosticsError(
            f"expected {response.request.url} to accept the simulated machine, found "
            f"{response.status_code} {response.text[:200]}: correct the address or the key"
        )
