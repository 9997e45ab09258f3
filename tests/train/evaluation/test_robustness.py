"""Simulated sensor faults change the bins of the faulty sensor only."""

import numpy as np
import pytest

from tests.small import wave
from train.evaluation.robustness import FAULTS, Fault, faulty_sensor, removed, usual_spread


def test_usual_spread_leaves_out_what_is_missing() -> None:
    values_WSN = np.array([[[1.0, 3.0, np.nan], [np.nan, np.nan, np.nan]]], np.float32)
    assert usual_spread(values_WSN).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("fault", FAULTS)
def test_other_sensors_stay_as_they_are(fault: Fault) -> None:
    values_WSN = wave(3, 4)
    before = values_WSN.copy()
    broken_WSN = faulty_sensor(fault, 2, usual_spread(values_WSN), seed=0)(values_WSN)
    np.testing.assert_array_equal(values_WSN, before)
    np.testing.assert_array_equal(np.delete(broken_WSN, 2, axis=1), np.delete(before, 2, axis=1))
    assert not np.array_equal(broken_WSN[:, 2], before[:, 2])


def test_faults_by_hand() -> None:
    values_WSN = np.array([[[np.nan, 2.0, 4.0]]], np.float32)
    spread_S = np.array([1.5])
    assert np.isnan(faulty_sensor("missing", 0, spread_S, 0)(values_WSN)).all()
    np.testing.assert_array_equal(
        faulty_sensor("frozen", 0, spread_S, 0)(values_WSN), [[[np.nan, 2.0, 2.0]]]
    )
    np.testing.assert_array_equal(
        faulty_sensor("offset", 0, spread_S, 0)(values_WSN), [[[np.nan, 3.5, 5.5]]]
    )


def test_noise_has_the_usual_spread() -> None:
    broken_WSN = faulty_sensor("noisy", 0, np.array([2.0]), 0)(np.zeros((50, 1, 100), np.float32))
    assert float(broken_WSN.std()) == pytest.approx(2.0, rel=0.05)


def test_sensors_of_each_window_go_in_its_own_order_across_batches() -> None:
    rank_WS = np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]])
    disturb = removed(rank_WS, away=1)
    parts = [disturb(np.ones((2, 3, 2), np.float32)), disturb(np.ones((1, 3, 2), np.float32))]
    lost_WS = np.isnan(np.concatenate(parts)).all(-1)
    assert lost_WS.tolist() == [[True, False, False], [False, False, True], [False, True, False]]
