"""Probabilities of a component's grades, and the health that they imply.

The only place of these formulas outside of the network itself: serving, evaluation and replay call
it. Pure. Shape letters: `W` windows, `M` members, `K` grades, `J` = K - 1 thresholds between them.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Floats

Doubles = NDArray[np.float64]
Number = TypeVar("Number", float, Doubles)


def ordinal_probability(logit_WMJ: Floats, temperature: float) -> Doubles:
    """Return the probability of each grade by the network's cumulative link, as `OrdinalHead` does.

    Args:
        logit_WMJ: score less threshold, before the temperature; -inf beyond the component's grades.
        temperature: divides the logits (Guo et al., 2017).

    Returns:
        [W, K], mean of the members; 0 beyond the component's grades.
    """
    with np.errstate(over="ignore"):
        worse_WJ = (1.0 / (1.0 + np.exp(-logit_WMJ.astype(np.float64) / temperature))).mean(1)
    edge_W1 = np.ones((len(worse_WJ), 1))
    beyond_WL = np.concatenate((edge_W1, worse_WJ, 0.0 * edge_W1), axis=1)
    probability_WK: Doubles = beyond_WL[:, :-1] - beyond_WL[:, 1:]
    return probability_WK


def linear_probability(logit_WK: Floats, temperature: float) -> Doubles:
    """Return the probability of each grade by the linear classifier, [W, K]; NaN without output."""
    scaled_WK = logit_WK.astype(np.float64) / temperature
    raised_WK = np.exp(scaled_WK - scaled_WK.max(-1, keepdims=True))
    probability_WK: Doubles = raised_WK / raised_WK.sum(-1, keepdims=True)
    return probability_WK


def joined_probability(network_WK: Doubles, linear_WK: Doubles, weight: float) -> Doubles:
    """Return the probability of each grade by network and linear classifier together.

    Args:
        network_WK: from the network.
        linear_WK: from the linear classifier; NaN where it has no output: the network's stays.
        weight: share of the linear classifier, in [0, 1].
    """
    joined_WK: Doubles = np.where(
        np.isfinite(linear_WK), network_WK + weight * (linear_WK - network_WK), network_WK
    )
    return joined_WK


def health_of_grades(
    probability_K: Sequence[Number], health_K: Sequence[float]
) -> tuple[Number, Number]:
    """Return mean and standard deviation of the health of a graded component.

    The component has the health of grade k with probability k, so health and condition come from
    one distribution: mean = sum_k p_k h_k, variance = sum_k p_k (h_k - mean)^2.

    Args:
        probability_K: of each grade, numbers or arrays of equal shape; may be longer than
            `health_K`.
        health_K: of each grade, in [0, 1].

    Returns:
        Mean and standard deviation of the shape of one probability; NaN where one is NaN.
    """
    mean = variance = 0.0 * probability_K[0]
    for probability, health in zip(probability_K, health_K, strict=False):
        mean = mean + probability * health
    for probability, health in zip(probability_K, health_K, strict=False):
        apart = mean - health
        variance = variance + probability * apart * apart
    return mean, variance**0.5
