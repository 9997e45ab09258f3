"""The benchmark of the simulated rig: Theil's coefficient, calibration, scores."""

import re

import numpy as np
import pytest

from app.demo.rig.simulated import SIMULATION_FILE
from tests.bench import rig_transfer
from tests.bench.report import summary
from tests.bench.rig_calibration import (
    HEALTHY,
    RANGES,
    calibrate,
    calibrated_names,
    healthy_cycles,
    rig_cycles,
    with_values,
)
from tests.bench.rig_transfer import measure_all, theil


def test_theil_is_0_for_equal_series_1_for_opposite_ones_and_as_computed_by_hand():
    series = np.array([3.0, 4.0])
    assert theil(series, series) == 0
    assert theil(series, -series) == pytest.approx(1)
    # rms of the difference is 1, those of the series are 5 / sqrt 2 and sqrt 20.5
    assert theil(series, series + 1) == pytest.approx(1 / (5 / np.sqrt(2) + np.sqrt(20.5)))


def test_only_healthy_stable_cycles_calibrate_and_half_of_them_stays_unseen():
    block = rig_cycles()
    found = healthy_cycles(block)
    stable = (block.grades_CG == HEALTHY).all(1) & block.stable_C
    assert len(found.used_CTS) + len(found.unused_CTS) == stable.sum() == 10
    assert len(found.used_CTS) == len(found.unused_CTS)
    assert not (found.used_CTS[:, None] == found.unused_CTS[None]).all((2, 3)).any()


def test_every_marked_value_has_a_range_and_is_replaced():
    text = SIMULATION_FILE.read_text()
    names = calibrated_names(text)
    assert set(names) == RANGES.keys()
    times = {"closes": 0.2, "opens": 9.4, "steps": 0.3}
    written = with_values(text, {name: RANGES[name].start for name in names} | times)
    assert "volume_l: 0.7  # calibrated: accumulator" in written
    assert "seconds: [0, 0.2, 0.21, 9.4, 9.41, 19.3, 19.31," in written
    assert len(text.splitlines()) == len(written.splitlines())


def test_calibration_does_not_depend_on_the_values_before_and_approaches_the_cycle():
    used_TS = healthy_cycles(rig_cycles()).used_CTS.mean(0)
    text = SIMULATION_FILE.read_text()
    other = re.sub(r"volume_l: [0-9.]+(  # calibrated)", r"volume_l: 1.9\1", text)
    assert other != text
    first, far = calibrate(text, used_TS, evaluations=1)
    again, _ = calibrate(other, used_TS, evaluations=1)
    assert again == first
    _, near = calibrate(text, used_TS, evaluations=5)
    assert near < 0.5 * far


def test_models_are_scored_on_real_cycles_that_they_and_the_calibration_did_not_see(monkeypatch):
    monkeypatch.setattr(rig_transfer, "TREES", 10)
    found = measure_all(machines=3, cycles=16)
    assert found["scored"] == rig_cycles().stable_C.sum() - found["used"]
    rows = {(row["component"], row["model"]): row["macro_f1"] for row in found["rows"]}
    assert len(rows) == 4 * 7
    assert all(0 <= each <= 1 for each in rows.values())
    assert rows["cooler", rig_transfer.REAL_TREES] > 0.95
    assert rows["cooler", rig_transfer.CHANCE] < 0.5
    text = summary({"facts": {"command": "", "cores": 2, "cpu": "", "load_before": [0, 0, 0],
                              "python": "", "time": ""}, "rig": found})  # fmt: skip
    assert "## The simulated rig" in text
    assert "| simulated faults: extra trees |" in text
