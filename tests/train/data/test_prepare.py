"""Windows prepared from a real database by Ray Data tasks."""

import asyncio
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from app.core.errors import StoreError
from app.core.settings import Settings
from app.demo.cmapss.files import read_engines
from app.demo.cmapss.importer import engine_topology, import_engines
from app.features.binning import Floats
from app.schemas.equipment import Equipment
from app.store.labels import ConditionLabel
from app.store.store import Store
from tests.app.demo.engines import write_engines
from tests.small import START_US, press, wave
from tests.train.jobs.test_artifacts import LONG_AGO, aged
from train.config import TrainConfig
from train.data import made_once
from train.data import prepare as preparing
from train.data.labels import EPOCH, MICROSECOND
from train.data.prepare import prepare
from train.data.windows import Windows
from train.jobs.artifacts import IN_USE, Artifact, Kind, remove, survey

pytestmark = pytest.mark.usefixtures("local_ray")
CONFIG = TrainConfig(equipment="press-1")
WINDOW_US = 12_000_000
START = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(database_dsn: str, tmp_path: Path) -> Settings:
    return Settings(dsn=SecretStr(database_dsn), var_dir=tmp_path)


async def fill(
    store: Store, equipment: Equipment, values_WSN: Floats, grade: str | None = "worn"
) -> None:
    """Write consecutive windows as readings of 1 Hz, with one grade of the pump."""
    await store.put_equipment(equipment)
    W, _, N = values_WSN.shape
    times_us = START_US + 1_000_000 * np.arange(W * N)
    for index, sensor_id in enumerate(equipment.sensor_ids):
        values = values_WSN[:, index].reshape(-1).astype(np.float64)
        there = np.isfinite(values)
        await store.ingest(
            equipment.equipment_id, [sensor_id] * int(there.sum()), times_us[there], values[there]
        )
    if grade is not None:
        end_us = START_US + W * WINDOW_US
        await store.put_labels(
            equipment.equipment_id, [ConditionLabel("pump", START_US, end_us, grade)]
        )


async def prepared(settings: Settings, config: TrainConfig = CONFIG) -> Windows:
    def take() -> Windows:
        with prepare(settings, settings.var_dir / "training", config) as fleet:
            return fleet.designs[0]

    return await asyncio.to_thread(take)


async def test_windows_are_the_grid_bit_for_bit(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "LEAST", 7)
    values_WSN = wave(30, 4)
    values_WSN[4, 1, 3:9] = np.nan
    values_WSN[20] = np.nan
    await fill(store, press(), values_WSN)
    windows = await prepared(settings)
    kept = np.flatnonzero(np.arange(30) != 20)
    assert windows.machines == ("press-1",)
    assert windows.labels.start_us_W.tolist() == (START_US + WINDOW_US * kept).tolist()
    assert windows.labels.grade_WV.tolist() == [[1, -1, -1]] * 29
    assert windows.labels.health_WV[0, 0] == 0.5
    np.testing.assert_array_equal(windows.values(np.arange(29)), values_WSN[kept])
    assert len(list(windows.directory.glob("*.parquet"))) == 5


async def test_dataset_has_the_chosen_windows_under_their_positions(
    store: Store, settings: Settings
) -> None:
    values_WSN = wave(30, 4)
    await fill(store, press(), values_WSN)
    windows = await prepared(settings)
    chosen = np.array([2, 3, 17, 29])
    columns = next(
        iter(windows.dataset(chosen).iter_batches(batch_size=None, batch_format="numpy"))
    )
    order = np.argsort(columns["position"])
    assert columns["position"][order].tolist() == chosen.tolist()
    assert columns["values"].dtype == np.float32
    np.testing.assert_array_equal(columns["values"][order], values_WSN[chosen])
    assert windows.dataset(np.empty(0, np.int64)).count() == 0


async def test_shards_are_reused_until_readings_labels_or_settings_change(
    store: Store, settings: Settings
) -> None:
    await fill(store, press(), wave(30, 4))
    first = await prepared(settings)
    written = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}
    again = await prepared(settings)
    assert {path: path.stat().st_mtime_ns for path in again.directory.iterdir()} == written
    seen = {first.directory}
    for change in (
        store.ingest("press-1", ["P1"], [START_US + 1], [11.0]),
        store.put_labels(
            "press-1", [ConditionLabel("pump", START_US, START_US + 20 * WINDOW_US, "new")]
        ),
    ):
        await change
        windows = await prepared(settings)
        assert windows.directory not in seen
        seen.add(windows.directory)
    other = await prepared(settings, CONFIG.model_copy(update={"warm_up_run": 3}))
    assert other.directory not in seen
    assert not list((settings.var_dir / "training").glob("*.partial"))


async def test_windows_are_locked_from_the_preparation_on_and_marked_when_reused(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, press(), wave(30, 4))
    training, write, seen = settings.var_dir / "training", preparing._write, []

    def watched(*given: Any) -> None:
        seen.extend(survey(training))
        write(*given)

    def take() -> list[Artifact]:
        with prepare(settings, settings.var_dir / "training", CONFIG):
            return survey(training)

    monkeypatch.setattr(preparing, "_write", watched)
    taken = await asyncio.to_thread(take)
    assert [(each.kind, each.busy) for each in seen] == [(Kind.UNFINISHED, IN_USE)]
    assert [(each.kind, each.busy) for each in taken] == [(Kind.WINDOWS, IN_USE)]
    aged(training)
    assert [(each.busy, each.changed) for each in survey(training)] == [("", LONG_AGO)]
    await asyncio.to_thread(take)
    assert len(seen) == 1
    assert survey(training)[0].changed > LONG_AGO
    assert remove(training, survey(training)[0]) == ""
    await asyncio.to_thread(take)
    assert len(seen) == 2


async def test_windows_that_are_removed_before_they_are_locked_are_prepared_again(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, press(), wave(30, 4))
    training, make, removed = settings.var_dir / "training", made_once._make, []

    def pruned(directory: Path, write: Callable[[Path], object]) -> None:
        make(directory, write)
        if not removed:
            removed.append(shutil.move(directory, training / "aside"))

    monkeypatch.setattr(made_once, "_make", pruned)
    assert len(await prepared(settings)) == 30
    assert removed


async def test_reading_after_the_labelled_time_changes_nothing(
    store: Store, settings: Settings
) -> None:
    await fill(store, press(), wave(30, 4))
    first = await prepared(settings)
    await store.ingest("press-1", ["P1"], [START_US + 40 * WINDOW_US], [11.0])
    assert (await prepared(settings)).directory == first.directory


async def test_machines_of_one_design_are_concatenated(store: Store, settings: Settings) -> None:
    values_WSN = wave(20, 4)
    for name, grade in (("press-2", "new"), ("press-3", "worn"), ("press-4", None)):
        await fill(store, press().model_copy(update={"equipment_id": name}), values_WSN, grade)
    windows = await prepared(settings, CONFIG.model_copy(update={"equipment": "press-*"}))
    assert windows.machines == ("press-2", "press-3")
    assert windows.labels.machine_W.tolist() == [0] * 20 + [1] * 20
    np.testing.assert_array_equal(
        windows.values(np.arange(40)), np.concatenate([values_WSN, values_WSN])
    )
    of_design = await prepared(settings, CONFIG.model_copy(update={"design": "press"}))
    assert of_design.directory == windows.directory


async def test_named_machines_and_an_interval_are_prepared(
    store: Store, settings: Settings
) -> None:
    for number in range(3):
        machine = press().model_copy(update={"equipment_id": f"press-{number}"})
        await fill(store, machine, wave(6, 4, seed=number))
    start, end = (EPOCH + (START_US + places * WINDOW_US) * MICROSECOND for places in (1, 4))
    config = TrainConfig(equipment="press-2,press-0", start=start, end=end)
    windows = await prepared(settings, config)
    assert windows.machines == ("press-0", "press-2")
    starts = (START_US + WINDOW_US * np.arange(1, 4)).tolist()
    assert windows.labels.start_us_W.tolist() == 2 * starts
    with pytest.raises(StoreError, match="expected 'press-7' in the store, found press-0"):
        await prepared(settings, TrainConfig(equipment="press-0,press-7"))
    late = TrainConfig(equipment="press-0", start=START + timedelta(days=1))
    with pytest.raises(StoreError, match=r"labels of 'press-0' in the store from 2025-01-02T00"):
        await prepared(settings, late)


async def test_machine_of_another_structure_is_named(store: Store, settings: Settings) -> None:
    await fill(store, press(), wave(3, 4))
    other = press().model_copy(update={"equipment_id": "press-2", "window_s": 24.0})
    await fill(store, other, wave(3, 4))
    with pytest.raises(StoreError, match="found 'press-2' with another window_s than 'press-1'"):
        await prepared(settings, CONFIG.model_copy(update={"design": "press"}))


async def test_run_to_failure_is_prepared_with_windows_that_overlap(
    store: Store, settings: Settings, tmp_path: Path
) -> None:
    topology = engine_topology().model_copy(update={"window_s": 10 * 3600.0, "steps": 5})
    histories = write_engines(tmp_path / "test_X.txt", (30, 12))
    engines = read_engines(histories)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    await import_engines(
        store, topology, engines, "hpc", "test", start, lambda _: None, [0.0, 200.0]
    )
    config = TrainConfig(equipment="test-*", stride_s=3600.0, rul_cap_h=20.0)
    windows = await prepared(settings, config)
    hpc = topology.component_index("hpc")
    first, second = (windows.labels.only(windows.labels.machine_W == machine) for machine in (0, 1))
    # a fifth of ten bins lies in the history from the second cycle on
    assert first.rul_WV[:, hpc].tolist() == [20.0] * 9 + [float(left) for left in range(19, -1, -1)]
    assert second.rul_WV[:, hpc].tolist() == [20.0] * 11
    assert np.isnan(np.delete(first.rul_WV, hpc, axis=1)).all()
    values_WSN = windows.values(np.arange(len(windows)))
    column = topology.sensor_ids.index("s9")
    history_C = engines[0].values_CR[:, 3 + 8].astype(np.float32)
    np.testing.assert_array_equal(values_WSN[0, column], [np.nan] * 8 + history_C[:2].tolist())
    np.testing.assert_array_equal(values_WSN[28, column], history_C[20:])
    np.testing.assert_array_equal(
        values_WSN[-1, column], engines[1].values_CR[2:, 3 + 8].astype(np.float32)
    )


async def test_missing_data_is_named(store: Store, settings: Settings) -> None:
    with pytest.raises(
        StoreError, match="expected 'press-1' in the store, found no equipment at all: send its"
    ):
        await prepared(settings)
    await store.put_equipment(press())
    with pytest.raises(StoreError, match="expected 'mill' in the store, found press-1: send its"):
        await prepared(settings, CONFIG.model_copy(update={"equipment": "mill"}))
    with pytest.raises(
        StoreError, match="expected condition labels of 'press-1' in the store, found none"
    ):
        await prepared(settings)
    await store.put_labels(
        "press-1", [ConditionLabel("pump", START_US, START_US + WINDOW_US, "new")]
    )
    with pytest.raises(
        StoreError,
        match="expected readings of 'press-1' in its 1 labelled windows of 12 s, found none",
    ):
        await prepared(settings)


async def test_failing_task_reports_its_error_and_leaves_no_files(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, press(), wave(3, 4))
    found = await preparing.find_windows(settings, CONFIG)
    # between looking and reading, the topology gets another grid
    await store.put_equipment(press().model_copy(update={"grid_s": 2.0, "steps": 3}))

    async def before(*_: object) -> object:
        return found

    monkeypatch.setattr(preparing, "find_windows", before)
    with pytest.raises(
        StoreError, match="expected bins of 1000000 us for 'press-1', found 2000000 us"
    ):
        await prepared(settings)
    assert list((settings.var_dir / "training").iterdir()) == []
