"""Wear of the components: growth, health, RUL, repair, injected faults."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import ReadingError
from app.demo.simulation.circuit import Mode
from app.demo.simulation.wear import Repair, Trajectory, WearPlan, draw_plan, healthy_plan

MODES = (
    Mode("pump", "leakage", 1_000.0),
    Mode("pump", "bearing_wear", 2_000.0),
    Mode("valve", "stiction", 500.0),
)


def test_severity_health_rate_and_rul_belong_to_one_trajectory():
    plan = WearPlan(MODES, (Trajectory(0, 100.0, 400.0, 2.0, 450.0),))
    truth = plan.condition("pump", 300.0)
    assert truth.health == pytest.approx(1 - (200 / 400) ** 2)
    assert truth.degradation_rate == pytest.approx(1_000 * 2 * 200 / 400**2)
    assert truth.rul_h == 200.0
    assert truth.fault == "leakage"
    assert plan.severities(300.0).tolist() == [0.25, 0.0, 0.0]


def test_a_repaired_component_is_as_new():
    plan = WearPlan(MODES, (Trajectory(0, 0.0, 400.0, 1.0, 300.0),))
    assert plan.condition("pump", 299.0).health == pytest.approx(1 - 299 / 400)
    assert plan.condition("pump", 300.0).health == 1.0


def test_the_worst_of_two_faults_is_the_health_and_the_first_failure_the_rul():
    plan = WearPlan(MODES, (Trajectory(0, 0.0, 100.0, 1.0), Trajectory(1, 50.0, 40.0, 1.0)))
    truth = plan.condition("pump", 60.0)
    assert (truth.fault, truth.health, truth.rul_h) == ("leakage", 0.4, 30.0)


@given(st.integers(0, 10_000), st.floats(10, 20_000))
def test_drawn_wear_is_the_same_for_a_seed_and_health_stays_in_its_range(seed, hours):
    plan = draw_plan(MODES, hours, 2.0, np.random.default_rng(seed))
    assert plan == draw_plan(MODES, hours, 2.0, np.random.default_rng(seed))
    for hour in np.linspace(0, hours, 7):
        for component in ("pump", "valve"):
            truth = plan.condition(component, float(hour))
            assert 0 <= truth.health <= 1
            assert truth.degradation_rate >= 0
            assert math.isfinite(truth.rul_h)
            assert (truth.fault == "") == (truth.health == 1)


def test_severities_of_worn_components_are_spread_evenly():
    random = np.random.default_rng(0)
    modes = tuple(Mode(f"part-{i}", "wear", 1_000.0) for i in range(10))
    plans = [draw_plan(modes, 1_000.0, 10.0, random) for _ in range(200)]
    found = np.concatenate([plan.severities(500.0) for plan in plans])
    shares, _ = np.histogram(found[found > 0], bins=4, range=(0, 1))
    assert shares.min() > 0.12 * shares.sum()


def test_an_injected_fault_reaches_its_severity_after_its_hours():
    plan = healthy_plan(MODES, 1_000.0).injected("stiction", 0.8, 10.0, 4.0)
    assert plan.severities(14.0)[2] == pytest.approx(0.8)
    assert plan.condition("valve", 12.0).health == pytest.approx(0.6)


def test_an_injected_fault_takes_the_place_of_later_repairs_of_its_component():
    repairs = (Repair("valve", 5.0), Repair("valve", 50.0), Repair("pump", 60.0))
    plan = WearPlan(MODES, (), repairs).injected("stiction", 0.8, 10.0, 4.0)
    assert plan.repairs == (repairs[0], repairs[2])


@pytest.mark.parametrize(
    ("name", "severity", "over_h", "message"),
    [
        ("rust", 0.5, 1.0, "name one of pump.leakage, pump.bearing_wear, valve.stiction"),
        ("leakage", 1.5, 1.0, "expected a severity above 0 and at most 1, found 1.5"),
        ("leakage", 0.5, 0.0, "expected hours above 0, found 0"),
    ],
)
def test_an_impossible_injection_is_refused(name, severity, over_h, message):
    with pytest.raises(ReadingError, match=message):
        healthy_plan(MODES, 1.0).injected(name, severity, 0.0, over_h)
