import numpy as np
import pytest
from scipy.special import expit

from train.linear.first_weights import FEWEST_LABELS, fit_first_weights

RANDOM = np.random.default_rng(0)


def test_weights_of_health_are_found_again() -> None:
    z_WX = RANDOM.normal(size=(4_000, 3))
    true_X = np.array([1.5, 0.0, -0.5])
    health_WP = expit(z_WX @ true_X + 0.7)[:, None].astype(np.float32)
    found = fit_first_weights(z_WX, health_WP, 0.0)
    np.testing.assert_allclose(found.weight_XPC[:, 0, 1], true_X, atol=1e-3)
    assert found.bias_PC[0, 1] == pytest.approx(0.7, abs=1e-3)
    assert not found.weight_XPC[:, 0, [0, 2]].any()


def test_worn_components_can_count_more() -> None:
    z_WX = np.concatenate([np.zeros((90, 1)), np.ones((10, 1))])
    health_WP = np.where(np.arange(100) < 98, 1.0, 0.2)[:, None].astype(np.float32)
    plain, emphasised = (fit_first_weights(z_WX, health_WP, 1e-4, worn) for worn in (0.0, 4.0))
    said, louder = (
        float(expit(each.weight_XPC[0, 0, 1] + each.bias_PC[0, 1])) for each in (plain, emphasised)
    )
    assert said == pytest.approx(0.84, abs=0.02), "the mean of the windows that look alike"
    assert louder == pytest.approx((8 * 1.0 + 10 * 0.2) / 18, abs=0.03)


def test_a_penalty_shrinks_the_weights() -> None:
    z_WX = RANDOM.normal(size=(200, 2))
    health_WP = expit(2.0 * z_WX[:, :1]).astype(np.float32)
    free, bound = (fit_first_weights(z_WX, health_WP, penalty).weight_XPC for penalty in (0.0, 0.1))
    assert 0 < bound[0, 0, 1] < 0.6 * free[0, 0, 1]


def test_a_component_with_few_labels_has_no_weights() -> None:
    z_WX = RANDOM.normal(size=(100, 2))
    health_WP = np.full((100, 1), np.nan, np.float32)
    health_WP[: FEWEST_LABELS - 1] = 0.5
    found = fit_first_weights(z_WX, health_WP, 0.0)
    assert not found.weight_XPC.any()
    assert not found.bias_PC.any()
