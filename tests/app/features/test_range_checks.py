"""How far windows leave the range of the training windows."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.features.binning import Floats
from app.features.range_checks import (
    leaves_range,
    plan_range_novelty,
    range_exceedance,
    range_novelty,
    window_exceedance,
)
from app.features.spec import plan_features
from tests.features import window_features
from tests.small import Small, small, wave
from train.data.reference import fit_limits


@cache
def fitted() -> Small:
    """Return the machine with its spec, fitted once for all examples."""
    return small()


def test_training_windows_have_no_fault_and_no_range_exceedance() -> None:
    made = small()
    for values_SN in wave(40, 4):
        features = window_features(values_SN, made.equipment, made.spec)
        assert features.faulty == ()
        assert window_exceedance(features.exceedance_S) < 1e-5


def test_window_that_starts_in_mid_cycle_leaves_the_range() -> None:
    made = small()
    holdout = [
        window_features(each, made.equipment, made.spec).exceedance_S
        for each in wave(40, 4, seed=1)
    ]
    limits = fit_limits(np.array(holdout), made.equipment)
    spec = made.spec.model_copy(update={"limits": {"press": limits}})
    right = window_features(wave(1, 4, seed=2)[0], made.equipment, spec)
    late = window_features(np.roll(wave(1, 4, seed=2)[0], 6, axis=1), made.equipment, spec)
    assert not leaves_range(right.exceedance_S, made.equipment, spec)
    assert leaves_range(late.exceedance_S, made.equipment, spec)
    assert not leaves_range(
        late.exceedance_S, made.equipment, made.spec
    )  # without limits every window is in range


def test_health_by_range_novelty_is_that_of_the_worst_sensor() -> None:
    made = small()
    limits = fit_limits(np.full((5, 4), 0.2, np.float32), made.equipment)
    spec = made.spec.model_copy(update={"limits": {"press": limits}})
    exceedance_WS = np.array([[0.1, 0.6, 0.2, np.nan], [0.6, 0.6, 1.0, 0.0]], np.float32)
    health_WV, without_WS = range_novelty(exceedance_WS, plan_range_novelty(made.equipment, spec))
    np.testing.assert_allclose(health_WV, [[0.5, 1.0, np.nan], [0.5, 0.0, 1.0]], rtol=1e-5)
    # the pump has two sensors, the others one; of two equally bad ones neither decides
    np.testing.assert_allclose(
        without_WS, [[0.5, 1.0, np.nan, np.nan], [0.5, 0.5, np.nan, np.nan]], rtol=1e-5
    )
    unlimited = range_novelty(
        np.zeros((1, 4), np.float32), plan_range_novelty(made.equipment, made.spec)
    )
    assert np.isnan(unlimited.health_WV).all()
    assert np.isnan(unlimited.without_WS).all()


@given(arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32) | st.just(np.nan)))
def test_health_without_a_sensor_equals_health_of_a_window_that_lacks_it(
    exceedance_WS: Floats,
) -> None:
    made = fitted()
    spec = made.spec.model_copy(
        update={"limits": {"press": fit_limits(np.full((5, 4), 0.2), made.equipment)}}
    )
    plan = plan_range_novelty(made.equipment, spec)
    _, without_WS = range_novelty(exceedance_WS, plan)
    for sensor, placed in enumerate(made.equipment.sensors):
        lacking_WS = exceedance_WS.copy()
        lacking_WS[:, sensor] = np.nan
        health_WV, _ = range_novelty(lacking_WS, plan)
        np.testing.assert_array_equal(without_WS[:, sensor], health_WV[:, placed.component_index])


def test_machine_without_sensors_has_no_range_novelty() -> None:
    made = small()
    bare = tuple(each.model_copy(update={"sensors": ()}) for each in made.equipment.components)
    equipment = made.equipment.model_copy(update={"components": bare, "equipment_id": "bare"})
    vars(equipment).pop("sensors", None)
    vars(equipment).pop("sensor_ids", None)
    found = range_novelty(np.empty((2, 0), np.float32), plan_range_novelty(equipment, made.spec))
    assert np.isnan(found.health_WV).all()
    assert found.without_WS.shape == (2, 0)


def test_range_exceedance_has_the_hand_computed_values() -> None:
    made = small()
    plan = plan_features(made.equipment, made.spec)
    reference = made.spec.references["press"]["P1"]
    inside = np.array(reference.low, np.float64)

    def exceedance(raw_TF: Floats) -> float:
        there_T = np.isfinite(raw_TF).all(-1)
        return float(
            range_exceedance(np.tile(raw_TF, (1, 4, 1, 1)), np.tile(there_T, (1, 4, 1)), plan)[0, 0]
        )

    assert exceedance(inside) == 0.0
    # half a spread beyond in one of 12 numbers
    beyond = inside.copy()
    beyond[1, 2] -= 0.5 * reference.spread[1][2]
    assert exceedance(beyond) == pytest.approx(0.5 / 12, rel=1e-6)
    assert exceedance(np.full_like(inside, 1e9)) == 1.0
    assert np.isnan(exceedance(np.full_like(inside, np.nan)))
