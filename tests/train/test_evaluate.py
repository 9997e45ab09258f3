"""Figures against values worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from app.bins import Floats
from tests.small import graded, press, wave
from train.config import TrainConfig
from train.dataset import WindowSet, make_window_set
from train.evaluate import (
    HeldOut,
    Temperatures,
    baselines,
    calibrate,
    cross_calibrated,
    fit_temperatures,
    grade_probability,
    score_components,
    score_grades,
)

CONFIG = TrainConfig(equipment="press-1", folds=2)


def windows(repeats: int = 10) -> WindowSet:
    """Return windows whose sensors shift with the grades: six configurations, each `repeats` times, one of them warming up."""
    grades = [(pump, valve, -1) for pump in range(3) for valve in range(2)]
    grade_WV = np.repeat(np.array(grades, np.int64), repeats, axis=0)
    values_WSN = wave(len(grade_WV), 4)
    values_WSN[:, 0] += 5.0 * grade_WV[:, :1]
    values_WSN[:, 2] += 5.0 * grade_WV[:, 1:2]
    stable_W = np.ones(len(grade_WV), np.bool_)
    stable_W[:8] = False
    return make_window_set(
        press(), values_WSN, graded(grade_WV, stable_W), CONFIG.model_copy(update={"warm_up_run": 8})
    )


def test_macro_f1_by_hand() -> None:
    # grade 0: 1 of 2 found, none wrongly: 2/3; grade 1: 1 of 1 found, one wrongly: 2/3; grade 2 never occurs
    found = score_grades(np.array([0, 0, 1]), np.array([0, 1, 1]))
    assert found.macro_f1 == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.windows == 3


def test_warm_up_is_scored_apart() -> None:
    given = windows()
    predicted_WV = given.labels.grade_WV.copy()
    predicted_WV[given.warm_up_W, 0] = 2
    scores = score_components(predicted_WV, given, 2)
    assert set(scores) == {"pump", "valve"}
    assert scores["pump"].pooled.macro_f1 == 1.0
    assert scores["pump"].pooled.windows == 52
    assert scores["pump"].warm_up is not None
    assert (scores["pump"].warm_up.windows, scores["pump"].warm_up.accuracy) == (8, 0.0)
    assert sum(fold.windows for fold in scores["pump"].folds) == 52


def said(logit_WMVJ: Floats, opinion_WVK: Floats | None = None) -> HeldOut:
    """Return held-out answers, without a second opinion unless one is given."""
    W, _, V, J = logit_WMVJ.shape
    none_WVK = np.full((W, V, J + 1), np.nan, np.float32)
    return HeldOut(logit_WMVJ, none_WVK if opinion_WVK is None else opinion_WVK, np.zeros((W, 4), np.float32))


def test_second_opinion_is_joined_where_there_is_one() -> None:
    logit_WMVJ = np.array([[[[2.0]]], [[[2.0]]]], np.float32)
    opinion_WVK = np.log(np.array([[[0.9, 0.1]], [[np.nan, np.nan]]], np.float32))
    own = 1 / (1 + np.exp(-2.0))
    joined_WK = said(logit_WMVJ, opinion_WVK).joined(0, Temperatures(1.0, 1.0), 0.5)
    np.testing.assert_allclose(joined_WK, [[(1 - own + 0.9) / 2, (own + 0.1) / 2], [1 - own, own]], atol=1e-6)
    np.testing.assert_allclose(said(logit_WMVJ, opinion_WVK).network(0, 1.0)[0], [1 - own, own], atol=1e-6)


def test_probability_is_the_mean_over_the_members() -> None:
    logit_WMJ = np.array([[[2.0, -np.inf], [-2.0, -np.inf]]], np.float32)
    np.testing.assert_allclose(grade_probability(logit_WMJ, 1.0), [[0.5, 0.5, 0.0]], atol=1e-7)


def test_temperature_finds_the_overstatement() -> None:
    generator = np.random.default_rng(0)
    logit_WMJ = generator.normal(0, 2, (4000, 1, 1)).astype(np.float32)
    true_W = (generator.random(4000) < 1 / (1 + np.exp(-logit_WMJ[:, 0, 0]))).astype(np.int64)
    assert fit_temperatures(said(2.5 * logit_WMJ[:, :, None]), 0, true_W).network == pytest.approx(2.5, rel=0.15)
    opinion_WVK = np.stack((np.zeros_like(logit_WMJ[:, 0]), 5.0 * logit_WMJ[:, 0]), -1)
    found = fit_temperatures(said(logit_WMJ[:, :, None], opinion_WVK), 0, true_W)
    assert found == pytest.approx((1.0, 5.0), rel=0.15)


def test_calibration_covers_what_it_states() -> None:
    given = windows(40)
    generator = np.random.default_rng(1)
    logit_WMVJ = np.full((len(given.labels), 1, 3, 2), -np.inf, np.float32)
    for component, grades in ((0, 3), (1, 2)):
        for cut in range(grades - 1):
            above_W = np.where(given.labels.grade_WV[:, component] > cut, 3.0, -3.0)
            logit_WMVJ[:, 0, component, cut] = above_W + generator.normal(0, 1.5, len(given.labels)) - 0.5 * cut
    joined_WVK, alone_WVK = cross_calibrated(said(logit_WMVJ), given, CONFIG)
    np.testing.assert_array_equal(joined_WVK, alone_WVK)
    found = calibrate(said(logit_WMVJ), joined_WVK, given, CONFIG)
    assert set(found) == {"pump", "valve"}
    assert found["pump"].interval_coverage >= 0.9
    assert found["valve"].nll_calibrated < np.log(2)


def test_discriminants_tell_what_is_linear_from_the_sensors_in_reach() -> None:
    # Without connections each reads its component's sensors alone; three configurations would not part pump from valve.
    given = replace(windows(), equipment=press().model_copy(update={"connections": ()}))
    found = baselines(given, CONFIG)
    for name in ("step statistics", "window statistics"):
        assert score_components(found[name], given, 2)["pump"].pooled.macro_f1 > 0.9


def test_folds_do_not_share_a_configuration() -> None:
    given = windows()
    assert not set(given.configuration_W[given.fold_W == 0]) & set(given.configuration_W[given.fold_W == 1])
    assert int(given.warm_up_W.sum()) == 8
    assert replace(given).equipment is given.equipment
