"""Predictions equal those of serving, whatever the order and the batches."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import plan_features
from app.model.grades import ordinal_probability
from app.model.graph import GraphGroup, build_topology
from tests.small import graded_windows, small
from train.evaluation.predict import Predictions, join, predict


def same(found: Predictions, expected: Predictions) -> None:
    for each in fields(Predictions):
        np.testing.assert_allclose(
            getattr(found, each.name), getattr(expected, each.name), rtol=1e-5, atol=1e-6
        )


def test_predictions_are_those_of_the_network_that_serves(tmp_path: Path) -> None:
    windows, machine = graded_windows(tmp_path), small()
    chosen_W = np.array([3, 11, 40])
    predictions = predict(machine.model, machine.spec, windows, chosen_W)
    features = batch_features(
        windows.values(chosen_W), plan_features(machine.equipment, machine.spec)
    )
    topology = build_topology(machine.equipment, machine.spec)
    group = GraphGroup(topology, features.x_WSTF, features.mask_WST)
    (served,) = machine.model.predictor().predict([group])
    for predicted_WV, served_WV in (
        (predictions.health_WV, served.health_WV),
        (predictions.spread_WV, served.spread_WV),
        (predictions.rate_WV, served.rate_WV),
        (predictions.rul_WV, served.rul_WV),
        (predictions.rul_spread_WV, served.rul_spread_WV),
    ):
        np.testing.assert_allclose(predicted_WV, served_WV, rtol=1e-5)
    own_WK = ordinal_probability(predictions.logit_WMVJ[:, :, 0], 1.0)
    np.testing.assert_allclose(own_WK, served.probability_WVK[:, 0], atol=1e-6)
    np.testing.assert_array_equal(predictions.exceedance_WS, features.exceedance_WS)


def test_order_and_batches_change_nothing(tmp_path: Path) -> None:
    windows, machine = graded_windows(tmp_path), small()
    whole = predict(machine.model, machine.spec, windows, np.arange(60))
    order_W = np.array([59, 0, 7, 7, 30])
    same(predict(machine.model, machine.spec, windows, order_W, size=2), whole.only(order_W))


def test_bins_are_disturbed_before_features_are_made(tmp_path: Path) -> None:
    windows, machine = graded_windows(tmp_path), small()

    def silence(values_NSB: Floats) -> Floats:
        return np.where(np.arange(4)[:, None] == 1, np.float32(np.nan), values_NSB)

    predictions = predict(machine.model, machine.spec, windows, np.arange(5), silence)
    assert np.isnan(predictions.exceedance_WS[:, 1]).all()
    assert np.isfinite(predictions.exceedance_WS[:, 0]).all()
    assert (
        predictions.health_WV
        != predict(machine.model, machine.spec, windows, np.arange(5)).health_WV
    ).any()


def test_no_window_gives_no_prediction(tmp_path: Path) -> None:
    machine = small()
    predictions = predict(
        machine.model, machine.spec, graded_windows(tmp_path), np.array([], np.int64)
    )
    assert len(predictions) == 0
    assert len(join([predictions, predictions])) == 0
    assert predictions.exceedance_WS.shape == (0, 4)


def test_network_is_left_in_evaluation_mode(tmp_path: Path) -> None:
    machine = small()
    machine.model.ensemble.train()
    predict(machine.model, machine.spec, graded_windows(tmp_path), np.arange(2))
    assert not machine.model.ensemble.training


@pytest.mark.parametrize("members", [1, 3])
def test_logits_have_a_row_for_each_member(tmp_path: Path, members: int) -> None:
    machine = small(members)
    predictions = predict(machine.model, machine.spec, graded_windows(tmp_path), np.arange(4))
    assert predictions.logit_WMVJ.shape == (4, members, 3, 2)
    assert np.isneginf(predictions.logit_WMVJ[:, :, 1, 1]).all()  # the valve has two grades
