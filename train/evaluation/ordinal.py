"""Fit a linear classifier of grades: the sum of an ordinal score and a discriminant.

Grades are steps on one axis of wear, so one direction separates them all. A discriminant of K
grades has K - 1 directions: it separates neighbouring grades better, but can memorise in which part
of an experiment a grade occurred. The classifier adds the logits of both, so that the ordinal score
bounds the discriminant on unseen conditions. Invariant: the order of windows does not change the
classifier, within rounding.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve

from app.features.binning import Doubles, Floats
from train.data.labels import Booleans, Integers

SHRINKAGE = 0.01
"""Share of the mean variance in the covariance, so that inputs of low variance do not dominate."""
GROUP_WEIGHT = 3.0
"""Weight of the scatter between groups of one grade: differences between groups, such as the
operating point, are larger in unseen groups."""


class OrdinalClassifier(NamedTuple):
    """Logits `x_WL @ weight_LK + bias_K` of the grades `grade_K`, which occur in training."""

    weight_LK: Doubles
    bias_K: Doubles
    grade_K: Integers


class OrdinalMoments(NamedTuple):
    """Moments of windows from which classifiers on any subset of the inputs are fitted."""

    within_WL: Doubles
    apart_KL: Doubles
    """Means of the grades minus `middle_L`, the mean of these means."""
    middle_L: Doubles
    covariance_LL: Doubles
    nuisance_DL: Doubles
    health_K: Doubles
    grade_K: Integers


def measure(
    x_WL: Doubles,
    grade_W: Integers,
    group_W: Integers,
    health_K: Doubles,
    nuisance_DL: Doubles | None = None,
) -> OrdinalMoments:
    """Return the moments of inputs within and between grades.

    Args:
        x_WL: inputs.
        grade_W: grade of each window; at least two occur.
        group_W: number of each window's group, which a split never divides.
        health_K: health of the component's grades.
        nuisance_DL: change of the inputs by disturbances, from `train.linear.nuisance`; None for
            none.
    """
    grade_K, place_W, count_K = np.unique(grade_W, return_inverse=True, return_counts=True)
    mean_KL = np.stack([x_WL[place_W == place].mean(0) for place in range(len(grade_K))])
    within_WL = x_WL - mean_KL[place_W]
    covariance_LL = (within_WL / count_K[place_W, None]).T @ within_WL / len(grade_K)
    covariance_LL += GROUP_WEIGHT * _between_groups(x_WL, place_W, group_W)
    middle_L = mean_KL.mean(0)
    if nuisance_DL is None:
        nuisance_DL = np.empty((0, x_WL.shape[1]))
    return OrdinalMoments(
        within_WL,
        mean_KL - middle_L,
        middle_L,
        covariance_LL,
        nuisance_DL,
        health_K[grade_K],
        grade_K,
    )


def fit_ordinal(moments: OrdinalMoments, is_used_L: Booleans) -> OrdinalClassifier:
    """Fit a linear classifier of grades to a subset of the inputs.

    The discriminant is Fisher's (1936) with equal weights of the grades. The direction of the
    ordinal score is that of a discriminant whose target is health: the inverse of the same
    covariance times the covariance of inputs and health. The score of a grade is normal about the
    grade's mean, with one variance for all grades. We deviate in the covariance: it contains the
    scatter of the groups' means, is shrunk by a fixed share, and contains the covariance of the
    disturbances.

    Args:
        moments: of the windows.
        is_used_L: inputs to use; the others have weight 0.

    Returns:
        The classifier, with weights for all inputs.
    """
    used = np.flatnonzero(is_used_L)
    covariance_JJ = covariance(moments, used)
    apart_KL, middle_L = moments.apart_KL, moments.middle_L
    free_LK = np.zeros((len(is_used_L), len(apart_KL)))
    free_LK[used] = solve(
        covariance_JJ, apart_KL[:, used].T, assume_a="pos", overwrite_a=True, check_finite=False
    )
    direction_L = free_LK @ (moments.health_K - moments.health_K.mean())
    variance = max(float(np.mean((moments.within_WL @ direction_L) ** 2)), 1e-12)
    # -(p - p_k)^2 / 2s^2 without the term common to all grades, relative to the middle
    place_K = apart_KL @ direction_L
    weight_LK = free_LK + np.outer(direction_L, place_K / variance)
    own_K = (apart_KL * free_LK.T).sum(1) + place_K**2 / variance
    return OrdinalClassifier(weight_LK, -own_K / 2.0 - middle_L @ weight_LK, moments.grade_K)


def ordinal_ridge(
    x_WL: Floats, grade_W: Integers, group_W: Integers, health_K: Doubles, holdout_WL: Floats
) -> tuple[Integers, Doubles]:
    """Fit the classifier to training windows; return its grades and their probabilities.

    Inputs are first scaled to unit variance in training.

    Args:
        x_WL: inputs of the training windows.
        grade_W: their grades; at least two occur.
        group_W: number of each window's group, which a split never divides.
        health_K: health of the component's grades.
        holdout_WL: inputs of the windows to predict.

    Returns:
        The grades that occur in training, and the probability of each in every window.
    """
    spread_L = np.maximum(x_WL.std(0), 1e-6)
    scaled_WL, other_WL = x_WL / spread_L, holdout_WL / spread_L
    moments = measure(scaled_WL.astype(np.float64), grade_W, group_W, health_K)
    found = fit_ordinal(moments, np.ones(x_WL.shape[1], np.bool_))
    logit_WK = other_WL @ found.weight_LK + found.bias_K
    raised_WK = np.exp(logit_WK - logit_WK.max(-1, keepdims=True))
    return found.grade_K, raised_WK / raised_WK.sum(-1, keepdims=True)


def covariance(moments: OrdinalMoments, used_J: Integers) -> Doubles:
    """Return the covariance within grades, shrunk and with that of disturbances, [J, J]."""
    covariance_JJ = moments.covariance_LL[np.ix_(used_J, used_J)]
    mean_variance = max(float(covariance_JJ.trace()) / len(used_J), 1e-12)
    covariance_JJ *= 1.0 - SHRINKAGE
    covariance_JJ[np.arange(len(used_J)), np.arange(len(used_J))] += SHRINKAGE * mean_variance
    covariance_JJ += moments.nuisance_DL[:, used_J].T @ moments.nuisance_DL[:, used_J]
    return covariance_JJ


def _between_groups(x_WL: Doubles, place_W: Integers, group_W: Integers) -> Doubles:
    """Return the covariance of groups' means about the mean of their grade's groups."""
    apart_QL = []
    for place in np.unique(place_W):
        groups = np.unique(group_W[place_W == place])
        mean_QL = np.stack(
            [x_WL[(place_W == place) & (group_W == group)].mean(0) for group in groups]
        )
        apart_QL.append(mean_QL - mean_QL.mean(0))
    all_QL = np.concatenate(apart_QL)
    scatter_LL: Doubles = all_QL.T @ all_QL / len(all_QL)
    return scatter_LL
