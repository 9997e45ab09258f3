"""Summaries of windows."""

import numpy as np

from app.features.window_summary import (
    ISOLATED,
    LEVEL,
    NUMBERS,
    QUIET,
    ROUGHNESS,
    SPREAD,
    TREND,
    floors,
    summarise,
)

FLOOR_S = np.array([0.01])
USUAL_ST = np.full((1, 12), 10.0)


def quiet_signal(windows: int = 1) -> np.ndarray:
    random = np.random.default_rng(0)
    return (10.0 + random.normal(size=(windows, 1, 60))).astype(np.float32)


def test_level_and_trend_of_a_line_are_exact() -> None:
    line_N = np.repeat(np.linspace(-3.0, 3.0, 12), 5) + 12.0
    found_Y = summarise(line_N[None, None].astype(np.float32), USUAL_ST, FLOOR_S)[0, 0]
    np.testing.assert_allclose(found_Y[[LEVEL, TREND]], [2.0, 3.0], atol=1e-5)
    # beside the line nothing is left but what a step hides, and no bin is isolated
    assert np.exp(found_Y[SPREAD]) < 0.2
    assert np.exp(found_Y[ISOLATED]) < 0.02


def test_each_fault_moves_its_own_numbers() -> None:
    signal_WSN = quiet_signal()
    usual_Y = summarise(signal_WSN, USUAL_ST, FLOOR_S)[0, 0]
    offset_Y = summarise(signal_WSN + np.float32(2.0), USUAL_ST, FLOOR_S)[0, 0]
    np.testing.assert_allclose(offset_Y - usual_Y, [2.0, 0, 0, 0, 0, 0], atol=1e-3)
    double_Y = summarise(10 + 2 * (signal_WSN - 10), USUAL_ST, np.array([1e-9]))[0, 0]
    alone_Y = summarise(signal_WSN, USUAL_ST, np.array([1e-9]))[0, 0]
    np.testing.assert_allclose((double_Y - alone_Y)[SPREAD:], np.log(2.0), atol=1e-3)
    spiked_WSN = signal_WSN.copy()
    spiked_WSN[..., 30] += 40.0
    spiked_Y = summarise(spiked_WSN, USUAL_ST, FLOOR_S)[0, 0]
    assert spiked_Y[ISOLATED] > usual_Y[ISOLATED] + 1.0
    assert abs(spiked_Y[QUIET] - usual_Y[QUIET]) < 0.2
    stuck_Y = summarise(np.full_like(signal_WSN, 10.0), USUAL_ST, FLOOR_S)[0, 0]
    np.testing.assert_allclose(stuck_Y[SPREAD:], np.log(0.01), atol=1e-6)
    assert stuck_Y[ROUGHNESS] < usual_Y[ROUGHNESS]


def test_summary_has_no_numbers_with_more_than_a_tenth_of_the_bins_missing() -> None:
    signal_WSN = quiet_signal(2)
    usual_WSY = summarise(signal_WSN, USUAL_ST, FLOOR_S)
    signal_WSN[0, 0, 10:14] = np.nan
    signal_WSN[1, 0, :30] = np.nan
    found_WSY = summarise(signal_WSN, USUAL_ST, FLOOR_S)
    np.testing.assert_allclose(found_WSY[0, 0], usual_WSY[0, 0], atol=0.4)
    assert np.isnan(found_WSY[1]).all()
    assert found_WSY.shape == (2, 1, len(NUMBERS))


def test_reference_may_differ_by_window() -> None:
    signal_WSN = np.concatenate([quiet_signal(), quiet_signal() + np.float32(5.0)])
    usual_WST = np.stack([USUAL_ST, USUAL_ST + 5.0])
    found_WSY = summarise(signal_WSN, usual_WST, FLOOR_S)
    np.testing.assert_allclose(found_WSY[0], found_WSY[1], atol=1e-3)


def test_floor_is_a_part_of_the_spread_and_of_the_range() -> None:
    values_WSN = np.zeros((4, 2, 60), np.float32)
    values_WSN[:, 0, ::2] = 2.0
    values_WSN[:, 0, 0] = np.nan
    found_S = floors(values_WSN, np.array([100.0, 100.0]))
    np.testing.assert_allclose(found_S, [0.01, 1e-3], rtol=0.02)
