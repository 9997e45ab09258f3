"""Probabilities of a component's grades, and the health that they imply: the only place in numpy.

Serving, evaluation and replay call it; the network has the cumulative link once more in PyTorch
(`app.model.layers.grade_probability`), which training and the ONNX export need. Pure.
Shape letters: `W` windows, `M` members, `K` grades, `J` = K - 1 thresholds between them.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.features.binning import Doubles, Floats

Numbers = NDArray[np.floating]


def ordinal_probability(logit_WMJ: Floats, temperature: float) -> Doubles:
    """Return the probability of each grade by the cumulative link, as `OrdinalHead` does.

    P(worse than k) = sigmoid(logit_k / temperature); a grade has the difference of two of them.

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


def health_of_grades(probability_WK: Doubles, health_WK: ArrayLike) -> tuple[Doubles, Doubles]:
    """Return mean and standard deviation of the health of a graded component, [W].

    The component has the health of grade k with probability k, so health and condition come from
    one distribution: mean = sum_k p_k h_k, variance = sum_k p_k (h_k - mean)^2.

    Args:
        probability_WK: of each grade; any leading axes.
        health_WK: of each grade, in [0, 1]; [K], or an array that broadcasts.

    Returns:
        Of the leading axes; NaN where a probability is NaN.
    """
    health_WK = np.asarray(health_WK, np.float64)
    mean_W: Doubles = (probability_WK * health_WK).sum(-1)
    apart_WK = health_WK - mean_W[..., None]
    variance_W: Doubles = (probability_WK * apart_WK * apart_WK).sum(-1)
    return mean_W, np.sqrt(variance_W)
