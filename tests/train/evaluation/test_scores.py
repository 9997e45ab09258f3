"""Figures against values computed by hand."""

import math

import numpy as np
import pytest

from app.model.grades import ordinal_probability
from train.data.labels import HOUR_US
from train.evaluation.scores import (
    confusion,
    covered,
    exact_matches,
    last_half,
    life_runs,
    nll,
    phm08,
    reliability,
    runs,
    score_grades,
    score_life,
    smooth,
)


def test_macro_f1_by_hand() -> None:
    # grade 0: 1 of 2 found, none wrongly: 2/3; grade 1: 1 of 1 found, one wrongly: 2/3; grade 2
    # never occurs
    found = score_grades(np.array([0, 0, 1]), np.array([0, 1, 1]))
    assert found.macro_f1 == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(2 / 3)
    assert (found.within_one, found.windows) == (1.0, 3)


def test_within_one_counts_grades_that_are_two_off_as_wrong() -> None:
    assert score_grades(np.array([0, 0, 2, 3]), np.array([1, 2, 2, 0])).within_one == 0.5


def test_exact_match_wants_every_known_grade_right() -> None:
    true_WV = np.array([[0, 1], [0, -1], [0, 1]])
    predicted_WV = np.array([[0, 1], [0, 1], [0, 0]])
    assert exact_matches(true_WV, predicted_WV).tolist() == [True, True, False]


def test_confusion_has_true_grades_as_rows() -> None:
    assert confusion(np.array([0, 0, 1]), np.array([0, 1, -1]), 2) == ((1, 1), (0, 0))


def test_phm08_charges_late_more_than_early() -> None:
    # 13 cycles early: e - 1; 10 cycles late: e - 1; right: 0
    true_W, predicted_W = np.array([50.0, 50.0, 50.0]), np.array([37.0, 60.0, 50.0])
    assert phm08(true_W, predicted_W) == pytest.approx(2 * (math.e - 1))


def test_remaining_life_is_scored_below_the_cap() -> None:
    true_W, predicted_W = (
        np.array([145.0, 20.0, 10.0], np.float32),
        np.array([130.0, 23.0, 6.0], np.float32),
    )
    found = score_life(
        true_W,
        predicted_W,
        125.0,
        np.array([-1.0, 1.0, -1.0], np.float32),
        np.array([False, True, True]),
    )
    assert found.rmse_h == pytest.approx(math.sqrt((0 + 9 + 16) / 3))
    assert found.bias_h == pytest.approx(-1 / 3)
    assert found.phm08 == pytest.approx(math.expm1(0.3) + math.expm1(4 / 13))
    assert (found.sign_right, found.windows) == (0.5, 3)


def test_last_half_of_life_ends_at_the_failure_and_not_at_the_last_window() -> None:
    # machine 0 is seen for 4 h and fails 4 h later: only its last window is in the second half of
    # these 8 h
    machine_W, start_us_W = np.array([0, 0, 0, 1, 1]), HOUR_US * np.array([0, 2, 4, 0, 9])
    rul_W = np.array([8, 6, 4, 9, 0], np.float32)
    assert last_half(machine_W, start_us_W, rul_W, 20.0).tolist() == [
        False,
        False,
        True,
        False,
        True,
    ]


def test_machine_that_was_repaired_lives_twice() -> None:
    # fails after 3 h, then after 4 h; the window between the two is of no run
    machine_W, start_us_W = np.zeros(8, np.int64), HOUR_US * np.arange(8)
    rul_W = np.array([3, 2, 1, np.nan, 3, 2, 1, 0], np.float32)
    assert [run.tolist() for run in life_runs(machine_W, start_us_W, rul_W)] == [
        [0, 1, 2],
        [4, 5, 6, 7],
    ]
    assert np.flatnonzero(last_half(machine_W, start_us_W, rul_W, 20.0)).tolist() == [2, 6, 7]


def test_life_whose_end_is_beyond_the_cap_has_no_last_half() -> None:
    start_us_W, rul_W = HOUR_US * np.arange(4), np.full(4, 33.3, np.float32)
    assert not last_half(np.zeros(4, np.int64), start_us_W, rul_W, 33.3).any()


def test_runs_break_at_another_condition_machine_or_gap() -> None:
    start_us_W = 10 * np.array([0, 1, 2, 3, 4, 9])
    assert runs(
        np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1]), start_us_W, 10
    ).tolist() == [
        0,
        0,
        1,
        2,
        2,
        3,
    ]


def test_smoothing_looks_back_and_is_reset_where_the_condition_changes() -> None:
    share_WVK = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])[:, None, None]
    found = smooth(share_WVK, np.array([0, 0, 0, 1, 1, 1]), width=2)[:, 0, 0]
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0, 0.0, 0.0, 0.5])
    whole = smooth(share_WVK, np.zeros(6, np.int64), width=5)[:, 0, 0]
    np.testing.assert_allclose(whole, [0, 1 / 2, 2 / 3, 2 / 4, 2 / 5, 3 / 5])


def test_probability_is_the_mean_over_the_members() -> None:
    logit_WMJ = np.array([[[2.0, -np.inf], [-2.0, -np.inf]]], np.float32)
    np.testing.assert_allclose(ordinal_probability(logit_WMJ, 1.0), [[0.5, 0.5, 0.0]], atol=1e-7)


def test_log_loss_by_hand() -> None:
    assert nll(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])) == pytest.approx(
        -math.log(0.5 * 0.75) / 2
    )


def test_interval_is_closed() -> None:
    true_W = np.array([0.1, 0.5, 0.9], np.float64)
    assert covered(true_W, np.array([0.1, 0.6, 0.0]), np.array([0.2, 0.7, 0.9])).tolist() == [
        True,
        False,
        True,
    ]


def test_reliability_fills_bins_equally() -> None:
    found = reliability(np.array([0.9, 0.5, 0.7, 0.6]), np.array([True, False, True, True]), bins=2)
    assert found == ((pytest.approx(0.55), 0.5, 2), (pytest.approx(0.8), 1.0, 2))
