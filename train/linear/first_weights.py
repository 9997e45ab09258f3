"""Fits the skip of machines without grades in closed form or nearly so, before the network trains.

The skip of health alone is a logistic regression of fractions (Papke and Wooldridge, "Econometric
methods for fractional response variables", 1996). It has few inputs where the steps are means, and
a penalty makes its minimum sharp, so L-BFGS finds it in seconds. The network then learns what it
leaves; gradient descent on both at once from random order did not find it. Remaining life has no
skip: in the report of the version before, network and skip together had a larger error than the
network alone on three of four simulated designs, and an equal one on the fourth.

Shape letters as in `train.linear.whitening`.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from app.features.binning import Doubles, Floats
from app.model.graph import CHANNELS
from train.data.labels import WORN

HEALTH = 1
"""Channel of health among the latent channels."""
FEWEST_LABELS = 32
"""Fewest windows with a label of a channel; with fewer its weights stay 0."""
MOST_ITERATIONS = 200


class FirstWeights(NamedTuple):
    """Weights on whitened features, [X, P, C], and biases, [P, C]."""

    weight_XPC: Floats
    bias_PC: Floats


def fit_first_weights(
    z_WX: Doubles, health_WP: Floats, penalty: float, worn_weight: float = 0.0
) -> FirstWeights:
    """Fit the channel of health; the weights of the others stay 0.

    Args:
        z_WX: whitened features.
        health_WP: labels in [0, 1]; NaN without one.
        penalty: on the sum of the squared weights, beside the mean loss of a window.
        worn_weight: see `TrainConfig`.
    """
    shape = (z_WX.shape[1], health_WP.shape[1], CHANNELS)
    weight_XPC, bias_PC = np.zeros(shape, np.float32), np.zeros(shape[1:], np.float32)
    for place in range(health_WP.shape[1]):
        known_W = np.isfinite(health_WP[:, place])
        if np.count_nonzero(known_W) >= FEWEST_LABELS:
            health_W = health_WP[known_W, place].astype(np.float64)
            weight_W = 1.0 + worn_weight * (health_W < WORN)
            found_X, bias = _fit(z_WX[known_W], health_W, weight_W / weight_W.sum(), penalty)
            weight_XPC[:, place, HEALTH] = found_X
            bias_PC[place, HEALTH] = bias
    return FirstWeights(weight_XPC, bias_PC)


def _fit(
    z_WX: Doubles, health_W: Doubles, share_W: Doubles, penalty: float
) -> tuple[Doubles, float]:
    """Fit the weights and the bias of one component; windows count as their shares say."""

    def value_and_slope(point_Y: Doubles) -> tuple[float, Doubles]:
        weight_X, bias = point_Y[:-1], point_Y[-1]
        latent_W = z_WX @ weight_X + bias
        loss_W = np.logaddexp(0.0, latent_W) - health_W * latent_W
        slope_W = expit(latent_W) - health_W
        slope_X = z_WX.T @ (slope_W * share_W) + 2.0 * penalty * weight_X
        value = float(loss_W @ share_W + penalty * (weight_X @ weight_X))
        return value, np.append(slope_X, slope_W @ share_W)

    first_Y = np.zeros(z_WX.shape[1] + 1)
    found = minimize(
        value_and_slope, first_Y, jac=True, method="L-BFGS-B", options={"maxiter": MOST_ITERATIONS}
    )
    return found.x[:-1], float(found.x[-1])
