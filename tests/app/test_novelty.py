"""How far windows leave what training saw."""

import numpy as np

from app.features import window_features
from app.novelty import leaves_range, novelty_health, window_excess
from tests.small import small, wave
from train.reference import fit_limits


def test_training_windows_have_no_fault_and_no_excess() -> None:
    made = small()
    for values_SN in wave(40, 4):
        features = window_features(values_SN, made.equipment, made.spec)
        assert features.faulty == ()
        assert window_excess(features.excess_S) < 1e-5


def test_window_that_starts_in_mid_cycle_leaves_the_range() -> None:
    made = small()
    held_out = [window_features(each, made.equipment, made.spec).excess_S for each in wave(40, 4, seed=1)]
    limits = fit_limits(np.array(held_out), made.equipment)
    spec = made.spec.model_copy(update={"limits": {"press": limits}})
    right = window_features(wave(1, 4, seed=2)[0], made.equipment, spec)
    late = window_features(np.roll(wave(1, 4, seed=2)[0], 6, axis=1), made.equipment, spec)
    assert not leaves_range(right.excess_S, made.equipment, spec)
    assert leaves_range(late.excess_S, made.equipment, spec)
    assert not leaves_range(late.excess_S, made.equipment, made.spec)  # without limits nothing is refused


def test_health_by_novelty_is_that_of_the_worst_sensor() -> None:
    made = small()
    limits = fit_limits(np.full((5, 4), 0.2, np.float32), made.equipment)
    spec = made.spec.model_copy(update={"limits": {"press": limits}})
    health_V = novelty_health(np.array([0.1, 0.6, 0.2, np.nan], np.float32), made.equipment, spec)
    np.testing.assert_allclose(health_V, [0.5, 1.0, np.nan], rtol=1e-5)
    assert np.isnan(novelty_health(np.zeros(4, np.float32), made.equipment, made.spec)).all()
