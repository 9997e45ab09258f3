"""The feed of the live fleet, with a store that keeps what it is given."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import cast

import numpy as np
import pytest

from app.core.errors import StoreUnavailable
from app.demo.simulation import live_fleet
from app.demo.simulation.live_files import PAST_WINDOWS, past_ends, read_live_fleet
from app.demo.simulation.live_fleet import _persist, fill_day, register, window_readings
from app.features.baseline import Baseline
from app.schemas.equipment import Equipment
from app.store.baselines import NewBaseline
from app.store.readings import Readings
from app.store.store import Store

NOW = datetime(2026, 3, 4, 9, 30, tzinfo=UTC)


class Kept:
    """What was registered and written."""

    def __init__(self) -> None:
        self.equipment: list[Equipment] = []
        self.blocks: list[Readings] = []
        self.baselines: list[NewBaseline] = []

    async def put_baseline(self, _: str, revision: str, new: NewBaseline, actor: str) -> bool:
        assert revision == self.equipment[-1].revision
        assert actor == "demo"
        self.baselines.append(new)
        return True

    async def get_equipment(self, _: str) -> None:
        return None

    async def put_equipment(self, equipment: Equipment) -> None:
        self.equipment.append(equipment)

    async def ingest_many(self, blocks: list[Readings]) -> None:
        self.blocks += blocks


def ends_of(blocks: list[Readings]) -> list[datetime]:
    return [
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(block.times_us[-1]) + 10**6)
        for block in blocks
    ]


async def test_worn_machine_has_a_counter_and_its_earlier_windows() -> None:
    store, worn = Kept(), read_live_fleet()[0]
    await register(cast("Store", store), worn, NOW)
    counters = [each.operating_hours for each in store.equipment]
    assert None not in counters
    first, last = (each for each in counters if each is not None)
    assert last.value_h - first.value_h == (last.as_of - first.as_of).total_seconds() / 3_600
    assert Baseline.model_validate_json(store.baselines[0].moments) == worn.baseline
    assert store.baselines[0].end < past_ends(NOW)[0]
    assert ends_of(store.blocks) == past_ends(NOW)
    assert len(store.blocks) == PAST_WINDOWS
    (values,) = {len(block.values) for block in store.blocks}
    assert values == 600 * len(worn.equipment.sensors)


async def test_last_day_is_filled_with_a_window_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_fleet, "PAUSE_S", 0.0)
    store, machines = Kept(), read_live_fleet()[:2]
    await fill_day(cast("Store", store), machines, NOW)
    ends = sorted(set(ends_of(store.blocks)))
    assert len(store.blocks) == 23 * 2
    assert ends[-1] == NOW.replace(hour=8, minute=0)
    assert {later - one for one, later in pairwise(ends)} == {timedelta(hours=1)}


def test_readings_of_a_window_are_in_the_order_of_time_and_sensors() -> None:
    machine = read_live_fleet()[1]
    block = window_readings(machine, machine.live_NTS[0], NOW)
    sensors = len(machine.equipment.sensors)
    assert tuple(block.sensor_ids[:sensors]) == machine.equipment.sensor_ids
    assert (np.diff(np.asarray(block.times_us)[::sensors]) == 1_000_000).all()
    assert np.asarray(block.values)[:sensors] == pytest.approx(machine.live_NTS[0, 0])


async def test_unavailable_store_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_fleet, "PAUSE_S", 0.0)
    outcomes = [StoreUnavailable("away"), None]

    async def write() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    await _persist(write)
    assert outcomes == []
