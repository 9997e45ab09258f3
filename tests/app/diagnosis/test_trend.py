"""Trends: what counts for them, when there is none, and their mean with the heads."""

import numpy as np
import pytest

from app.diagnosis import trend
from app.diagnosis.trend import Estimate, HealthSeries, fit_trend, merged

HOUR_US = 3_600_000_000


def _series(health_P: np.ndarray, span_h: float = 800.0) -> HealthSeries:
    hour_P = np.linspace(0.0, span_h, len(health_P))
    times = np.round(hour_P * HOUR_US).astype(np.int64)
    noise_P = 0.03 * np.random.default_rng(0).standard_normal(len(health_P))
    return HealthSeries(times, hour_P, health_P + noise_P, np.zeros(len(health_P), np.int64))


WEARING = _series(np.linspace(1.0, 0.2, 80))


def test_wearing_component_has_rate_and_life_with_intervals_around_them() -> None:
    found = fit_trend(WEARING)
    assert found.reason is None
    assert found.points == 80
    assert found.change_point is None
    assert found.rate is not None
    assert found.rul_h is not None
    assert found.rate.low < 1.0 < found.rate.high
    assert found.rul_h.low < 200.0 < found.rul_h.high
    assert found.rate.value == pytest.approx(1.0, rel=0.2)


def test_without_diagnoses_there_is_a_reason() -> None:
    assert fit_trend(_series(np.empty(0))).reason == trend.NO_HISTORY


def test_too_few_diagnoses_are_counted_in_the_reason() -> None:
    found = fit_trend(_series(np.linspace(1.0, 0.2, 11)))
    assert found.rate is None
    assert "at least 12 stored diagnoses over 24 operating hours" in str(found.reason)
    assert "found 11 over 800" in str(found.reason)


def test_too_short_a_span_has_no_rate() -> None:
    found = fit_trend(_series(np.linspace(1.0, 0.2, 80), span_h=23.0))
    assert found.rate is None
    assert "found 80 over 23" in str(found.reason)


def test_healthy_component_is_not_degrading() -> None:
    assert fit_trend(_series(np.full(80, 0.97))).reason in (
        trend.NOT_DEGRADING,
        trend.SIGN_UNCERTAIN,
    )


def test_rising_health_is_not_degrading() -> None:
    assert fit_trend(_series(np.linspace(0.85, 0.95, 80))).reason == trend.NOT_DEGRADING


def test_recorded_maintenance_begins_the_trend_anew() -> None:
    at_us = int(WEARING.time_us_P[50])
    found = fit_trend(WEARING, [at_us])
    assert found.change_point == "maintenance"
    assert found.points == 29
    assert found.since_us is not None
    assert found.since_us > at_us


def test_maintenance_after_the_last_diagnosis_changes_nothing() -> None:
    after_us = int(WEARING.time_us_P[-1]) + HOUR_US
    assert fit_trend(WEARING, [after_us]) == fit_trend(WEARING)


def test_repair_that_nobody_recorded_begins_the_trend_anew() -> None:
    health_P = np.concatenate([np.linspace(1.0, 0.2, 50), np.linspace(1.0, 0.6, 30)])
    found = fit_trend(_series(health_P))
    assert found.change_point == "rise"
    assert found.points == pytest.approx(30, abs=2)


def test_trend_is_carried_to_a_later_window() -> None:
    found = fit_trend(WEARING)
    later = found.at(found.last_h + 50.0, found.level - 0.05)
    assert found.rul_h is not None
    assert later.rul_h is not None
    assert later.rul_h.value == pytest.approx(found.rul_h.value - 50.0)
    assert later.rate == found.rate


def test_remaining_life_ends_at_zero() -> None:
    found = fit_trend(WEARING)
    assert found.at(found.last_h + 1e5, None).rul_h == Estimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize("health", [0.9, 1.0])
def test_window_far_from_the_trend_has_none(health: float) -> None:
    found = fit_trend(WEARING)
    jumped = found.at(found.last_h, health)
    assert jumped.rate is None
    assert jumped.rul_h is None
    assert jumped.reason == trend.JUMPED


def test_narrower_interval_weighs_more() -> None:
    found = merged(Estimate(100.0, 90.0, 110.0), Estimate(200.0, 180.0, 220.0))
    assert found is not None
    assert found.value == pytest.approx(0.8 * 100.0 + 0.2 * 200.0)
    assert found.high - found.low == pytest.approx(2.0 * 80.0**0.5)


def test_one_estimate_stays_as_it_is() -> None:
    one = Estimate(1.0, 0.5, 2.0)
    assert merged(one, None) is one
    assert merged(None, one) is one
    assert merged(None, None) is None
