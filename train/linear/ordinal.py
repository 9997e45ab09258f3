"""A linear reading of grades for the second opinion of a network: along one direction of wear, and freely.

Grades are steps on one axis of wear, so one direction must tell them all; a discriminant of K grades has K - 1 directions, which tell
neighbours apart more sharply, and enough of them to learn by heart in which stretch of an experiment a grade was shown. The reading
adds the evidence of both, so that the first bounds what the second makes of a stretch that training never showed.
Invariant: the same windows in another order give the same reading, within rounding.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve

from app.features.binning import Doubles
from train.data.labels import Booleans, Integers

SHRINKAGE = 0.01
"""Share of the mean variance in the covariance: keeps inputs that hardly vary from ruling."""
GROUP_WEIGHT = 3.0
"""How much the scatter between groups of one grade counts beside that of all its windows: what differs between groups, such as the
operating point, comes in other amounts in a group that was never seen."""


class OrdinalReading(NamedTuple):
    """Logits of the grades that occurred, `x_WL @ weight_LK + bias_K`; `grade_K` says which these are."""

    weight_LK: Doubles
    bias_K: Doubles
    grade_K: Integers


class OrdinalMoments(NamedTuple):
    """What readings of the same windows are fitted from, whichever of the inputs they read."""

    within_WL: Doubles
    apart_KL: Doubles
    """Means of the grades, from the middle of all."""
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
    """Gather the moments of windows' inputs within and between grades.

    Args:
        x_WL: inputs.
        grade_W: grade of each window; at least two occur.
        group_W: number of each window's group, which a split would never part.
        health_K: health of each of the component's grades.
        nuisance_DL: how far what says nothing of the grade moves the inputs, from `train.linear.nuisance`; None for nothing.
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


def read_off(moments: OrdinalMoments, is_read_L: Booleans) -> OrdinalReading:
    """Fit a linear reading of grades to some of the inputs.

    The discriminant is Fisher's (1936), every grade counting the same. The direction is the one of its kind whose target is the
    grades' health: the inverse of the same covariance times the covariance of inputs and health; a window's probability of a
    grade is that of a normal distribution about the grade's mean place on it, with one spread for all grades. We deviate in the
    covariance: to the windows' scatter within grades is added that of the groups' means, it is shrunk by a fixed share, and gets
    what the nuisances would add if windows were disturbed by them.

    Args:
        moments: of the windows.
        is_read_L: the inputs that the reading may use; the others have a weight of 0.

    Returns:
        The reading, with weights for all inputs.
    """
    read = np.flatnonzero(is_read_L)
    covariance_JJ = covariance(moments, read)
    apart_KL, middle_L = moments.apart_KL, moments.middle_L
    free_LK = np.zeros((len(is_read_L), len(apart_KL)))
    free_LK[read] = solve(
        covariance_JJ, apart_KL[:, read].T, assume_a="pos", overwrite_a=True, check_finite=False
    )
    direction_L = free_LK @ (moments.health_K - moments.health_K.mean())
    variance = max(float(np.mean((moments.within_WL @ direction_L) ** 2)), 1e-12)
    # -(p - p_k)^2 / 2s^2 without the part that all grades share; places are counted from the middle to keep logits small
    place_K = apart_KL @ direction_L
    weight_LK = free_LK + np.outer(direction_L, place_K / variance)
    own_K = (apart_KL * free_LK.T).sum(1) + place_K**2 / variance
    return OrdinalReading(weight_LK, -own_K / 2.0 - middle_L @ weight_LK, moments.grade_K)


def covariance(moments: OrdinalMoments, read_J: Integers) -> Doubles:
    """Return the covariance of some of the inputs about their grade's mean, [J, J]: shrunk, and with what the nuisances add."""
    covariance_JJ = moments.covariance_LL[np.ix_(read_J, read_J)]
    mean_variance = max(float(covariance_JJ.trace()) / len(read_J), 1e-12)
    covariance_JJ *= 1.0 - SHRINKAGE
    covariance_JJ[np.arange(len(read_J)), np.arange(len(read_J))] += SHRINKAGE * mean_variance
    covariance_JJ += moments.nuisance_DL[:, read_J].T @ moments.nuisance_DL[:, read_J]
    return covariance_JJ


def _between_groups(x_WL: Doubles, place_W: Integers, group_W: Integers) -> Doubles:
    """Return the mean outer product of the distances of groups' means from the mean of their grade's groups."""
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
