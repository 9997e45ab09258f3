"""Probabilities of grades: numpy against PyTorch, values by hand, and the health they imply."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.model.grades import (
    health_of_grades,
    joined_probability,
    linear_probability,
    ordinal_probability,
)
from app.model.layers import grade_probability
from app.model.linear_classifier import LinearClassifier
from app.model.network import GraphTensors
from app.model.runtime.gate import warm_up_group
from tests.graphs import predict, untrained
from tests.small import small

NAN = float("nan")


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_ordinal_probabilities_in_numpy_are_those_in_torch(temperature: float) -> None:
    logit_WMJ = np.random.default_rng(7).normal(0.0, 5.0, (50, 2, 3)).astype(np.float32)
    logit_WMJ[..., ::-1].sort(-1)
    logit_WMJ[25:, :, 2] = -np.inf  # of a set with three grades
    worse_WJ = torch.sigmoid(torch.from_numpy(logit_WMJ) / temperature).mean(1)
    expected_WK = grade_probability(worse_WJ).numpy()
    np.testing.assert_allclose(ordinal_probability(logit_WMJ, temperature), expected_WK, atol=2e-7)


def test_network_states_the_probabilities_of_its_scores_and_thresholds() -> None:
    made = small(members=2)
    ensemble, group = made.model.ensemble, warm_up_group(made.config, 5)
    ensemble.temperature_G.copy_(torch.linspace(0.5, 2.0, made.config.sets))
    with torch.inference_mode():
        heads = ensemble(GraphTensors.of_group(group))
        found_WVK = ensemble.estimate(GraphTensors.of_group(group)).probability_WVK.numpy()
    logit_MVWJ = (heads.score_VW[..., None] - heads.threshold_VJ[:, :, None]).numpy()
    temperature_V = ensemble.temperature_G.numpy()[group.topology.grade_set_V.clip(0)]
    for v, temperature in enumerate(temperature_V.tolist()):
        expected_WK = ordinal_probability(logit_MVWJ[:, v].swapaxes(0, 1), temperature)
        np.testing.assert_allclose(found_WVK[:, v], expected_WK, atol=2e-7)


def test_ordinal_probability_is_the_mean_over_the_members() -> None:
    logit_WMJ = np.array([[[2.0, -np.inf], [-2.0, -np.inf]]], np.float32)
    np.testing.assert_allclose(ordinal_probability(logit_WMJ, 1.0), [[0.5, 0.5, 0.0]], atol=1e-7)


def test_linear_classifier_is_joined_where_it_has_an_output() -> None:
    logit_WK = np.log(np.array([[0.9, 0.1], [NAN, NAN]]))
    linear_WK = linear_probability(logit_WK, 1.0)
    np.testing.assert_allclose(linear_WK[0], [0.9, 0.1])
    np.testing.assert_allclose(linear_probability(logit_WK, 2.0)[0], [0.75, 0.25])
    by_row_WK = linear_probability(np.repeat(logit_WK[:1], 2, 0), [[1.0], [2.0]])
    np.testing.assert_allclose(by_row_WK, [[0.9, 0.1], [0.75, 0.25]])
    network_WK = np.array([[0.4, 0.6], [0.4, 0.6]])
    np.testing.assert_allclose(
        joined_probability(network_WK, linear_WK, 0.5), [[0.65, 0.35], [0.4, 0.6]]
    )


def test_predictor_joins_by_the_same_formula() -> None:
    made = small()
    config = replace(made.config, linear_weight=0.25, linear_steps=4, linear_sensors=2)
    tables = LinearClassifier.of_arrays(config, untrained(config).classifier.arrays()).tables
    generator = np.random.default_rng(1)
    fitted = tables._replace(
        weight_GAQTFK=generator.normal(size=tables.weight_GAQTFK.shape).astype(np.float32),
        bias_GAK=np.zeros_like(tables.bias_GAK),
        place_GR=np.arange(config.references) % 3 - 1 + 0 * tables.place_GR,
        temperature_G=np.linspace(0.5, 2.0, config.sets, dtype=np.float32),
    )
    classifier, group = LinearClassifier(fitted), warm_up_group(config, 8)
    model = made.model._replace(classifier=None)
    model.ensemble.config = config
    network_WVK = predict(model, group).probability_WVK
    found_WVK = predict(model._replace(classifier=classifier), group).probability_WVK
    linear_WVK = classifier.probability(group)
    expected_WVK = joined_probability(network_WVK, linear_WVK, 0.25)
    assert np.isfinite(linear_WVK).any()
    assert found_WVK.dtype == np.float32
    np.testing.assert_allclose(found_WVK, expected_WVK, atol=1e-7)


def test_health_of_grades_by_hand() -> None:
    probability_WK = np.array([[0.04, 0.96, 0.0], [0.5, 0.5, 0.0], [0.5, NAN, 0.5]])
    mean_W, spread_W = health_of_grades(probability_WK, (1.0, 0.5, 0.1))
    np.testing.assert_allclose(mean_W, [0.52, 0.75, NAN])
    np.testing.assert_allclose(spread_W, [0.5 * (0.04 * 0.96) ** 0.5, 0.25, NAN])
