"""Calibration, noise and faults of sensors."""

import numpy as np
import pytest

from app.demo.simulation.elements.base import Instrument
from app.demo.simulation.instruments import (
    FAULT_KINDS,
    Calibration,
    SensorFault,
    calibrate,
    draw_sensor_faults,
    read_out,
)

PRESSURE = Instrument(id="p", measures="pressure", at="p", range=(0, 400), noise=0.0)
OIL = Instrument(id="oil", measures="oil_temperature", range=(-40, 130), noise=0.0)
EXACT = Calibration(np.zeros(2), np.ones(2))
TRUE_TO = np.stack([np.linspace(1e7, 2e7, 600), np.full(600, 50.0)], axis=1)


def read(*faults: SensorFault) -> np.ndarray:
    random = np.random.default_rng(1)
    return read_out([PRESSURE, OIL], EXACT, faults, TRUE_TO, 10.0, random)


def test_values_are_in_the_unit_of_the_topology():
    value_TS = read()
    assert value_TS[0].tolist() == pytest.approx([100.0, 50.0])
    assert (PRESSURE.unit, PRESSURE.quantity) == ("bar", "pressure")


def test_the_place_of_an_instrument_shifts_its_value_and_a_power_may_be_in_watts():
    warmer = OIL.model_copy(update={"shift": 2.5})
    power = Instrument(id="power", measures="power", range=(0, 6000), watts=True, noise=0.0)
    true_TO = np.array([[50.0, 2400.0]])
    value_TS = read_out([warmer, power], EXACT, (), true_TO, 0.0, np.random.default_rng(1))
    assert value_TS[0].tolist() == pytest.approx([52.5, 2400.0])
    assert (power.unit, power.quantity) == ("W", "power")


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_a_fault_changes_its_sensor_within_its_interval_and_no_other(kind):
    fault = SensorFault(0, kind, 10.0 + 300 / 3_600, 11.0, 1.3 if kind == "gain" else 0.1)
    good_TS, bad_TS = read(), read(fault)
    np.testing.assert_array_equal(bad_TS[:300], good_TS[:300])
    np.testing.assert_array_equal(bad_TS[:, 1], good_TS[:, 1])
    assert not np.array_equal(bad_TS[300:, 0], good_TS[300:, 0])


def test_dropout_is_missing_and_stuck_is_constant():
    dropout = read(SensorFault(0, "dropout", 0.0, 11.0, 0.1))
    stuck = read(SensorFault(0, "stuck", 0.0, 11.0, 0.5))
    assert 0.3 < np.isnan(dropout[:, 0]).mean() < 0.9
    assert len(set(stuck[:, 0])) == 1


def test_a_swapped_unit_is_that_of_the_other_unit():
    swapped = read(SensorFault(1, "unit_swap", 0.0, 11.0, 0.1))
    assert swapped[0, 1] == 122.0


def test_values_stay_within_the_range_of_the_instrument():
    high = read(SensorFault(0, "offset", 0.0, 11.0, 0.9))
    assert high[:, 0].max() == 400.0


def test_calibration_and_faults_are_the_same_for_a_seed():
    def drawn() -> tuple[list[float], tuple[SensorFault, ...]]:
        random = np.random.default_rng(5)
        calibration = calibrate([PRESSURE, OIL], random)
        return calibration.offset_S.tolist(), draw_sensor_faults([PRESSURE, OIL], 100, 9.0, random)

    assert drawn() == drawn()
    assert {fault.kind for fault in drawn()[1]} <= set(FAULT_KINDS)
