"""Fits a path of wear to the health of one component: onset, life and shape, by their posterior.

Health falls from 1 as h(t) = 1 - ((t - onset) / life)^shape, a general path model of degradation
(Lu and Meeker, 1993, Technometrics 35), with shapes from 1, a straight line, to 2. The posterior is
computed on a grid that is refined once where its mass is. Given onset and shape, the severity now
and the bias of each version enter linearly. Deviations from the textbook: points are weighted as
under Student's t (Lange, Little and Taylor, 1989, JASA 84), and the likelihood is tempered by the
share of independent points, so that slow errors of a model count as few observations. Without wear
health is constant: about 1, or at any level, since a component may have been worn before the first
point and wear no more.

Shapes: P points, A ages, Q shapes of the path, S severities, G versions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

SHAPES = np.linspace(1.0, 2.0, 9)
BIAS_SD = 0.05
"""Standard deviation of a version's constant error of health."""
LEVEL_SD = 0.5
"""Standard deviation of the level of a component that does not wear, where it is not 1."""
FREEDOM = 4.0
"""Degrees of freedom of Student's t."""
MIN_SD = 0.01
"""Least standard deviation of one health about the path."""
SWEEPS = 3
NEGLIGIBLE = 1e-4
"""Share of the largest marginal mass below which the refined grid leaves a value out."""


class Quantiles(NamedTuple):
    """Median and the ends of an interval."""

    median: float
    low: float
    high: float


class WearPath(NamedTuple):
    """The posterior of a path at the last point.

    Args:
        rate: health lost per operating hour, given that the component wears.
        rul_h: operating hours until health is 0, given that it wears.
        worn: probability that it wears at all.
        level: health by the path at the last point, with the bias of its version.
        sd: standard deviation of one health about the path.
    """

    rate: Quantiles
    rul_h: Quantiles
    worn: float
    level: float
    sd: float


class _Grid(NamedTuple):
    """Times since the onset in spans of the history, and severities at its end."""

    age_A: Doubles
    severity_S: Doubles

    def refined(self, mass_AQS: Doubles) -> "_Grid":
        """Return a grid of the same size where the mass is."""
        return _Grid(
            _between(self.age_A, mass_AQS.sum((1, 2))),
            _between(self.severity_S, mass_AQS.sum((0, 1))),
        )


COARSE = _Grid(
    np.concatenate([np.linspace(0.05, 1.0, 20), np.geomspace(1.2, 12.0, 10)]),
    np.concatenate([np.geomspace(0.01, 0.2, 12)[:-1], np.linspace(0.2, 1.0, 25)]),
)


class _Points(NamedTuple):
    """Points of a history, and how much each of them says."""

    since_P: Doubles
    lost_P: Doubles
    is_of_GP: Doubles
    weight_P: Doubles
    sd: float
    independent: float


def fit_path(
    hour_P: Doubles, health_P: Doubles, version_P: Integers, coverage: float = 0.9
) -> WearPath:
    """Fit the path of wear.

    Args:
        hour_P: operating hours, rising, over a span above 0.
        health_P: health in [0, 1].
        version_P: number of the model version that each health is from; each has its own bias.
        coverage: of the quantiles, in (0, 1).
    """
    span = float(hour_P[-1] - hour_P[0])
    points = _Points(
        since_P=(hour_P - hour_P[-1]) / span,
        lost_P=health_P - 1.0,
        is_of_GP=(version_P == np.unique(version_P)[:, None]).astype(np.float64),
        weight_P=np.ones(len(hour_P)),
        sd=max(MIN_SD, _noise_of_steps(health_P)),
        independent=1.0,
    )
    for _ in range(SWEEPS):
        log_AQS = _log_likelihood(COARSE, points)
        a, q, s = np.unravel_index(int(log_AQS.argmax()), log_AQS.shape)
        path_P = COARSE.severity_S[s] * _paths(COARSE.age_A[a : a + 1], points.since_P)[0, q]
        level_P = _bias_of(points, path_P) - path_P
        points = _reweighted(points, points.lost_P - level_P)
    log_AQS = _log_likelihood(COARSE, points)
    flat_log = _flat_log_likelihood(points)
    top = max(float(log_AQS.max()), flat_log)
    mass_AQS = np.exp(log_AQS - top) * _prior(COARSE)
    worn = float(mass_AQS.sum())
    worn /= worn + float(np.exp(flat_log - top))
    grid = COARSE.refined(mass_AQS)
    log_AQS = _log_likelihood(grid, points)
    mass_AQS = np.exp(log_AQS - log_AQS.max()) * _prior(grid)
    age_AQS = np.broadcast_to(span * grid.age_A[:, None, None], mass_AQS.shape)
    life_AQS = age_AQS * grid.severity_S ** (-1.0 / SHAPES[:, None])
    rate_AQS = SHAPES[:, None] * grid.severity_S / age_AQS
    return WearPath(
        _quantiles(rate_AQS, mass_AQS, coverage),
        _quantiles(life_AQS - age_AQS, mass_AQS, coverage),
        worn,
        float(np.clip(1.0 + level_P[-1], 0.0, 1.0)),
        points.sd,
    )


def _paths(age_A: Doubles, since_P: Doubles) -> Doubles:
    """Return the share of the severity at the end that each point has, [A, Q, P]."""
    share_AP = np.maximum(since_P / age_A[:, None] + 1.0, 0.0)
    found_AQP: Doubles = share_AP[:, None] ** SHAPES[:, None]
    return found_AQP


def _log_likelihood(grid: _Grid, points: _Points) -> Doubles:
    """Return the tempered log-likelihood over the grid, biases integrated out."""
    path_AQP = _paths(grid.age_A, points.since_P)
    weighted_GP = points.is_of_GP * points.weight_P
    ridge_G = weighted_GP.sum(1) + (points.sd / BIAS_SD) ** 2
    of_path_AQG = path_AQP @ weighted_GP.T
    of_lost_G = weighted_GP @ points.lost_P
    square_AQ = path_AQP**2 @ points.weight_P - (of_path_AQG**2 / ridge_G).sum(-1)
    cross_AQ = path_AQP @ (points.weight_P * points.lost_P)
    cross_AQ -= (of_path_AQG * of_lost_G / ridge_G).sum(-1)
    sum_AQS = (
        2.0 * cross_AQ[..., None] * grid.severity_S + square_AQ[..., None] * grid.severity_S**2
    )
    found_AQS: Doubles = -0.5 * points.independent / points.sd**2 * sum_AQS
    return found_AQS + _log_likelihood_of_level(points, BIAS_SD)


def _flat_log_likelihood(points: _Points) -> float:
    """Return the tempered log-likelihood of no wear: at 1 or at any level, equally probable."""
    total_G = (points.is_of_GP * points.weight_P).sum(1) * points.independent
    ratio_G = 1.0 + total_G * (LEVEL_SD / points.sd) ** 2
    ratio_G /= 1.0 + total_G * (BIAS_SD / points.sd) ** 2
    at_any = _log_likelihood_of_level(points, LEVEL_SD) - 0.5 * float(np.log(ratio_G).sum())
    at_one = _log_likelihood_of_level(points, BIAS_SD)
    return float(np.logaddexp(at_any, at_one)) - float(np.log(2.0))


def _log_likelihood_of_level(points: _Points, level_sd: float) -> float:
    """Return the tempered log-likelihood of a constant level of each version about 1."""
    weighted_GP = points.is_of_GP * points.weight_P
    ridge_G = weighted_GP.sum(1) + (points.sd / level_sd) ** 2
    total = points.weight_P @ points.lost_P**2
    total -= ((weighted_GP @ points.lost_P) ** 2 / ridge_G).sum()
    return float(-0.5 * points.independent / points.sd**2 * total)


def _bias_of(points: _Points, path_P: Doubles) -> Doubles:
    """Return the bias of each point's version, given the path."""
    weighted_GP = points.is_of_GP * points.weight_P
    bias_G = weighted_GP @ (points.lost_P + path_P)
    bias_G /= weighted_GP.sum(1) + (points.sd / BIAS_SD) ** 2
    found_P: Doubles = bias_G @ points.is_of_GP
    return found_P


def _reweighted(points: _Points, rest_P: Doubles) -> _Points:
    """Return the points with what their residuals about the best path say of them."""
    square = float((points.weight_P * rest_P**2).sum())
    sd = max(MIN_SD, float(np.sqrt(square / max(1, len(rest_P) - 3))))
    weight_P = (FREEDOM + 1.0) / (FREEDOM + (rest_P / sd) ** 2)
    independent = _independent_share(rest_P)
    return points._replace(weight_P=weight_P, sd=sd, independent=independent)


def _prior(grid: _Grid) -> Doubles:
    """Return the prior mass of the cells: flat in onset, shape and the logarithm of the life.

    At a given onset and shape d log(life) = d severity / (shape severity).
    """
    mass_AQS: Doubles = (
        np.gradient(grid.age_A)[:, None, None]
        * (np.gradient(grid.severity_S) / grid.severity_S)
        / SHAPES[:, None]
    )
    mass_AQS /= mass_AQS.sum()
    return mass_AQS


def _between(value_C: Doubles, mass_C: Doubles) -> Doubles:
    """Return as many values between the neighbours of those that have mass."""
    places = np.flatnonzero(mass_C > NEGLIGIBLE * mass_C.max())
    first, last = max(0, places[0] - 1), min(len(value_C) - 1, places[-1] + 1)
    index_C = np.linspace(first, last, len(value_C))
    return np.interp(index_C, np.arange(len(value_C)), value_C)


def _noise_of_steps(health_P: Doubles) -> float:
    """Return the standard deviation of noise by the median step between neighbours."""
    return float(np.median(np.abs(np.diff(health_P)))) / (0.6745 * float(np.sqrt(2.0)))


def _independent_share(rest_P: Doubles) -> float:
    """Return the share of independent points: 1 over the integrated autocorrelation time.

    Lags are summed while neighbouring pairs of them are positive (Geyer, 1992, Statistical
    Science 7), up to a quarter of the points.
    """
    square = float(rest_P @ rest_P)
    if not square > 0.0:
        return 1.0
    time = 1.0
    for lag in range(1, max(2, len(rest_P) // 4), 2):
        pair = float(rest_P[lag:] @ rest_P[:-lag] + rest_P[lag + 1 :] @ rest_P[: -lag - 1])
        if pair <= 0.0:
            break
        time += 2.0 * pair / square
    return 1.0 / time


def _quantiles(value_AQS: Doubles, mass_AQS: Doubles, coverage: float) -> Quantiles:
    order = np.argsort(value_AQS, axis=None)
    total_C = np.cumsum(mass_AQS.ravel()[order])
    levels = np.array([0.5, 0.5 - coverage / 2.0, 0.5 + coverage / 2.0]) * total_C[-1]
    places = np.minimum(np.searchsorted(total_C, levels), len(order) - 1)
    return Quantiles(*value_AQS.ravel()[order][places].tolist())
