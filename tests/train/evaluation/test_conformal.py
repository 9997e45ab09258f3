"""Coverage on exchangeable data, and thresholds computed by hand."""

import math

import numpy as np
import pytest

from train.evaluation.conformal import (
    Removal,
    choose_threshold,
    cross_fit,
    fold_of,
    others,
    quantile,
    removal_levels,
    removal_order,
    residuals,
    risk_coverage,
)


def test_quantile_has_the_finite_sample_rank() -> None:
    # ceil(10 * 0.9) = 9 of nine, ceil(20 * 0.9) = 18 of nineteen, the largest of too few
    assert quantile(np.arange(1.0, 10.0), 0.9) == 9.0
    assert quantile(np.arange(1.0, 20.0), 0.9) == 18.0
    assert quantile(np.arange(1.0, 5.0), 0.9) == 4.0


def test_residual_is_in_spreads() -> None:
    given = (
        np.array([1.0, np.nan], np.float32),
        np.array([0.5, 0.5], np.float32),
        np.array([0.25, 1.0], np.float32),
    )
    np.testing.assert_allclose(residuals(*given), [2.0, np.nan])


def test_cross_fitted_intervals_cover_what_they_state_on_exchangeable_data() -> None:
    generator = np.random.default_rng(0)
    spread_W = generator.uniform(0.5, 2.0, 20_000)
    residual_W = np.abs(generator.standard_t(4, 20_000) * spread_W) / (
        3 * spread_W
    )  # the network overstates its spread
    fold_W = generator.integers(0, 5, 20_000)
    reach = cross_fit(residual_W, fold_W, 0.9)
    assert float((residual_W <= reach.of_R).mean()) == pytest.approx(0.9, abs=0.01)
    assert reach.shipped == pytest.approx(
        2.132 / 3, rel=0.05
    )  # the 95 % quantile of t with 4 degrees of freedom


def test_reach_of_a_fold_comes_from_the_others() -> None:
    residual_W = np.concatenate((np.arange(1.0, 10.0), np.arange(11.0, 20.0), [np.nan]))
    fold_W = np.repeat([0, 1], [9, 10])
    reach = cross_fit(residual_W, fold_W, 0.9)
    assert reach.of_R.tolist() == [19.0] * 9 + [9.0] * 10
    assert reach.shipped == 19.0


def test_too_few_residuals_give_the_reach_that_covers_any_distribution() -> None:
    # Chebyshev's inequality covers 0.9 within the square root of 10
    assert cross_fit(np.arange(8.0), np.zeros(8, np.int64), 0.9).shipped == math.sqrt(10)


def test_parts_check_each_other_and_groups_of_a_single_part_do() -> None:
    assert fold_of(np.array([3, 3, 7]), np.array([0, 1, 2])).tolist() == [0, 0, 1]
    assert fold_of(np.zeros(4, np.int64), np.array([5, 6, 6, 9]), folds=2).tolist() == [0, 1, 1, 0]
    assert others(np.zeros(3, np.int64), 0).all()


def removal() -> Removal:
    """Return four windows: three right and one wrong with all sensors.

    Without one sensor they are either sure and right, or unsure and wrong.
    """
    return Removal(
        np.array([[0.9, 0.8, 0.7, 0.6], [0.8, 0.7, 0.5, 0.4]]),
        np.array([[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]]),
    )


def test_threshold_keeps_the_risk_of_what_is_still_answered() -> None:
    # full risk 1/4; at 0.7 half of the second level's answers is wrong, above 0.7 none is
    assert removal().full_risk == 0.25
    assert choose_threshold(removal()) == 0.8


def test_threshold_is_none_where_less_evidence_costs_nothing() -> None:
    same = Removal(np.array([[0.9, 0.8], [0.7, 0.6]]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert choose_threshold(same) == -math.inf


def test_nothing_is_answered_where_the_surest_are_wrong() -> None:
    wrong = Removal(np.array([[0.8, 0.7], [0.9, 0.95]]), np.array([[0.0, 0.0], [1.0, 1.0]]))
    threshold = choose_threshold(wrong)
    assert threshold > 0.95
    assert [each.answered for each in removal_levels(wrong, np.full(2, threshold), (0, 1))] == [
        1.0,
        0.0,
    ]


def test_component_that_no_missing_sensor_affects_is_answered_even_if_unsure() -> None:
    apart = Removal(
        np.array([[0.9, 0.8, 0.7], [0.9, 0.95, math.inf]]),
        np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]),
    )
    threshold = choose_threshold(apart)
    assert 0.95 < threshold < math.inf
    _, second = removal_levels(apart, np.full(3, threshold), (0, 1))
    assert (second.windows, second.risk) == (1, 1.0)


def test_levels_tell_share_and_risk_of_what_is_answered() -> None:
    silent = Removal(np.array([[0.9, 0.8], [-np.inf, 0.6]]), np.array([[0.0, 1.0], [1.0, 1.0]]))
    first, second = removal_levels(silent, np.full(2, -np.inf), (0, 3))
    assert (first.away, first.answered, first.risk, first.windows) == (0, 1.0, 0.5, 2)
    assert (second.away, second.answered, second.risk, second.windows) == (3, 0.5, 1.0, 1)


def test_risk_rises_as_less_sure_answers_join() -> None:
    found = risk_coverage(np.array([0.2, 0.9, 0.5]), np.array([1.0, 0.0, 0.0]))
    assert found == (
        (pytest.approx(1 / 3), 0.0),
        (pytest.approx(2 / 3), 0.0),
        (1.0, pytest.approx(1 / 3)),
    )


def test_sensors_go_in_an_order_of_their_own_for_each_window() -> None:
    rank_WS = removal_order(5, 3, seed=1)
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in rank_WS.tolist())
    assert not (rank_WS[0] == rank_WS[1]).all()
    np.testing.assert_array_equal(rank_WS, removal_order(5, 3, seed=1))
