"""Trends of a machine as of any window: operating hours, versions, maintenance."""

import numpy as np
import pytest

from app.diagnosis.machine_trends import MachineTrends, OperatingHours
from app.store.history import HealthHistory, HealthSample

HOUR_US = 3_600_000_000
START_US = 1_700_000_000_000_000


def _history(
    count: int = 80,
    step_h: float = 10.0,
    versions: tuple[str, ...] = ("1",),
    bias: tuple[float, ...] = (0.0,),
    **changes: object,
) -> HealthHistory:
    """Return the history of a pump that fails after 1,000 hours, and of a healthy valve."""
    noise_P = 0.03 * np.random.default_rng(0).standard_normal(count)
    samples = []
    for number in range(count):
        part = number * len(versions) // count
        worn = number * step_h / 1_000.0
        health = {
            "pump": float(np.clip(1.0 - worn + bias[part] + noise_P[number], 0.0, 1.0)),
            "valve": float(0.95 + noise_P[-number - 1]),
        }
        time_us = START_US + round(number * step_h * HOUR_US)
        samples.append(HealthSample(time_us, versions[part], health))
    found = HealthHistory(
        samples=samples,
        first_us=samples[0].time_us,
        last_us=samples[-1].time_us,
        has_readings=(True,) * 50,
    )
    return found._replace(**changes)  # type: ignore[arg-type]


def test_wearing_component_has_a_rate_and_the_healthy_one_has_not() -> None:
    history = _history()
    found = MachineTrends(history).before(history.last_us + 1)
    assert found.hours == "readings"
    pump, valve = found.of["pump"], found.of["valve"]
    assert pump.rate is not None
    assert pump.rate.value == pytest.approx(1.0, rel=0.2)
    assert valve.rate is None
    assert valve.reason is not None


def test_only_earlier_windows_count() -> None:
    history = _history()
    trends = MachineTrends(history)
    end_us = history.samples[40].time_us
    assert trends.before(end_us).of["pump"].points == 40
    assert trends.before(end_us + 1).of["pump"].points == 41
    assert trends.is_fitted(end_us)
    assert not trends.is_fitted(history.last_us)


def test_half_of_the_hours_with_readings_make_wear_twice_as_fast() -> None:
    history = _history(has_readings=(True, False) * 25)
    pump = MachineTrends(history).before(history.last_us + 1).of["pump"]
    assert pump.rate is not None
    assert pump.rate.value == pytest.approx(2.0, rel=0.2)


def test_counter_read_twice_gives_the_operating_hours() -> None:
    history = _history()
    counters = [(history.first_us, 5_000.0), (history.last_us, 5_079.0)]
    found = MachineTrends(history._replace(counters=counters)).before(history.last_us + 1)
    assert found.hours == "counter"
    assert found.of["pump"].rate is not None
    assert found.of["pump"].rate.value == pytest.approx(10.0, rel=0.2)
    assert found.of["pump"].last_h - found.of["pump"].first_h == pytest.approx(79.0)


def test_hours_go_on_beyond_the_counter_at_its_mean_rate() -> None:
    counters = [(START_US, 100.0), (START_US + 10 * HOUR_US, 105.0)]
    hours = OperatingHours(HealthHistory(counters=counters))
    at_us = np.array([START_US - 2 * HOUR_US, START_US + 5 * HOUR_US, START_US + 20 * HOUR_US])
    assert hours.at(at_us).tolist() == pytest.approx([-1.0, 2.5, 10.0])


def test_new_counter_that_begins_at_zero_does_not_turn_hours_back() -> None:
    counters = [(START_US + n * HOUR_US, value) for n, value in enumerate((500.0, 501.0, 0.0, 1.0))]
    hours = OperatingHours(HealthHistory(counters=counters))
    at_us = np.array([each for each, _ in counters])
    assert hours.at(at_us).tolist() == [0.0, 1.0, 1.0, 2.0]


def test_machine_without_any_operation_in_between_has_finite_hours() -> None:
    hours = OperatingHours(HealthHistory(first_us=START_US, last_us=START_US + HOUR_US))
    assert np.isfinite(hours.at(np.array([START_US - HOUR_US, START_US + 9 * HOUR_US]))).all()
    counters = [(START_US, 100.0), (START_US + 1, 100.0)]
    same = OperatingHours(HealthHistory(counters=counters))
    assert same.at(np.array([START_US + HOUR_US])).tolist() == [0.0]


def test_change_of_version_keeps_the_trend() -> None:
    steady = _history(versions=("1", "2"), bias=(0.0, 0.08))
    pump = MachineTrends(steady).before(steady.last_us + 1).of["pump"]
    assert pump.points == 80
    assert pump.rate is not None
    assert pump.rate.value == pytest.approx(1.0, rel=0.25)


@pytest.mark.parametrize(("component_id", "points"), [("", 29), ("pump", 29), ("valve", 80)])
def test_maintenance_begins_the_trend_of_its_component_anew(component_id: str, points: int) -> None:
    history = _history()
    at_us = history.samples[50].time_us
    trends = MachineTrends(history._replace(maintenance=[(at_us, component_id)]))
    assert trends.before(history.last_us + 1).of["pump"].points == points
    # a window before the maintenance does not know of it
    assert trends.before(at_us).of["pump"].points == 50


def test_machine_without_diagnoses_has_no_trends() -> None:
    assert MachineTrends(HealthHistory()).before(START_US).of == {}
