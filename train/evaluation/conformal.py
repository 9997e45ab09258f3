"""Reach of intervals and confidence thresholds, chosen on windows that the weights never saw.

Split conformal prediction (Vovk, Gammerman and Shafer, 2005; for regression: Romano, Patterson and
Candes, 2019) on residuals in units of the spread. Invariant: no figure of a window uses a quantile,
temperature or threshold that has seen the window's own fold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Floats
from train.data.labels import Booleans, Integers, evenly_spaced
from train.evaluation.record import LevelFigures
from train.evaluation.scores import Doubles

MIN_SPREAD = 1e-6
RISK_SLACK = 1.2
"""Answers may be wrong this many times as often as with all sensors present."""
CURVE_POINTS = 40
"""Points of a risk-coverage curve."""


def fold_of(part_W: Integers, group_W: Integers, folds: int = 5) -> Integers:
    """Return the fold of each window: its part if there are several, else its group dealt in turn.

    Args:
        part_W: number of each held-out window's part.
        group_W: number of each window's group, which is never split.
        folds: most folds of a single part.

    Returns:
        [W] number of the fold, from 0; all 0 for a single group.
    """
    parts, number_W = np.unique(part_W, return_inverse=True)
    if len(parts) < 2:
        _, number_W = np.unique(group_W, return_inverse=True)
        number_W = number_W % folds
    return number_W.reshape(-1).astype(np.int64)


def others(fold_W: Integers, fold: int) -> Booleans:
    """Mark the windows that calibrate a fold: all others, or the fold itself when it is alone."""
    apart_W: Booleans = fold_W != fold
    return apart_W if apart_W.any() else np.ones(len(fold_W), np.bool_)


def quantile(residual_W: Doubles, coverage: float) -> float:
    """Return the conformal quantile: the ceil((n + 1) coverage)-th smallest, at most the largest.

    Args:
        residual_W: finite, at least one; exchangeable with those that the quantile is used for.
        coverage: share that must lie within, in (0, 1).
    """
    rank = min(len(residual_W), math.ceil((len(residual_W) + 1) * coverage - 1e-9))
    return float(np.partition(residual_W, rank - 1)[rank - 1])


def residuals(
    true_W: Floats | Doubles, predicted_W: Floats | Doubles, spread_W: Floats | Doubles
) -> Doubles:
    """Return |predicted - true| in spreads, NaN where one of them is unknown."""
    apart_W: Doubles = np.abs(predicted_W.astype(np.float64) - true_W) / np.maximum(
        spread_W, MIN_SPREAD
    )
    return apart_W


@dataclass(frozen=True, slots=True)
class Reach:
    """Spreads to each side of an interval: for each window from the other folds; from all folds.

    `is_pooled` is true where the shipped one is that of the other designs.
    """

    of_R: Doubles
    shipped: float
    is_pooled: bool = False


NO_RESIDUALS: Doubles = np.empty(0)


def is_enough(count: int, coverage: float) -> bool:
    """Return whether so many residuals give a quantile of that coverage."""
    return math.ceil((count + 1) * coverage - 1e-9) <= count


def cross_fit(
    residual_W: Doubles, fold_W: Integers, coverage: float, elsewhere_W: Doubles = NO_RESIDUALS
) -> Reach:
    """Fit the reach of intervals, that of each fold on the residuals of the others.

    Too few residuals for a quantile of that coverage give the quantile of the other designs'
    residuals, and without enough of these the reach that covers as much of any distribution
    (Chebyshev's inequality).

    Args:
        residual_W: from `residuals`; NaN is left out.
        fold_W: from `fold_of`.
        coverage: stated by the intervals.
        elsewhere_W: finite residuals of the same quantity in other designs.
    """
    known_W = np.isfinite(residual_W)
    has_pool = is_enough(len(elsewhere_W), coverage)

    def fit(deciding_W: Booleans) -> float:
        if is_enough(int(deciding_W.sum()), coverage):
            return quantile(residual_W[deciding_W], coverage)
        return quantile(elsewhere_W, coverage) if has_pool else math.sqrt(1.0 / (1.0 - coverage))

    of_W = np.empty(len(residual_W))
    for fold in np.unique(fold_W).tolist():
        of_W[fold_W == fold] = fit(known_W & others(fold_W, fold))
    is_pooled = has_pool and not is_enough(int(known_W.sum()), coverage)
    return Reach(of_W, fit(known_W), is_pooled)


@dataclass(frozen=True, slots=True)
class Removal:
    """Answers about one component while sensors are removed: a row a level, the first with all.

    Args:
        trust_LW: confidence of a grade, or minus the spread of a health; -inf where the window is
            not answered at all, inf where it is answered at any confidence.
        loss_LW: 1 for a wrong grade and 0 for a right one, or the absolute error of a health.
    """

    trust_LW: Doubles
    loss_LW: Doubles

    def only(self, chosen_W: Booleans) -> "Removal":
        """Return the answers for some of the windows."""
        return Removal(self.trust_LW[:, chosen_W], self.loss_LW[:, chosen_W])

    @property
    def full_risk(self) -> float:
        """Mean loss of all answers with all sensors."""
        return float(self.loss_LW[0].mean())


def choose_threshold(removal: Removal) -> float:
    """Choose the least trust of an answer, so that missing sensors make answers fewer, not worse.

    It is the lowest threshold with which, at every level with sensors removed, the mean loss of the
    remaining answers is at most the mean loss of all answers with all sensors.

    Args:
        removal: of at least one window, used for nothing else; `RISK_SLACK` checks the choice on
            other windows.

    Returns:
        -inf where everything may be answered; above every trust where nothing may.
    """
    allowed = removal.full_risk + 1e-12
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


def removal_levels(
    removal: Removal, threshold_W: Doubles, away: Sequence[int]
) -> tuple[LevelFigures, ...]:
    """Measure the answers at every level; with all sensors the threshold does not apply.

    Args:
        removal: of W windows.
        threshold_W: least trust for each window, chosen on other windows.
        away: sensors removed at each level.
    """
    levels = []
    for count, trust_W, loss_W in zip(away, removal.trust_LW, removal.loss_LW, strict=True):
        answered_W = (trust_W > -np.inf) & ((trust_W >= threshold_W) | (count == 0))
        risk = float(loss_W[answered_W].mean()) if answered_W.any() else None
        share, windows = float(answered_W.mean()), int(answered_W.sum())
        levels.append(LevelFigures(away=count, answered=share, risk=risk, windows=windows))
    return tuple(levels)


def risk_coverage(trust_W: Doubles, loss_W: Doubles) -> tuple[tuple[float, float], ...]:
    """Return (share answered, mean loss) from the surest answers on (El-Yaniv and Wiener, 2010)."""
    if not len(trust_W):
        return ()
    order = np.argsort(-trust_W, kind="stable")
    mean_W = np.cumsum(loss_W[order]) / np.arange(1, len(order) + 1)
    places = evenly_spaced(np.arange(len(order)), CURVE_POINTS).tolist()
    return tuple(((place + 1) / len(order), float(mean_W[place])) for place in places)


def removal_order(sensors: int, windows: int, seed: int) -> NDArray[np.int64]:
    """Draw the order in which each window's sensors are removed: ranks [W, S], the first has 0."""
    generator = np.random.default_rng(seed)
    return generator.permuted(np.tile(np.arange(sensors), (windows, 1)), axis=1).astype(np.int64)
