import numpy as np
import pytest
from scipy.special import expit

from train.linear.first_weights import FEWEST_LABELS, fit_first_weights

RANDOM = np.random.default_rng(0)


def test_weights_of_health_are_found_again() -> None:
    z_WX = RANDOM.normal(size=(4_000, 3))
    true_X = np.array([1.5, 0.0, -0.5])
    health_WP = expit(z_WX @ true_X + 0.7)[:, None].astype(np.float32)
    found = fit_first_weights(z_WX, health_WP, np.full_like(health_WP, np.nan), 0.0)
    np.testing.assert_allclose(found.weight_XPC[:, 0, 1], true_X, atol=1e-3)
    assert found.bias_PC[0, 1] == pytest.approx(0.7, abs=1e-3)
    assert not found.weight_XPC[:, 0, [0, 2]].any()


def test_weights_of_remaining_life_pass_a_softplus() -> None:
    z_WX = RANDOM.normal(size=(4_000, 2))
    rul_WP = np.logaddexp(0.0, z_WX @ [0.8, -0.3] + 0.5)[:, None].astype(np.float32)
    found = fit_first_weights(z_WX, np.full_like(rul_WP, np.nan), rul_WP, 0.0)
    np.testing.assert_allclose(found.weight_XPC[:, 0, 2], [0.8, -0.3], atol=1e-3)
    assert found.bias_PC[0, 2] == pytest.approx(0.5, abs=1e-3)


def test_a_penalty_shrinks_the_weights() -> None:
    z_WX = RANDOM.normal(size=(200, 2))
    health_WP = expit(2.0 * z_WX[:, :1]).astype(np.float32)
    nothing_WP = np.full_like(health_WP, np.nan)
    free, bound = (
        fit_first_weights(z_WX, health_WP, nothing_WP, penalty).weight_XPC for penalty in (0.0, 0.1)
    )
    assert 0 < bound[0, 0, 1] < 0.6 * free[0, 0, 1]


def test_a_component_with_few_labels_has_no_weights() -> None:
    z_WX = RANDOM.normal(size=(100, 2))
    health_WP = np.full((100, 1), np.nan, np.float32)
    health_WP[: FEWEST_LABELS - 1] = 0.5
    found = fit_first_weights(z_WX, health_WP, np.full_like(health_WP, np.nan), 0.0)
    assert not found.weight_XPC.any()
    assert not found.bias_PC.any()
