"""Baselines of labelled health, and the error with severities spread evenly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.small import graded_windows, small
from train.evaluation.health_baselines import AS_NEW, HEALTH_TREES, health_baselines
from train.evaluation.holdout import predict_holdout
from train.evaluation.scorecard import even_error


def test_severities_count_equally_however_many_they_are() -> None:
    # three windows as new with an error of .1, one of health .5 with .3, one of .05 with .8
    true_X = np.array([1.0, 1.0, 1.0, 0.5, 0.05])
    predicted_X = np.array([0.9, 0.9, 0.9, 0.8, 0.85])
    assert even_error(true_X, predicted_X) == pytest.approx((0.1 + 0.3 + 0.8) / 3)
    assert even_error(np.empty(0), np.empty(0)) is None


def test_trees_learn_the_health_that_readings_show_and_the_rule_says_as_new(
    tmp_path: Path,
) -> None:
    found = graded_windows(tmp_path / "windows")
    # health that follows the first sensor
    values_WSN = found.values(np.arange(len(found)))
    level_W = values_WSN[:, 0].mean(-1)
    rank_W = np.argsort(np.argsort(level_W)) / (len(level_W) - 1)
    health_WV = np.full(found.labels.health_WV.shape, np.nan, np.float32)
    health_WV[:, 0] = rank_W
    labels = replace(
        found.labels, health_WV=health_WV, grade_WV=np.full_like(found.labels.grade_WV, -1)
    )
    windows = replace(found, labels=labels)
    fit = small()
    order_W = np.random.default_rng(0).permutation(len(found))
    train_W, holdout_W = np.sort(order_W[10:]), np.sort(order_W[:10])
    part = predict_holdout(
        fit.model, fit.spec, found, "one", train_W, holdout_W, probes=0, removal_probes=0
    )
    answers = health_baselines(windows, [part], ("mean", "spread"))
    assert set(answers) == {HEALTH_TREES, AS_NEW}
    assert (answers[AS_NEW].health_RV[:, 0] == 1).all()
    assert np.isnan(answers[AS_NEW].health_RV[:, 1:]).all()
    error_R = np.abs(answers[HEALTH_TREES].health_RV[:, 0] - rank_W[holdout_W])
    assert error_R.mean() < 0.2  # of a constant it is .25


def test_graded_components_have_no_health_baseline(tmp_path: Path) -> None:
    found = graded_windows(tmp_path / "windows")
    assert health_baselines(found, [], ("mean",)) == {}
