"""C-MAPSS engines in a real store."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from app.cli.main import main
from app.core.errors import ReadingError, TopologyError
from app.demo.cmapss.files import SENSOR_IDS, read_engines
from app.demo.cmapss.importer import engine_topology, import_engines
from app.demo.machine import Progress
from app.store.labels import ALL_TIME_US, ConditionLabel
from app.store.store import Store
from app.store.windows import decode_window
from tests.app.demo.engines import write_engines

START = datetime(2025, 1, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
HOUR_US = 3_600_000_000


def nothing(progress: Progress) -> None:
    pass


def test_shipped_topology_has_a_sensor_for_every_column_and_the_parts_of_a_turbofan() -> None:
    topology = engine_topology()
    assert sorted(topology.sensor_ids) == sorted(SENSOR_IDS)
    assert {"fan", "lpc", "hpc", "combustor", "hpt", "lpt", "nozzle"} <= {
        each.component_id for each in topology.components
    }
    assert topology.grid_s == 3600


async def test_every_engine_is_a_machine_with_its_cycles_as_hours(
    store: Store, tmp_path: Path
) -> None:
    engines = read_engines(write_engines(tmp_path / "train_X.txt"))
    reports: list[Progress] = []
    done = await import_engines(
        store, engine_topology(), engines, "hpc", "train", START, reports.append
    )
    assert done == Progress(2, 2, 8 * 24, 8 * 24) == reports[-1]
    assert await store.find_equipment(design="turbofan") == ["train-1", "train-2"]
    record = await store.get_equipment("train-2")
    assert record is not None
    (window,) = await store.read_windows([("train-2", START_US // HOUR_US - 1, 5)])
    values_SN = decode_window(window, record.equipment)
    assert np.isnan(values_SN[:, [0, 4]]).all()
    place = record.equipment.sensor_ids.index("s8")
    np.testing.assert_array_equal(
        values_SN[place, 1:4], engines[1].values_CR[:, SENSOR_IDS.index("s8")].astype(np.float32)
    )
    expected = ConditionLabel("hpc", START_US, START_US + 3 * HOUR_US, run_to_failure=True)
    assert await store.read_labels("train-2") == [expected]


async def test_second_import_adds_nothing(store: Store, tmp_path: Path) -> None:
    engines = read_engines(write_engines(tmp_path / "train_X.txt"))
    for accepted in (8 * 24, 0):
        done = await import_engines(
            store, engine_topology(), engines, "hpc", "train", START, nothing
        )
        assert (done.readings, done.accepted) == (8 * 24, accepted)
    assert len(await store.read_labels("train-1", *ALL_TIME_US)) == 1


async def test_failure_of_a_truncated_history_lies_after_its_last_cycle(
    store: Store, tmp_path: Path
) -> None:
    engines = read_engines(write_engines(tmp_path / "test_X.txt"))
    await import_engines(
        store, engine_topology(), engines, "fan", "test", START, nothing, [112.0, 98.0]
    )
    (label,) = await store.read_labels("test-1")
    assert label == ConditionLabel(
        "fan", START_US, START_US + (5 + 112) * HOUR_US, run_to_failure=True
    )


async def test_invalid_component_start_or_prefix_writes_nothing(
    store: Store, tmp_path: Path
) -> None:
    engines = read_engines(write_engines(tmp_path / "train_X.txt"))
    with pytest.raises(
        ReadingError, match=r"one of control, fan, .* found 'gearbox': correct --component"
    ):
        await import_engines(store, engine_topology(), engines, "gearbox", "train", START, nothing)
    with pytest.raises(ReadingError, match="on a whole hour"):
        await import_engines(
            store, engine_topology(), engines, "hpc", "train", START.replace(minute=5), nothing
        )
    with pytest.raises(ReadingError, match="with a time zone"):
        await import_engines(
            store, engine_topology(), engines, "hpc", "train", START.replace(tzinfo=None), nothing
        )
    with pytest.raises(TopologyError, match="equipment id 'a b-1'"):
        await import_engines(store, engine_topology(), engines, "hpc", "a b", START, nothing)
    assert await store.list_equipment() == []


def test_topology_without_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(
        "{equipment_id: e, grid_s: 3600, window_s: 7200, steps: 2, components: [{component_id: fan,"
        " type: fan, sensors: [{sensor_id: s1, quantity: temperature, unit: K, range: [1, 2]}]}]}"
    )
    with pytest.raises(
        TopologyError, match="expected a sensor 'setting1' as a column of the files"
    ) as caught:
        engine_topology(path)
    assert len(caught.value.findings) == 23
    with pytest.raises(TopologyError, match="expected a topology file, found none"):
        engine_topology(tmp_path / "nowhere.yaml")


def test_command_imports_and_reports(
    tmp_path: Path, database_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    histories, remaining = write_engines(tmp_path / "test_X.txt"), tmp_path / "RUL_X.txt"
    remaining.write_text("7 \n9 \n")
    command = ["demo", "import-cmapss", str(histories), "--component", "hpc", "--dsn", database_dsn]
    assert main([*command, "--rul", str(remaining)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"importing 2 engines from {histories} as test_X-1 to test_X-2"
    assert lines[1].startswith("2/2 engines, 192 readings, ")
    assert lines[2].startswith("imported 192 new readings, 0 known before, in ")
    remaining.write_text("7 \n")
    assert main([*command, "--rul", str(remaining)]) == 1
    assert capsys.readouterr().err == (
        "error: RUL_X.txt line 1: expected 2 lines, one for each engine, found 1: "
        "correct the file\n"
    )
