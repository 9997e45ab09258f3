"""References fitted to training windows."""

import numpy as np

from tests.small import press, wave
from train.config import TrainConfig
from train.reference import fit_limits, fit_spec

CONFIG = TrainConfig(equipment="press-1", statistics=("mean", "spread"))


def test_machine_with_a_cycle_has_a_row_for_each_step() -> None:
    values_WSN = wave(30, 4)
    reference = fit_spec(values_WSN, press(), CONFIG).references["press"]["P1"]
    steps_WT = values_WSN[:, 0].reshape(30, 4, 3).mean(-1)
    np.testing.assert_allclose([row[0] for row in reference.mean], steps_WT.mean(0), rtol=1e-6)
    np.testing.assert_allclose([row[0] for row in reference.low], steps_WT.min(0), rtol=1e-6)


def test_machine_without_a_cycle_has_one_row() -> None:
    equipment = press().model_copy(update={"cycle_s": None})
    assert len(fit_spec(wave(5, 4), equipment, CONFIG).references["press"]["P1"].mean) == 1


def test_spread_never_falls_below_its_floor() -> None:
    values_WSN = wave(5, 4)
    values_WSN[:, 1] = 0.0
    reference = fit_spec(values_WSN, press(), CONFIG).references["press"]["Q1"]
    assert min(min(row) for row in reference.spread) == 1e-4 * 400
    assert reference.flat == 1.0


def test_sensor_that_was_never_there_has_no_reference() -> None:
    values_WSN = wave(5, 4)
    values_WSN[:, 2] = np.nan
    assert set(fit_spec(values_WSN, press(), CONFIG).references["press"]) == {"P1", "Q1", "T1"}


def test_limits_are_what_most_held_out_windows_stay_below() -> None:
    excess_WS = np.tile(np.linspace(0, 1, 101, dtype=np.float32)[:, None], (1, 4))
    excess_WS[:, 3] = np.nan
    limits = fit_limits(excess_WS, press(), share=0.9)
    assert limits.window == np.float32(0.9)
    assert set(limits.sensors) == {"P1", "Q1", "P2"}
