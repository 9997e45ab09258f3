"""Change points: rises of health are found where they are, and wear is none."""

import numpy as np
import pytest

from app.diagnosis.change_points import rises


def _noise(sd: float, count: int, seed: int = 0) -> np.ndarray:
    return sd * np.random.default_rng(seed).standard_normal(count)


@pytest.mark.parametrize("place", [20, 60, 90])
def test_repair_of_a_worn_component_is_found(place: int) -> None:
    hour_P = np.linspace(0.0, 1_000.0, 100)
    health_P = 1.0 - 0.6 * (hour_P - np.where(hour_P >= hour_P[place], hour_P[place], 0)) / 1_000
    health_P[:place] -= 0.3
    found = rises(hour_P, health_P + _noise(0.05, 100))
    assert len(found) == 1
    assert found[0] == pytest.approx(place, abs=2)


def test_two_repairs_are_found() -> None:
    hour_P = np.arange(90.0)
    health_P = 1.0 - 0.02 * (hour_P % 30.0)
    assert rises(hour_P, health_P + _noise(0.03, 90)) == [30, 60]


def test_wear_and_its_onset_are_no_rise() -> None:
    hour_P = np.linspace(0.0, 1_000.0, 100)
    for shape in (1.0, 2.0):
        health_P = 1.0 - (np.maximum(hour_P - 400.0, 0.0) / 700.0) ** shape
        assert rises(hour_P, health_P + _noise(0.05, 100)) == []


def test_scatter_is_no_rise() -> None:
    hour_P = np.arange(100.0)
    found = [rises(hour_P, 0.9 + _noise(0.07, 100, seed)) for seed in range(50)]
    assert sum(map(bool, found)) <= 1


def test_single_outliers_are_no_rise() -> None:
    health_P = 0.8 + _noise(0.02, 60)
    health_P[[5, 30, 31, 50]] = 0.1
    assert rises(np.arange(60.0), health_P) == []


def test_short_history_has_none() -> None:
    assert rises(np.arange(7.0), np.array([0.1, 0.1, 0.1, 0.1, 1.0, 1.0, 1.0])) == []
