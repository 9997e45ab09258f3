"""Fits the skip of machines without grades in closed form or nearly so, before the network trains.

The skip of health alone is a logistic regression of fractions (Papke and Wooldridge, "Econometric
methods for fractional response variables", 1996), and that of remaining life a regression through a
softplus. Both have few inputs where the steps are means, and a penalty makes both minima sharp, so
L-BFGS finds them in seconds. The network then learns what they leave; gradient descent on both at
once from random order found neither.

Shape letters as in `train.linear.whitening`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from app.features.binning import Doubles, Floats
from app.model.graph import CHANNELS
from train.data.labels import WORN

FEWEST_LABELS = 32
"""Fewest windows with a label of a channel; with fewer its weights stay 0."""
MOST_ITERATIONS = 200


class FirstWeights(NamedTuple):
    """Weights on whitened features, [X, P, C], and biases, [P, C]."""

    weight_XPC: Floats
    bias_PC: Floats


def fit_first_weights(
    z_WX: Doubles, health_WP: Floats, rul_WP: Floats, penalty: float, worn_weight: float = 0.0
) -> FirstWeights:
    """Fit the channels of health and of remaining life.

    Args:
        z_WX: whitened features.
        health_WP: labels in [0, 1]; NaN without one.
        rul_WP: labels in the unit of the network; NaN without one.
        penalty: on the sum of the squared weights, beside the mean loss of a window.
        worn_weight: see `TrainConfig`.
    """
    shape = (z_WX.shape[1], health_WP.shape[1], CHANNELS)
    weight_XPC, bias_PC = np.zeros(shape, np.float32), np.zeros(shape[1:], np.float32)
    for channel, label_WP, loss in ((1, health_WP, _health_loss), (2, rul_WP, _rul_loss)):
        for place in range(label_WP.shape[1]):
            known_W = np.isfinite(label_WP[:, place])
            if np.count_nonzero(known_W) >= FEWEST_LABELS:
                label_W = label_WP[known_W, place]
                count_W = np.ones(len(label_W))
                if channel == 1:
                    count_W += worn_weight * (label_W < WORN)
                weight_X, bias = _fit(z_WX[known_W], label_W, count_W, loss, penalty)
                weight_XPC[:, place, channel] = weight_X
                bias_PC[place, channel] = bias
    return FirstWeights(weight_XPC, bias_PC)


_Loss = Callable[[Doubles, Doubles], tuple[Doubles, Doubles]]
"""Of latents and labels: the losses and their derivatives by the latents."""


def _fit(
    z_WX: Doubles,
    label_W: NDArray[np.floating],
    count_W: Doubles,
    loss: _Loss,
    penalty: float,
) -> tuple[Doubles, float]:
    target_W = label_W.astype(np.float64)
    share_W = count_W / count_W.sum()

    def value_and_slope(point_Y: Doubles) -> tuple[float, Doubles]:
        weight_X, bias = point_Y[:-1], point_Y[-1]
        loss_W, slope_W = loss(z_WX @ weight_X + bias, target_W)
        slope_X = z_WX.T @ (slope_W * share_W) + 2.0 * penalty * weight_X
        value = float(loss_W @ share_W + penalty * (weight_X @ weight_X))
        return value, np.append(slope_X, slope_W @ share_W)

    first_Y = np.zeros(z_WX.shape[1] + 1)
    found = minimize(
        value_and_slope, first_Y, jac=True, method="L-BFGS-B", options={"maxiter": MOST_ITERATIONS}
    )
    return found.x[:-1], float(found.x[-1])


def _health_loss(latent_W: Doubles, health_W: Doubles) -> tuple[Doubles, Doubles]:
    """Return the cross-entropy of fractions."""
    loss_W = np.logaddexp(0.0, latent_W) - health_W * latent_W
    return loss_W, expit(latent_W) - health_W


def _rul_loss(latent_W: Doubles, rul_W: Doubles) -> tuple[Doubles, Doubles]:
    """Return half the squared error of the softplus of the latent."""
    error_W = np.logaddexp(0.0, latent_W) - rul_W
    return 0.5 * error_W**2, error_W * expit(latent_W)
