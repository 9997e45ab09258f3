"""What held-out windows say of a network's certainty: temperatures, reach of intervals and least trust, each fold checked by the others.

Invariant: what is applied to a fold was fitted to other folds, save where there is only one, which `Folds.crossed` tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.checkpoint.calibration import Calibration
from app.features.spec import Limits
from app.schemas.equipment import Equipment
from train.data.labels import Booleans, Integers, WindowLabels
from train.data.windows import Windows
from train.evaluation.conformal import Reach, fold_of, others
from train.evaluation.holdout import HoldoutPart
from train.evaluation.predict import Predictions, join
from train.evaluation.scores import (
    Doubles,
    grade_probability,
    joined_probability,
    nll,
    opinion_probability,
)

TEMPERATURES = np.exp(np.linspace(np.log(0.1), np.log(4.0), 75))
OPINION_TEMPERATURES = np.exp(np.linspace(np.log(0.5), np.log(30.0), 75))
"""Discriminants overstate what they know; networks that learned from blends understate it."""
MOST_FITTED = 20_000
"""Windows that a temperature is fitted to at most, evenly spaced."""


class Given(NamedTuple):
    """What a checkpoint states, to be checked and not fitted again: temperatures by component id, calibration, limits of the range."""

    network: Mapping[str, float]
    opinion: Mapping[str, float]
    calibration: Calibration
    limits: Limits | None


@dataclass(frozen=True, slots=True)
class Rows:
    """All held-out windows, part after part.

    `window_R` is the position in `Windows`, `part_R` the number of the part, `fold_R` the fold that checks the window; `scored_R` is
    false in a warm-up.
    """

    window_R: Integers
    part_R: Integers
    fold_R: Integers
    scored_R: Booleans
    labels: WindowLabels
    predictions: Predictions
    crossed: bool

    def of(self, part: int, window_W: Integers) -> Integers:
        """Return the rows of some windows of a part, given by rising positions."""
        own_R = np.flatnonzero(self.part_R == part)
        found: Integers = own_R[np.searchsorted(self.window_R[own_R], window_W)]
        return found


def gather(
    windows: Windows, parts: Sequence[HoldoutPart], *, fitted_elsewhere: bool = False
) -> Rows:
    """Put what the parts hold out one after the other; a grade that a part's fit was never shown counts as not labelled.

    No fit can know the name of such a grade: it would be scored as wrong whatever was learned.

    Args:
        windows: all windows.
        parts: of one split.
        fitted_elsewhere: whether what answered was not fitted to the parts' training windows, so that they do not say what it was shown.
    """
    window_R = np.concatenate([part.held_W for part in parts])
    labels = windows.labels.only(window_R)
    shown_RV = np.concatenate(
        [_shown(windows.labels.grade_WV, part, fitted_elsewhere=fitted_elsewhere) for part in parts]
    )
    part_R = np.repeat(np.arange(len(parts)), [len(part.held_W) for part in parts])
    fold_R = fold_of(part_R, windows.group_W[window_R])
    return Rows(
        window_R=window_R,
        part_R=part_R,
        fold_R=fold_R,
        scored_R=~windows.warm_up_W[window_R],
        labels=replace(labels, grade_WV=np.where(shown_RV, labels.grade_WV, -1)),
        predictions=join([part.clean for part in parts]),
        crossed=len(np.unique(fold_R)) > 1,
    )


def _shown(grade_WV: Integers, part: HoldoutPart, *, fitted_elsewhere: bool) -> Booleans:
    """Tell which held-out windows' grades the part's fit was shown, [held, V]; all where it is not known what it saw."""
    held_HV = grade_WV[part.held_W]
    if fitted_elsewhere or not len(part.train_W):
        return np.ones(held_HV.shape, np.bool_)
    seen_WV = grade_WV[part.train_W]
    return np.stack(
        [np.isin(held_HV[:, v], seen_WV[:, v]) for v in range(held_HV.shape[1])], axis=1
    )


@dataclass(frozen=True, slots=True)
class Temperatures:
    """What divides the logits of the network and of the second opinion: of each fold [F, V], and to be shipped [V]."""

    network_FV: Doubles
    opinion_FV: Doubles
    network_V: Doubles
    opinion_V: Doubles


def fit_temperatures(rows: Rows, equipment: Equipment, given: Given | None = None) -> Temperatures:
    """Find the temperatures under which the true grades are most likely (Guo et al., 2017), for each fold on the others.

    Args:
        rows: held-out windows.
        equipment: the machine; components without known grades have 1.
        given: what a checkpoint states; then nothing is fitted.
    """
    folds, V = int(rows.fold_R.max(initial=0)) + 1, len(equipment.components)
    network_FV, opinion_FV, network_V, opinion_V = (
        np.ones((folds, V)),
        np.ones((folds, V)),
        np.ones(V),
        np.ones(V),
    )
    for v, component in enumerate(equipment.components):
        if given is not None:
            network_V[v] = given.network.get(component.component_id, 1.0)
            opinion_V[v] = given.opinion.get(component.component_id, 1.0)
            network_FV[:, v], opinion_FV[:, v] = network_V[v], opinion_V[v]
            continue
        known_R = rows.scored_R & (rows.labels.grade_WV[:, v] >= 0)
        if not known_R.any():
            continue
        network_V[v], opinion_V[v] = _temperatures(rows, v, known_R)
        for fold in range(folds):
            deciding_R = known_R & others(rows.fold_R, fold)
            if deciding_R.any():
                network_FV[fold, v], opinion_FV[fold, v] = _temperatures(rows, v, deciding_R)
    return Temperatures(network_FV, opinion_FV, network_V, opinion_V)


def shares(
    predictions: Predictions,
    fold_R: Integers,
    temperatures: Temperatures,
    weight: float,
    graded_V: Booleans,
) -> Doubles:
    """Return the probability of each grade with the temperatures of each row's fold, [R, V, K]; NaN without grades.

    Args:
        predictions: of R windows.
        fold_R: fold of each.
        temperatures: of each fold.
        weight: share of the second opinion; 0 for the network alone.
        graded_V: components that have grades.
    """
    R, _, V, J = predictions.logit_WMVJ.shape
    share_RVK = np.full((R, V, J + 1), np.nan)
    for fold in np.unique(fold_R).tolist():
        own_R = np.flatnonzero(fold_R == fold)
        for v in np.flatnonzero(graded_V).tolist():
            own_RK = grade_probability(
                predictions.logit_WMVJ[own_R, :, v], temperatures.network_FV[fold, v]
            )
            if weight:
                opinion_RK = opinion_probability(
                    predictions.opinion_WVK[own_R, v], temperatures.opinion_FV[fold, v]
                )
                own_RK = joined_probability(own_RK, opinion_RK, weight)
            share_RVK[own_R, v] = own_RK
    return share_RVK


def interval(
    told_R: NDArray[np.floating],
    spread_R: NDArray[np.floating],
    reach_R: NDArray[np.floating] | float,
    cap: float,
) -> tuple[Doubles, Doubles]:
    """Return the ends of the intervals that `diagnose` tells: so many spreads to each side, inside [0, cap]."""
    apart_R = np.asarray(reach_R, np.float64) * spread_R
    return np.clip(told_R - apart_R, 0.0, cap), np.clip(told_R + apart_R, 0.0, cap)


def as_given(reach: float, rows: int) -> Reach:
    """Return the reach that a checkpoint states, for all rows."""
    return Reach(np.full(rows, reach), reach)


def _temperatures(rows: Rows, v: int, chosen_R: Booleans) -> tuple[float, float]:
    own = np.flatnonzero(chosen_R)
    own = own[np.unique(np.linspace(0, len(own) - 1, min(MOST_FITTED, len(own))).astype(np.int64))]
    true_R = rows.labels.grade_WV[own, v]
    logit_RMJ, opinion_RK = (
        rows.predictions.logit_WMVJ[own, :, v],
        rows.predictions.opinion_WVK[own, v],
    )
    network = TEMPERATURES[
        int(
            np.argmin(
                [nll(grade_probability(logit_RMJ, each), true_R) for each in TEMPERATURES.tolist()]
            )
        )
    ]
    heard_R = np.isfinite(opinion_RK).any(-1)
    if not heard_R.any():
        return float(network), 1.0
    losses = [
        nll(opinion_probability(opinion_RK[heard_R], each), true_R[heard_R])
        for each in OPINION_TEMPERATURES.tolist()
    ]
    return float(network), float(OPINION_TEMPERATURES[int(np.argmin(losses))])
