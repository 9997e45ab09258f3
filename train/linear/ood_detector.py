"""Fit the OOD detector of `app.model.ood_detector`: a Mahalanobis distance and its limit.

Closed form, with the inputs and covariance of the linear classifier. Invariant: the limit is
measured on windows of groups that are not in the covariance that scores them.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import eigsh

from app.features.binning import Doubles
from app.model.ood_detector import OodTables
from train.data.labels import Booleans, Integers
from train.linear.ordinal import OrdinalMoments, covariance, measure

AXES = 48
"""Most principal axes with own variances. On the rig, 16, 96 or all axes rank conditions alike."""
FOLDS = 5
LIMIT_SCORE = 3.5
"""Modified z-score of the logarithm of the distance above which a window is an outlier (Iglewicz
and Hoaglin, "How to detect and handle outliers", 1993)."""
FEWEST_AXES = 8
MOST_BYTES = 32_000_000
"""Size of the tables of all grade sets; those of the rig take 1.6 MB."""
USUAL_SHARE = 0.95
"""Share of held-out windows within the limit in any case: where most are alike, more are
outliers."""
LEAST_VARIANCE = 1e-4
"""Smallest variance of features, in units of their spread; less is rounding."""
MAD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


class DistanceFit(NamedTuple):
    """Means of the grades, principal axes and their variances, other variance, and limit."""

    mean_KL: Doubles
    axes_LC: Doubles
    variance_C: Doubles
    rest: float
    limit: float


def most_axes(sets: int, places: int, inputs: int, grades: int) -> int:
    """Return the number of principal axes that fit a network's tables, 0 for no detector."""
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
    """Fit the distance to the training windows of a linear classifier.

    Args:
        x_WL: inputs.
        grade_W: grade of each window.
        group_W: number of each window's group, which a split never divides.
        health_K: health of the component's grades.
        nuisance_DL: change of the inputs by disturbances.
        is_scored_W: false in a warm-up, whose distances are unusual.
        moments: of all these windows.
        axes: largest number of principal axes.
        seed: of the folds.

    Returns:
        The fit; None with fewer than `FOLDS` groups, which give no limit.
    """
    axes = min(axes, x_WL.shape[1] // 2)
    groups, number_W = np.unique(group_W, return_inverse=True)
    if len(groups) < FOLDS or not axes:
        return None
    fold_W = np.random.default_rng(seed).permutation(len(groups))[number_W.reshape(-1)] % FOLDS
    held_out: list[Doubles] = []
    for fold in range(FOLDS):
        train_W, holdout_W = fold_W != fold, (fold_W == fold) & is_scored_W
        if not holdout_W.any() or len(np.unique(grade_W[train_W])) < 2:
            continue
        found = _fit(
            measure(x_WL[train_W], grade_W[train_W], group_W[train_W], health_K, nuisance_DL),
            axes,
        )
        held_out.append(distances(x_WL[holdout_W], found))
    if not held_out:
        return None
    log_R = np.log(np.maximum(np.concatenate(held_out), 1e-12))
    middle = float(np.median(log_R))
    deviation = MAD * float(np.median(np.abs(log_R - middle)))
    limit = max(
        float(np.exp(middle + LIMIT_SCORE * deviation)),
        float(np.exp(np.quantile(log_R, USUAL_SHARE))),
    )
    return _fit(moments, axes)._replace(limit=limit)


def distances(x_WL: Doubles, fit: DistanceFit) -> Doubles:
    """Return the squared distance from the nearest grade divided by the number of inputs, [W]."""
    square_KW = []
    for mean_L in fit.mean_KL:
        delta_WL = x_WL - mean_L
        along_WC = (delta_WL @ fit.axes_LC) ** 2
        rest_W = (delta_WL**2).sum(1) - along_WC.sum(1)
        square_KW.append((along_WC / fit.variance_C).sum(1) + rest_W / fit.rest)
    nearest_W: Doubles = np.min(square_KW, axis=0) / x_WL.shape[1]
    return nearest_W


def set_distance(
    tables: OodTables, number: int, fit: DistanceFit, slot_S: Integers, grade_K: Integers
) -> None:
    """Write a fit to the tables of a grade set.

    Args:
        tables: of the detector.
        number: of the grade set.
        fit: of its component.
        slot_S: reference slots of the sensors of the inputs, in their order.
        grade_K: numbers of the grades of the means.
    """
    L, (S, A) = tables.map_GQLC.shape[2], (len(slot_S), fit.axes_LC.shape[1])
    axes = tables.variance_GX.shape[1] - 1
    tables.map_GQLC[number, :S, :, :A] = fit.axes_LC.reshape(S, L, A)
    mean_SLK = np.moveaxis(fit.mean_KL.reshape(-1, S, L), 0, -1)
    tables.map_GQLC[number, :S][..., axes + grade_K] = mean_SLK
    tables.occurs_GK[number] = np.isin(np.arange(tables.occurs_GK.shape[1]), grade_K)
    tables.variance_GX[number] = fit.rest  # also of unused axes
    tables.variance_GX[number, :A] = fit.variance_C
    tables.limit_G[number] = fit.limit
    tables.place_GR[number, slot_S] = np.arange(S)


def _fit(moments: OrdinalMoments, axes: int) -> DistanceFit:
    inputs = len(moments.middle_L)
    covariance_LL = covariance(moments, np.arange(inputs))
    # a fixed start makes the iteration deterministic
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
