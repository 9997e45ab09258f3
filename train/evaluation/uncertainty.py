"""Temperatures of the grades' probabilities, and health and intervals as the service states them.

Invariant: what is applied to a fold was fitted to other folds, except with a single fold, where
`Rows.crossed` is false.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.checkpoint.calibration import Calibration
from app.checkpoint.masking import Masking
from app.features.spec import Limits
from app.model.grades import (
    health_of_grades,
    joined_probability,
    linear_probability,
    ordinal_probability,
)
from app.schemas.equipment import Equipment
from train.data.labels import Booleans, Integers, WindowLabels
from train.data.windows import Windows
from train.evaluation.conformal import Reach, fold_of, others
from train.evaluation.holdout import HoldoutPart
from train.evaluation.predict import Predictions, join
from train.evaluation.scores import Doubles, nll

TEMPERATURES = np.exp(np.linspace(np.log(0.1), np.log(4.0), 75))
LINEAR_TEMPERATURES = np.exp(np.linspace(np.log(0.5), np.log(30.0), 75))
"""Discriminants are overconfident; networks trained on mixed windows are underconfident."""
MAX_FITTED = 20_000
"""Windows, evenly spaced, that a temperature is fitted to at most."""


class Given(NamedTuple):
    """What a checkpoint states, to be checked instead of fitted.

    Args:
        network: temperatures of the network by component id.
        linear: temperatures of the linear classifier by component id.
        calibration: reach of intervals and thresholds.
        limits: of the training range.
        masking: evidence that training withheld.
    """

    network: Mapping[str, float]
    linear: Mapping[str, float]
    calibration: Calibration
    limits: Limits | None
    masking: Masking


@dataclass(frozen=True, slots=True)
class Rows:
    """All held-out windows, part after part.

    Args:
        window_R: position in `Windows`.
        part_R: number of the part.
        fold_R: fold that checks the window.
        scored_R: false in a warm-up.
        labels: of the windows; a grade that the part's training did not have counts as unknown.
        predictions: of the windows.
        crossed: whether there are several folds.
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


class Answers(NamedTuple):
    """Output of one model for R windows, NaN where it has none; units as in `Predictions`.

    Args:
        grade_RV: most probable grade, -1 without grades.
        probability_RVK: of the grades.
        health_RV: of graded components from `probability_RVK`.
        spread_RV: of health.
        rul_RV: operating hours.
        rul_spread_RV: likewise.
        rate_RV: degradation rate.
    """

    grade_RV: Integers
    probability_RVK: Doubles
    health_RV: Doubles
    spread_RV: Doubles
    rul_RV: Doubles
    rul_spread_RV: Doubles
    rate_RV: Doubles


def gather(
    windows: Windows, parts: Sequence[HoldoutPart], *, fitted_elsewhere: bool = False
) -> Rows:
    """Concatenate the held-out windows of all parts.

    A grade that a part's training did not have counts as unlabelled: no fit could predict it.

    Args:
        windows: all windows.
        parts: of one split.
        fitted_elsewhere: whether the model was fitted to other windows than the parts' training.
    """
    window_R = np.concatenate([part.holdout_W for part in parts])
    labels = windows.labels.only(window_R)
    shown_RV = np.concatenate(
        [_shown(windows.labels.grade_WV, part, fitted_elsewhere=fitted_elsewhere) for part in parts]
    )
    part_R = np.repeat(np.arange(len(parts)), [len(part.holdout_W) for part in parts])
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
    """Return which held-out grades the part's training had, [holdout, V]; all where unknown."""
    holdout_HV = grade_WV[part.holdout_W]
    if fitted_elsewhere or not len(part.train_W):
        return np.ones(holdout_HV.shape, np.bool_)
    seen_WV = grade_WV[part.train_W]
    return np.stack(
        [np.isin(holdout_HV[:, v], seen_WV[:, v]) for v in range(holdout_HV.shape[1])], axis=1
    )


@dataclass(frozen=True, slots=True)
class Temperatures:
    """Temperatures of network and linear classifier: of each fold [F, V], and to be shipped [V]."""

    network_FV: Doubles
    linear_FV: Doubles
    network_V: Doubles
    linear_V: Doubles


def fit_temperatures(rows: Rows, equipment: Equipment, given: Given | None = None) -> Temperatures:
    """Fit the temperatures with the least log loss (Guo et al., 2017), for each fold on the others.

    Args:
        rows: held-out windows.
        equipment: the machine; components without known grades have 1.
        given: what a checkpoint states; then nothing is fitted.
    """
    folds, V = int(rows.fold_R.max(initial=0)) + 1, len(equipment.components)
    network_FV, linear_FV = np.ones((folds, V)), np.ones((folds, V))
    network_V, linear_V = np.ones(V), np.ones(V)
    for v, component in enumerate(equipment.components):
        if given is not None:
            network_V[v] = given.network.get(component.component_id, 1.0)
            linear_V[v] = given.linear.get(component.component_id, 1.0)
            network_FV[:, v], linear_FV[:, v] = network_V[v], linear_V[v]
            continue
        known_R = rows.scored_R & (rows.labels.grade_WV[:, v] >= 0)
        if not known_R.any():
            continue
        network_V[v], linear_V[v] = _temperatures(rows, v, known_R)
        for fold in range(folds):
            deciding_R = known_R & others(rows.fold_R, fold)
            if deciding_R.any():
                network_FV[fold, v], linear_FV[fold, v] = _temperatures(rows, v, deciding_R)
    return Temperatures(network_FV, linear_FV, network_V, linear_V)


def _temperatures(rows: Rows, v: int, chosen_R: Booleans) -> tuple[float, float]:
    own = np.flatnonzero(chosen_R)
    places = np.linspace(0, len(own) - 1, min(MAX_FITTED, len(own)))
    own = own[np.unique(places.astype(np.int64))]
    true_R = rows.labels.grade_WV[own, v]
    logit_RMJ = rows.predictions.logit_WMVJ[own, :, v]
    linear_RK = rows.predictions.linear_WVK[own, v]
    losses = [nll(ordinal_probability(logit_RMJ, each), true_R) for each in TEMPERATURES.tolist()]
    network = float(TEMPERATURES[int(np.argmin(losses))])
    known_R = np.isfinite(linear_RK).any(-1)
    if not known_R.any():
        return network, 1.0
    losses = [
        nll(linear_probability(linear_RK[known_R], each), true_R[known_R])
        for each in LINEAR_TEMPERATURES.tolist()
    ]
    return network, float(LINEAR_TEMPERATURES[int(np.argmin(losses))])


def probabilities(
    predictions: Predictions,
    fold_R: Integers,
    temperatures: Temperatures,
    weight: float,
    graded_V: Booleans,
) -> Doubles:
    """Return the probability of each grade with the temperatures of each row's fold.

    Args:
        predictions: of R windows.
        fold_R: fold of each.
        temperatures: of each fold.
        weight: share of the linear classifier; 0 for the network alone.
        graded_V: components that have grades.

    Returns:
        [R, V, K]; NaN without grades.
    """
    R, _, V, J = predictions.logit_WMVJ.shape
    probability_RVK = np.full((R, V, J + 1), np.nan)
    for fold in np.unique(fold_R).tolist():
        own_R = np.flatnonzero(fold_R == fold)
        for v in np.flatnonzero(graded_V).tolist():
            own_RK = ordinal_probability(
                predictions.logit_WMVJ[own_R, :, v], temperatures.network_FV[fold, v]
            )
            if weight:
                linear_RK = linear_probability(
                    predictions.linear_WVK[own_R, v], temperatures.linear_FV[fold, v]
                )
                own_RK = joined_probability(own_RK, linear_RK, weight)
            probability_RVK[own_R, v] = own_RK
    return probability_RVK


def answers_of(
    predictions: Predictions,
    probability_RVK: Doubles,
    equipment: Equipment,
    graded_V: Booleans,
) -> Answers:
    """Return what the service would answer, by the rules of `app.diagnosis.decoder`.

    Args:
        predictions: of R windows.
        probability_RVK: of the grades, from `probabilities`.
        equipment: with the health of each grade.
        graded_V: components that have grades.
    """
    grade_RV = np.where(graded_V, np.nan_to_num(probability_RVK, nan=-1.0).argmax(-1), -1)
    health_RV, spread_RV, rul_RV, rul_spread_RV, rate_RV = (
        values_RV.astype(np.float64)
        for values_RV in (
            predictions.health_WV,
            predictions.spread_WV,
            predictions.rul_WV,
            predictions.rul_spread_WV,
            predictions.rate_WV,
        )
    )
    for v in np.flatnonzero(graded_V).tolist():
        health_K = [grade.health for grade in equipment.components[v].grades]
        probability_RK = probability_RVK[:, v, : len(health_K)]
        health_RV[:, v], spread_RV[:, v] = health_of_grades(probability_RK, health_K)
    return Answers(
        grade_RV.astype(np.int64),
        probability_RVK,
        health_RV,
        spread_RV,
        rul_RV,
        rul_spread_RV,
        rate_RV,
    )


def interval(
    predicted_R: NDArray[np.floating],
    spread_R: NDArray[np.floating],
    reach_R: NDArray[np.floating] | float,
    cap: float,
) -> tuple[Doubles, Doubles]:
    """Return the ends of the intervals: `reach_R` spreads to each side, inside [0, cap]."""
    apart_R = np.asarray(reach_R, np.float64) * spread_R
    return np.clip(predicted_R - apart_R, 0.0, cap), np.clip(predicted_R + apart_R, 0.0, cap)


def as_given(reach: float, rows: int) -> Reach:
    """Return the reach that a checkpoint states, for all rows."""
    return Reach(np.full(rows, reach), reach)
