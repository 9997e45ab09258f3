"""Probabilities of grades: numpy against PyTorch, values by hand, and the health they imply."""

import numpy as np
import pytest
import torch

from app.model.grades import (
    health_of_grades,
    ordinal_probability,
)
from app.model.graph import CHANNELS
from app.model.layers import grade_probability
from app.model.network import GraphTensors, SkipTensors
from app.model.runtime.gate import warm_up_group
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
    shape = (group.windows, group.topology.components, CHANNELS)
    skip = SkipTensors(torch.randn(shape), torch.full(shape, 0.3))
    ensemble.temperature_G.copy_(torch.linspace(0.5, 2.0, made.config.sets))
    with torch.inference_mode():
        deep = ensemble(GraphTensors.of_group(group))
        output = ensemble.estimate(GraphTensors.of_group(group), skip)
    found_WVK = output.probability_WVK.numpy()
    heads = deep.heads(0.3 * deep.latent_VWC + skip.skip_WVC.transpose(0, 1))
    logit_MVWJ = (heads.score_VW[..., None] - heads.threshold_VJ[:, :, None]).numpy()
    temperature_V = ensemble.temperature_G.numpy()[group.topology.grade_set_V.clip(0)]
    for v, temperature in enumerate(temperature_V.tolist()):
        expected_WK = ordinal_probability(logit_MVWJ[:, v].swapaxes(0, 1), temperature)
        np.testing.assert_allclose(found_WVK[:, v], expected_WK, atol=2e-7)


def test_ordinal_probability_is_the_mean_over_the_members() -> None:
    logit_WMJ = np.array([[[2.0, -np.inf], [-2.0, -np.inf]]], np.float32)
    np.testing.assert_allclose(ordinal_probability(logit_WMJ, 1.0), [[0.5, 0.5, 0.0]], atol=1e-7)


def test_health_of_grades_by_hand() -> None:
    probability_WK = np.array([[0.04, 0.96, 0.0], [0.5, 0.5, 0.0], [0.5, NAN, 0.5]])
    mean_W, spread_W = health_of_grades(probability_WK, (1.0, 0.5, 0.1))
    np.testing.assert_allclose(mean_W, [0.52, 0.75, NAN])
    np.testing.assert_allclose(spread_W, [0.5 * (0.04 * 0.96) ** 0.5, 0.25, NAN])
