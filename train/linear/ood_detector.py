"""Fits the distance of a component's evidence from training, and the limit beyond which windows of held-out groups are outliers.

Closed form, like the second opinion whose inputs and covariance it takes; see `app.model.ood_detector` for what is done with it.
Invariant: the limit comes from windows whose groups the covariance that judges them had not seen.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import eigsh

from app.features.binning import Doubles
from app.model.ood_detector import OodTables
from train.data.labels import Booleans, Integers
from train.linear.ordinal import OrdinalMoments, covariance, measure

AXES = 48
"""Most principal axes that are kept one by one. With 16, 96 or all of them the rig's distances rank the same conditions as the furthest."""
FOLDS = 5
LIMIT_SCORE = 3.5
"""Robust standard deviations of the logarithm of the distance, above its median, from which a window counts as an outlier (Iglewicz and
Hoaglin, How to detect and handle outliers, 1993, of their modified z-score)."""
FEWEST_AXES = 8
MOST_BYTES = 32_000_000
"""Of the tables of all grade sets; the rig's take 1.6 MB."""
USUAL_SHARE = 0.95
"""Of held-out windows, those that the limit lets pass in any case: where most windows are alike, many more count as outliers."""
LEAST_VARIANCE = 1e-4
"""Of features in units of their usual spread; what is finer is rounding."""
MAD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


class DistanceFit(NamedTuple):
    """Mean of each grade [K, L], principal axes [L, C] with their variances [C], the variance of all other directions, and the limit."""

    mean_KL: Doubles
    axes_LC: Doubles
    variance_C: Doubles
    rest: float
    limit: float


def most_axes(sets: int, places: int, inputs: int, grades: int) -> int:
    """Return how many principal axes a network's tables may hold, 0 for no distance; see `OodTables` for the sizes."""
    size = 4 * sets * places * inputs
    fitting = MOST_BYTES // size - grades if size else 0
    return min(AXES, fitting) if fitting >= FEWEST_AXES else 0


def fit_distance(
    x_WL: Doubles,
    grade_W: Integers,
    group_W: Integers,
    health_K: Doubles,
    nuisance_DL: Doubles,
    is_scored_W: Booleans,
    moments: OrdinalMoments,
    axes: int,
    seed: int,
) -> DistanceFit | None:
    """Fit the distance to the windows that a reading of grades is fitted to.

    Args:
        x_WL: inputs.
        grade_W: grade of each window.
        group_W: number of each window's group, which a split would never part.
        health_K: health of each of the component's grades.
        nuisance_DL: how far what says nothing of the grade moves the inputs.
        is_scored_W: false in a warm-up, which says nothing of how far usual windows lie.
        moments: of all these windows.
        axes: principal axes at most.
        seed: of the folds.

    Returns:
        The fit; None where there are fewer than `FOLDS` groups, so that no limit can be told.
    """
    axes = min(axes, x_WL.shape[1] // 2)
    groups, number_W = np.unique(group_W, return_inverse=True)
    if len(groups) < FOLDS or not axes:
        return None
    fold_W = np.random.default_rng(seed).permutation(len(groups))[number_W.reshape(-1)] % FOLDS
    apart: list[Doubles] = []
    for fold in range(FOLDS):
        learned_W, judged_W = fold_W != fold, (fold_W == fold) & is_scored_W
        if not judged_W.any() or len(np.unique(grade_W[learned_W])) < 2:
            continue
        found = _fit(
            measure(x_WL[learned_W], grade_W[learned_W], group_W[learned_W], health_K, nuisance_DL),
            axes,
        )
        apart.append(distances(x_WL[judged_W], found))
    if not apart:
        return None
    log_R = np.log(np.maximum(np.concatenate(apart), 1e-12))
    middle = float(np.median(log_R))
    deviation = MAD * float(np.median(np.abs(log_R - middle)))
    limit = max(
        float(np.exp(middle + LIMIT_SCORE * deviation)),
        float(np.exp(np.quantile(log_R, USUAL_SHARE))),
    )
    return _fit(moments, axes)._replace(limit=limit)


def distances(x_WL: Doubles, fit: DistanceFit) -> Doubles:
    """Return the squared distance of each window from the nearest grade, divided by the number of inputs, [W]."""
    square_KW = []
    for mean_L in fit.mean_KL:
        away_WL = x_WL - mean_L
        along_WC = (away_WL @ fit.axes_LC) ** 2
        rest_W = (away_WL**2).sum(1) - along_WC.sum(1)
        square_KW.append((along_WC / fit.variance_C).sum(1) + rest_W / fit.rest)
    nearest_W: Doubles = np.min(square_KW, axis=0) / x_WL.shape[1]
    return nearest_W


def set_distance(
    tables: OodTables, number: int, fit: DistanceFit, slot_S: Integers, grade_K: Integers
) -> None:
    """Write a fit into the tables of a grade set.

    Args:
        tables: of the detector.
        number: of the grade set.
        fit: of its component.
        slot_S: references of the sensors whose features the inputs are, in their order.
        grade_K: numbers of the grades that the means are of.
    """
    L, (S, A) = tables.map_GQLC.shape[2], (len(slot_S), fit.axes_LC.shape[1])
    axes = tables.variance_GX.shape[1] - 1
    tables.map_GQLC[number, :S, :, :A] = fit.axes_LC.reshape(S, L, A)
    mean_SLK = np.moveaxis(fit.mean_KL.reshape(-1, S, L), 0, -1)
    tables.map_GQLC[number, :S][..., axes + grade_K] = mean_SLK
    tables.occurs_GK[number] = np.isin(np.arange(tables.occurs_GK.shape[1]), grade_K)
    tables.variance_GX[number] = fit.rest  # also of axes that were not fitted
    tables.variance_GX[number, :A] = fit.variance_C
    tables.limit_G[number] = fit.limit
    tables.place_GR[number, slot_S] = np.arange(S)


def _fit(moments: OrdinalMoments, axes: int) -> DistanceFit:
    inputs = len(moments.middle_L)
    covariance_LL = covariance(moments, np.arange(inputs))
    # the start of the iteration is drawn unless it is given
    variance_C, axes_LC = eigsh(covariance_LL, k=axes, v0=np.ones(inputs))
    rest = max(
        (float(covariance_LL.trace()) - float(variance_C.sum())) / (inputs - axes), LEAST_VARIANCE
    )
    return DistanceFit(
        moments.middle_L + moments.apart_KL,
        axes_LC,
        np.maximum(variance_C, rest),
        rest,
        float("inf"),
    )
