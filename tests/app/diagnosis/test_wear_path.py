"""Paths of wear: true rates and lives are found, and what can't be known is not claimed."""

import numpy as np
import pytest

from app.diagnosis.wear_path import WearPath, fit_path


def _fit(
    life_h: float, shape: float, until: float, *, noise: float = 0.0, onset_h: float = 0.0
) -> WearPath:
    last_h = onset_h + until * life_h
    hour_P = np.linspace(min(0.0, last_h - life_h), last_h, 80)
    worn_P = np.maximum(hour_P - onset_h, 0.0) / life_h
    health_P = 1.0 - worn_P**shape + noise * np.random.default_rng(3).standard_normal(80)
    return fit_path(hour_P, health_P, np.zeros(80, np.int64))


@pytest.mark.parametrize("shape", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("until", [0.4, 0.8])
def test_path_without_noise_gives_its_rate_and_remaining_life(shape: float, until: float) -> None:
    found = _fit(1_000.0, shape, until)
    rate = shape / 1_000.0 * until ** (shape - 1.0)
    assert found.rate.median == pytest.approx(rate, rel=0.2)
    # at 40 % of the life the shape, and so the rest of the life, is not certain yet
    assert found.rul_h.median == pytest.approx(1_000.0 * (1.0 - until), rel=0.4)
    assert found.rul_h.low < 1_000.0 * (1.0 - until) < found.rul_h.high
    assert found.worn > 0.999


def test_line_that_begins_late_is_not_taken_for_slow_wear() -> None:
    hour_P = np.linspace(0.0, 2_000.0, 100)
    health_P = 1.0 - np.maximum(hour_P - 1_500.0, 0.0) / 1_000.0
    found = fit_path(hour_P, health_P, np.zeros(100, np.int64))
    assert found.rate.median == pytest.approx(1e-3, rel=0.3)
    assert found.rul_h.median == pytest.approx(500.0, rel=0.3)


def test_scatter_without_wear_is_probably_no_wear() -> None:
    random = np.random.default_rng(0)
    hour_P = np.linspace(0.0, 1_000.0, 80)
    worn = [
        fit_path(hour_P, 1.0 + 0.05 * random.standard_normal(80), np.zeros(80, np.int64)).worn
        for _ in range(40)
    ]
    assert np.mean(np.array(worn) < 0.95) >= 0.95


def test_constant_low_health_is_no_wear() -> None:
    health_P = 0.5 + 0.03 * np.random.default_rng(1).standard_normal(80)
    found = fit_path(np.linspace(0.0, 1_000.0, 80), health_P, np.zeros(80, np.int64))
    assert found.worn < 0.95


def test_step_between_versions_is_no_wear() -> None:
    random = np.random.default_rng(2)
    version_P = (np.arange(80) >= 40).astype(np.int64)
    health_P = 0.98 - 0.08 * version_P + 0.02 * random.standard_normal(80)
    hour_P = np.linspace(0.0, 1_000.0, 80)
    assert fit_path(hour_P, health_P, version_P).worn < 0.95
    assert fit_path(hour_P, health_P, np.zeros(80, np.int64)).worn > 0.95


def test_outliers_hardly_move_the_rate() -> None:
    hour_P = np.linspace(0.0, 800.0, 80)
    health_P = 1.0 - hour_P / 1_000.0 + 0.02 * np.random.default_rng(4).standard_normal(80)
    health_P[[20, 45, 61]] = 0.0
    found = fit_path(hour_P, health_P, np.zeros(80, np.int64))
    assert found.rate.median == pytest.approx(1e-3, rel=0.2)


def test_intervals_widen_with_noise() -> None:
    widths = [
        found.rul_h.high - found.rul_h.low
        for found in (_fit(1_000.0, 1.5, 0.6, noise=sd) for sd in (0.01, 0.07))
    ]
    assert widths[1] > 1.5 * widths[0]


def test_slow_errors_count_as_fewer_points() -> None:
    random = np.random.default_rng(5)
    hour_P = np.linspace(0.0, 700.0, 96)
    line_P = 1.0 - hour_P / 1_000.0
    fast_P = 0.05 * random.standard_normal(96)
    slow_P = np.repeat(0.05 * random.standard_normal(12), 8)
    fast, slow = (
        fit_path(hour_P, line_P + each, np.zeros(96, np.int64)) for each in (fast_P, slow_P)
    )
    assert slow.rate.high - slow.rate.low > fast.rate.high - fast.rate.low


def test_unit_of_time_does_not_matter() -> None:
    hour_P = np.linspace(0.0, 700.0, 60)
    health_P = 1.0 - (hour_P / 1_000.0) ** 1.3
    versions = np.zeros(60, np.int64)
    hours, days = fit_path(hour_P, health_P, versions), fit_path(hour_P / 24, health_P, versions)
    assert days.rate.median == pytest.approx(24 * hours.rate.median, rel=1e-9)
    assert days.rul_h.high == pytest.approx(hours.rul_h.high / 24, rel=1e-9)
    assert days.worn == pytest.approx(hours.worn, rel=1e-9)
