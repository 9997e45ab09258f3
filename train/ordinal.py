"""A linear reading of grades along one direction, for the second opinion of a network.

A discriminant of K grades has K - 1 directions, enough to learn by heart in which stretch of an experiment a grade was shown. Grades
are steps on one axis of wear; a single direction that must put all of them in order has little room for anything else.
Invariant: the same windows in another order give the same direction, within rounding.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve

from app.bins import Doubles
from train.labels import Booleans, Integers

SHRINKAGE = 0.01
"""Share of the mean variance in the covariance: keeps inputs that hardly vary from ruling."""
GROUP_WEIGHT = 5.0
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
    mean_KL: Doubles
    covariance_LL: Doubles
    toward_L: Doubles
    grade_K: Integers


def fit_ordinal(x_WL: Doubles, grade_W: Integers, group_W: Integers, health_K: Doubles) -> OrdinalReading:
    """Fit the direction along which health rises, and read grades off it: `read_off` of `measure`, on all inputs."""
    return read_off(measure(x_WL, grade_W, group_W, health_K), np.ones(x_WL.shape[1], np.bool_))


def measure(x_WL: Doubles, grade_W: Integers, group_W: Integers, health_K: Doubles) -> OrdinalMoments:
    """Gather the moments of windows' inputs within and between grades.

    Args:
        x_WL: inputs.
        grade_W: grade of each window; at least two occur.
        group_W: number of each window's group, which a split would never part.
        health_K: health of each of the component's grades.
    """
    grade_K, place_W, count_K = np.unique(grade_W, return_inverse=True, return_counts=True)
    mean_KL = np.stack([x_WL[place_W == place].mean(0) for place in range(len(grade_K))])
    within_WL = x_WL - mean_KL[place_W]
    covariance_LL = (within_WL / count_K[place_W, None]).T @ within_WL / len(grade_K)
    covariance_LL += GROUP_WEIGHT * _between_groups(x_WL, place_W, group_W)
    known_K = health_K[grade_K]
    toward_L = (mean_KL - mean_KL.mean(0)).T @ (known_K - known_K.mean()) / len(grade_K)
    return OrdinalMoments(within_WL, mean_KL, covariance_LL, toward_L, grade_K)


def read_off(moments: OrdinalMoments, is_read_L: Booleans) -> OrdinalReading:
    """Fit the direction along which health rises in some of the inputs, and read grades off it.

    The direction is Fisher's (1936) for the health of the grades as the target: the inverse of the covariance within grades times
    the covariance of inputs and health, every grade counting the same. We deviate by adding the scatter of the groups' means about
    their grade's mean. A window's probability of a grade is that of a normal distribution about the grade's mean place on the
    direction, with one spread for all grades, so that the logits are linear in the inputs.

    Args:
        moments: of the windows.
        is_read_L: the inputs that the reading may use; the others have a weight of 0.

    Returns:
        The reading, with weights for all inputs.
    """
    read = np.flatnonzero(is_read_L)
    covariance_JJ = (1.0 - SHRINKAGE) * moments.covariance_LL[np.ix_(read, read)]
    J = np.arange(len(read))
    covariance_JJ[J, J] += SHRINKAGE * max(float(covariance_JJ.trace()), 1e-12) / len(read)
    direction_L = np.zeros(len(is_read_L))
    direction_L[read] = solve(
        covariance_JJ, moments.toward_L[read], assume_a="pos", overwrite_a=True, check_finite=False
    )
    place_K = moments.mean_KL @ direction_L
    variance = max(float(np.mean((moments.within_WL @ direction_L) ** 2)), 1e-12)
    middle = place_K.mean()
    # -(p - p_k)^2 / 2s^2 without the part that all grades share; places are counted from the middle to keep logits small
    offset_K = (place_K - middle) / variance
    return OrdinalReading(np.outer(direction_L, offset_K), -offset_K * (place_K + middle) / 2.0, moments.grade_K)


def _between_groups(x_WL: Doubles, place_W: Integers, group_W: Integers) -> Doubles:
    """Return the mean outer product of the distances of groups' means from the mean of their grade's groups."""
    apart_QL = []
    for place in np.unique(place_W):
        groups = np.unique(group_W[place_W == place])
        mean_QL = np.stack([x_WL[(place_W == place) & (group_W == group)].mean(0) for group in groups])
        apart_QL.append(mean_QL - mean_QL.mean(0))
    all_QL = np.concatenate(apart_QL)
    scatter_LL: Doubles = all_QL.T @ all_QL / len(all_QL)
    return scatter_LL
