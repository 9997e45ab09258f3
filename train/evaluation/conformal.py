"""Intervals that cover what they state, and the confidence below which nothing is told, both chosen on windows the weights never saw.

Split conformal prediction (Vovk, Gammerman and Shafer, 2005; of regression: Romano, Patterson and Candes, 2019) on residuals in
spreads of the network. Folds of one training check each other: what is applied to a fold comes from the others.
Invariant: no figure of a window uses a quantile, temperature or threshold that has seen the window's own fold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Floats
from train.data.labels import Booleans, Integers
from train.evaluation.scores import Doubles

SMALLEST_SPREAD = 1e-6
RISK_SLACK = 1.2
"""What is still answered may be wrong this many times as often as with all evidence there."""


def fold_of(part_W: Integers, group_W: Integers, folds: int = 5) -> Integers:
    """Say which windows check each other: the parts of a split where there are several, else groups dealt in turn.

    Args:
        part_W: number of each held-out window's part.
        group_W: what is never parted.
        folds: most folds that a single part is dealt to.

    Returns:
        [W] number of the fold, from 0; all 0 when there is nothing that could check anything.
    """
    parts, number_W = np.unique(part_W, return_inverse=True)
    if len(parts) < 2:
        _, number_W = np.unique(group_W, return_inverse=True)
        number_W = number_W % folds
    return number_W.reshape(-1).astype(np.int64)


def others(fold_W: Integers, fold: int) -> Booleans:
    """Mark the windows that may decide for a fold: all others; the fold itself when it is the only one."""
    apart_W: Booleans = fold_W != fold
    return apart_W if apart_W.any() else np.ones(len(fold_W), np.bool_)


def quantile(residual_W: Doubles, coverage: float) -> float:
    """Return the conformal quantile: the ceil((n + 1) coverage)-th smallest residual, the largest where there are too few.

    Args:
        residual_W: finite, at least one; exchangeable with those that the quantile is used for.
        coverage: share that must lie within, in (0, 1).
    """
    rank = min(len(residual_W), math.ceil((len(residual_W) + 1) * coverage - 1e-9))
    return float(np.partition(residual_W, rank - 1)[rank - 1])


def residuals(true_W: Floats, told_W: Floats, spread_W: Floats) -> Doubles:
    """Return how far the truth lies from what was told, in spreads, NaN where one of them is not known."""
    apart_W: Doubles = np.abs(told_W.astype(np.float64) - true_W) / np.maximum(
        spread_W, SMALLEST_SPREAD
    )
    return apart_W


@dataclass(frozen=True, slots=True)
class Reach:
    """How many spreads an interval reaches to each side: of each window from the other folds, and from all, to be shipped."""

    of_R: Doubles
    shipped: float


def cross_fit(residual_W: Doubles, fold_W: Integers, coverage: float) -> Reach:
    """Fit the reach of intervals, each fold's by the residuals of the others.

    Args:
        residual_W: from `residuals`; NaN is left out.
        fold_W: from `fold_of`.
        coverage: stated by the intervals.

    Returns:
        The reach; NaN where no other fold has a residual.
    """
    known_W = np.isfinite(residual_W)
    of_W = np.full(len(residual_W), np.nan)
    for fold in np.unique(fold_W).tolist():
        deciding_W = known_W & others(fold_W, fold)
        if deciding_W.any():
            of_W[fold_W == fold] = quantile(residual_W[deciding_W], coverage)
    return Reach(of_W, quantile(residual_W[known_W], coverage) if known_W.any() else math.nan)


@dataclass(frozen=True, slots=True)
class Removal:
    """What was said of one component while sensors were taken away, one row for a level.

    `trust_LW` is what the answer claims for itself, larger is surer: confidence of a grade, minus the spread of a health;
    -inf where the window as a whole is not answered, inf where it is answered however unsure it is. `loss_LW` is what the answer costs: 1 for a wrong grade, the absolute error of a
    health. The first row has all sensors.
    """

    trust_LW: Doubles
    loss_LW: Doubles

    def only(self, chosen_W: Booleans) -> "Removal":
        """Return what was said of some of the windows."""
        return Removal(self.trust_LW[:, chosen_W], self.loss_LW[:, chosen_W])

    @property
    def full_risk(self) -> float:
        """Mean loss of all answers while all evidence is there."""
        return float(self.loss_LW[0].mean())


def choose_threshold(removal: Removal, slack: float = 1.0) -> float:
    """Choose the least trust that an answer needs, so that taking sensors away makes answers fewer and not worse.

    It is the lowest threshold with which, at every level with sensors away, the mean loss of what is still answered is at most
    `slack` times the mean loss with all sensors and everything answered. With all sensors there it is not asked for.

    Args:
        removal: of windows that are used for nothing else; at least one window.
        slack: 1 for a choice that is to hold with `RISK_SLACK` on other windows.

    Returns:
        -inf where everything may be answered; above every trust where nothing may.
    """
    allowed = slack * removal.full_risk + 1e-12
    away_LW = removal.trust_LW[1:]
    candidates = np.unique(away_LW[np.isfinite(away_LW)])
    fits_C = np.ones(len(candidates), np.bool_)
    for trust_W, loss_W in zip(away_LW, removal.loss_LW[1:], strict=True):
        order = np.argsort(-trust_W, kind="stable")
        total_R = np.concatenate(([0.0], np.cumsum(loss_W[order])))
        answered_C = np.searchsorted(-trust_W[order], -candidates, side="right")
        fits_C &= total_R[answered_C] <= allowed * answered_C
    if not fits_C.any():
        return float(np.nextafter(candidates[-1], math.inf)) if len(candidates) else -math.inf
    first = int(np.argmax(fits_C))
    return float(candidates[first]) if first else -math.inf


@dataclass(frozen=True, slots=True)
class Level:
    """What is answered while so many sensors are away: share of the windows, and mean loss of these, None for none."""

    away: int
    answered: float
    risk: float | None
    windows: int


def removal_levels(
    removal: Removal, threshold_W: Doubles, away: Sequence[int]
) -> tuple[Level, ...]:
    """Measure what is answered at every level: with all sensors there whatever is answered at all, else what is sure enough.

    Args:
        removal: of W windows.
        threshold_W: least trust for each window, from windows that it is not among.
        away: sensors taken away at each level.
    """
    levels = []
    for count, trust_W, loss_W in zip(away, removal.trust_LW, removal.loss_LW, strict=True):
        told_W = (trust_W > -np.inf) & ((trust_W >= threshold_W) | (count == 0))
        risk = float(loss_W[told_W].mean()) if told_W.any() else None
        levels.append(Level(count, float(told_W.mean()), risk, int(told_W.sum())))
    return tuple(levels)


def risk_coverage(
    trust_W: Doubles, loss_W: Doubles, points: int = 40
) -> tuple[tuple[float, float], ...]:
    """Return (share answered, mean loss of it) as the surest answers are joined by less sure ones (El-Yaniv and Wiener, 2010)."""
    if not len(trust_W):
        return ()
    order = np.argsort(-trust_W, kind="stable")
    mean_W = np.cumsum(loss_W[order]) / np.arange(1, len(order) + 1)
    places = np.unique(np.linspace(0, len(order) - 1, min(points, len(order))).astype(np.int64))
    return tuple(
        (float((place + 1) / len(order)), float(mean_W[place])) for place in places.tolist()
    )


def masked_in_turn(sensors: int, windows: int, seed: int) -> NDArray[np.int64]:
    """Draw for each window in which order its sensors go away, [W, S] with the rank of each sensor; the first to go has 0."""
    generator = np.random.default_rng(seed)
    return generator.permuted(np.tile(np.arange(sensors), (windows, 1)), axis=1).astype(np.int64)
