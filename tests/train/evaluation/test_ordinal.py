"""The linear classifier of grades: ordinal score and discriminant."""

import numpy as np

from app.features.binning import Doubles
from train.data.labels import Integers
from train.evaluation.ordinal import OrdinalClassifier, fit_ordinal, measure

HEALTH_K = np.array([1.0, 0.7, 0.35, 0.1])


def graded(windows: int, seed: int = 0) -> tuple[Doubles, Integers, Integers]:
    """Return inputs: the first falls with the grade, the second is the group's, then noise."""
    generator = np.random.default_rng(seed)
    group_W = np.arange(windows) % 12
    grade_W = group_W % 4
    x_WL = generator.normal(size=(windows, 6))
    x_WL[:, 0] += 8.0 * HEALTH_K[grade_W]
    x_WL[:, 1] += 5.0 * generator.normal(size=12)[group_W]
    return x_WL, grade_W, group_W


def of_all(
    x_WL: Doubles, grade_W: Integers, group_W: Integers, health_K: Doubles = HEALTH_K
) -> OrdinalClassifier:
    """Return the classifier of all inputs."""
    return fit_ordinal(measure(x_WL, grade_W, group_W, health_K), np.ones(x_WL.shape[1], np.bool_))


def test_grades_are_classified_in_order() -> None:
    x_WL, grade_W, group_W = graded(240)
    reading = of_all(x_WL, grade_W, group_W)
    logit_WK = x_WL @ reading.weight_LK + reading.bias_K
    assert reading.grade_K.tolist() == [0, 1, 2, 3]
    assert (logit_WK.argmax(1) == grade_W).mean() > 0.8
    assert (np.abs(logit_WK.argmax(1) - grade_W) <= 1).all()


def test_inputs_that_differ_between_groups_have_little_weight() -> None:
    x_WL, grade_W, group_W = graded(240)
    reading = of_all(x_WL, grade_W, group_W)
    of_grade, of_group = np.abs(reading.weight_LK[:2, 0])
    assert of_group < 0.05 * of_grade


def test_two_grades_on_one_input_are_separated_in_the_middle() -> None:
    x_WL = np.array([[0.0], [2.0], [6.0], [8.0]])
    reading = of_all(x_WL, np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1]), np.array([1.0, 0.2]))
    middle_K = np.array([[4.0]]) @ reading.weight_LK + reading.bias_K
    assert np.isclose(middle_K[0, 0], middle_K[0, 1])
    # means 1 and 7, variance 1 within grades: discriminant and score each add 6 to the log odds
    np.testing.assert_allclose(reading.weight_LK[0, 0] - reading.weight_LK[0, 1], 12.0, rtol=1e-9)


def test_grade_that_never_occurred_is_left_out() -> None:
    x_WL, grade_W, group_W = graded(240)
    chosen_W = grade_W != 2
    reading = of_all(x_WL[chosen_W], grade_W[chosen_W], group_W[chosen_W])
    assert reading.grade_K.tolist() == [0, 1, 3]
    assert reading.weight_LK.shape == (6, 3)


def test_order_of_the_windows_does_not_matter() -> None:
    x_WL, grade_W, group_W = graded(60)
    order_W = np.random.default_rng(1).permutation(60)
    first = of_all(x_WL, grade_W, group_W)
    second = of_all(x_WL[order_W], grade_W[order_W], group_W[order_W])
    np.testing.assert_allclose(second.weight_LK, first.weight_LK, rtol=1e-6)


def test_constant_inputs_have_no_weight() -> None:
    x_WL, grade_W, group_W = graded(60)
    x_WL[:, 4] = 3.0
    assert np.allclose(of_all(x_WL, grade_W, group_W).weight_LK[4], 0.0)


def test_classifier_of_some_inputs_equals_a_fit_without_the_others() -> None:
    x_WL, grade_W, group_W = graded(240)
    is_read_L = np.array([True, True, False, True, False, True])
    found = fit_ordinal(measure(x_WL, grade_W, group_W, HEALTH_K), is_read_L)
    expected = of_all(x_WL[:, is_read_L], grade_W, group_W)
    np.testing.assert_allclose(found.weight_LK[is_read_L], expected.weight_LK, rtol=1e-9)
    np.testing.assert_allclose(found.bias_K, expected.bias_K, rtol=1e-9)
    assert not found.weight_LK[~is_read_L].any()
