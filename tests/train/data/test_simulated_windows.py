"""Windows of simulated machines: a first day as new, then labels of the simulation itself."""

from pathlib import Path

import numpy as np
import pytest

from app.demo.simulation.history import draw_unit, sampled_hours
from app.demo.simulation.machine import read_machine
from app.demo.simulation.wear import healthy_plan
from train.data import simulated_windows as simulated
from train.data.labels import HOUR_US
from train.data.simulated_windows import SimulatedMachines, simulated_windows

ORDER = SimulatedMachines(read_machine("cnc"), 2, 3, 0, 4_000.0, 9.0, 0.0, 7)


@pytest.fixture(autouse=True)
def short_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "NEW_WINDOWS", 2)


def test_each_machine_begins_as_new_and_wears_later(tmp_path: Path) -> None:
    windows = simulated_windows(tmp_path / "one", ORDER)
    labels = windows.labels
    assert windows.machines == ("cnc-001", "cnc-002")
    assert labels.machine_W.tolist() == [0] * 5 + [1] * 5
    new_W = np.tile([True, True, False, False, False], 2)
    assert (labels.health_WV[new_W] == 1).all()
    assert (labels.rate_WV[new_W] == 0).all()
    assert np.isnan(labels.rul_WV[new_W]).all()
    assert (labels.health_WV[~new_W] < 1).any()
    hours_W = (labels.start_us_W - labels.start_us_W[0]) / HOUR_US
    assert hours_W[1] < 24 < 4_900 < hours_W[2]
    values_WSN = windows.values(np.arange(10))
    assert values_WSN.shape == (10, 34, 600)
    assert np.isfinite(values_WSN).all()


def test_labels_are_those_of_the_simulation_and_remaining_life_begins_with_wear(
    tmp_path: Path,
) -> None:
    labels = simulated_windows(tmp_path / "one", ORDER).labels
    unit = draw_unit(ORDER.design, 2, 7, 4_000.0, wearing=9.0, sensor_faults=0.0)
    for row, hour in enumerate(sampled_hours(unit, 4_000.0, 3).tolist(), 7):
        for v, component in enumerate(ORDER.design.components):
            truth = unit.plan.condition(component.component_id, hour + 1 / 6)
            assert labels.health_WV[row, v] == pytest.approx(truth.health)
            assert labels.rate_WV[row, v] == pytest.approx(truth.degradation_rate)
            if truth.fault:
                assert labels.rul_WV[row, v] == pytest.approx(truth.rul_h)
            else:
                assert np.isnan(labels.rul_WV[row, v])


def test_readings_of_a_snapshot_are_those_of_its_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ORDER._replace(machines=1, windows=1, snapshots=6)
    worn = simulated_windows(tmp_path / "worn", order)
    monkeypatch.setattr(
        simulated, "_snapshots", lambda unit, *_: healthy_plan(unit.plan.modes, 1e6)
    )
    new = simulated_windows(tmp_path / "new", order)
    assert (new.labels.health_WV[3:] == 1).all()
    is_worn_W = (worn.labels.health_WV[3:] < 0.9).any(1)
    assert is_worn_W.sum() > 0
    apart_W = np.abs(worn.values(np.arange(3, 9)) - new.values(np.arange(3, 9))).max((1, 2))
    assert (apart_W[is_worn_W] > 0).all()
    is_new_W = (worn.labels.health_WV[3:] == 1).all(1)
    assert (apart_W[is_new_W] == 0).all()


def test_snapshots_have_a_few_faults_of_their_own(tmp_path: Path) -> None:
    order = ORDER._replace(windows=1, snapshots=12)
    windows = simulated_windows(tmp_path / "one", order)
    labels = windows.labels
    rows = slice(3, 15)
    worn_WV = labels.health_WV[rows] < 1
    assert worn_WV.sum(1).max() <= 3
    assert len({tuple(each) for each in worn_WV.tolist()}) > 3
    assert labels.health_WV[rows][worn_WV].min() >= 0
    assert np.isnan(labels.rate_WV[rows]).all()
    assert np.isnan(labels.rul_WV[rows]).all()
    assert (np.diff(labels.start_us_W[:15]) > 0).all()
    alone = simulated_windows(tmp_path / "two", order._replace(seed=8))
    assert (alone.labels.health_WV[rows] != labels.health_WV[rows]).any()
    # the other windows are those of a machine without snapshots
    usual = simulated_windows(tmp_path / "three", ORDER._replace(windows=1))
    assert (usual.values(np.arange(3)) == windows.values(np.arange(3))).all()


def test_equal_orders_give_equal_windows_and_digests_and_another_seed_does_not(
    tmp_path: Path,
) -> None:
    first = simulated_windows(tmp_path / "one", ORDER)
    again = simulated_windows(tmp_path / "two", ORDER)
    everything = np.arange(10)
    assert (first.values(everything) == again.values(everything)).all()
    assert ORDER.digest == ORDER._replace().digest
    assert ORDER.digest != ORDER._replace(seed=8).digest
