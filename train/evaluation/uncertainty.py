"""Temperatures of the grades' probabilities, and health and intervals as the service states them.

Invariant: what is applied to a fold was fitted to other folds, except with a single fold, where
`Rows.is_crossed` is false.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from app.checkpoint.calibration import Calibration
from app.checkpoint.masking import Masking
from app.features.spec import Limits
from app.model.grades import health_of_grades, ordinal_probability
from app.schemas.equipment import Equipment
from train.data.labels import Booleans, Integers, WindowLabels, evenly_spaced
from train.data.windows import Windows
from train.evaluation.conformal import fold_of, others
from train.evaluation.holdout import HoldoutPart
from train.evaluation.predict import Predictions, join
from train.evaluation.scores import Doubles, nll

TEMPERATURES = np.exp(np.linspace(np.log(0.1), np.log(4.0), 75))
"""Networks trained on mixed windows are underconfident, those that memorise overconfident."""
MAX_FITTED = 20_000
"""Windows, evenly spaced, that a temperature is fitted to at most."""


class Given(NamedTuple):
    """What a checkpoint states, to be checked instead of fitted.

    Args:
        temperatures: by component id.
        calibration: reach of intervals and thresholds.
        limits: of the training range.
        masking: evidence that training withheld.
    """

    temperatures: Mapping[str, float]
    calibration: Calibration
    limits: Limits | None
    masking: Masking


@dataclass(frozen=True, slots=True)
class Rows:
    """All held-out windows, part after part, with what every figure of them depends on.

    Args:
        windows: all windows.
        parts: of one split.
        cap_h: beyond which remaining life is not distinguished; operating hours.
        masking: evidence that training masked.
        given: what a checkpoint states; it is checked and nothing is fitted.
        window_R: position in `windows`.
        part_R: number of the part.
        fold_R: fold that checks the window.
        scored_R: false in a warm-up.
        labels: of the held-out windows; a grade that the part's training did not have counts as
            unknown, since no fit could predict it.
        predictions: of the held-out windows.
        graded_V: components with grades in training.
    """

    windows: Windows
    parts: Sequence[HoldoutPart]
    cap_h: float
    masking: Masking
    given: Given | None
    window_R: Integers
    part_R: Integers
    fold_R: Integers
    scored_R: Booleans
    labels: WindowLabels
    predictions: Predictions
    graded_V: Booleans

    @property
    def equipment(self) -> Equipment:
        """Topology of the machines."""
        return self.windows.equipment

    @property
    def is_crossed(self) -> bool:
        """Whether there are several folds."""
        return len(np.unique(self.fold_R)) > 1

    def known_grades(self, v: int) -> Booleans:
        """Mark the scored windows with a known grade of a component, [R]."""
        return self.scored_R & (self.labels.grade_WV[:, v] >= 0)

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
    windows: Windows,
    parts: Sequence[HoldoutPart],
    masking: Masking,
    given: Given | None = None,
    cap_h: float | None = None,
) -> Rows:
    """Concatenate the held-out windows of all parts; see `Rows`.

    Args:
        windows: all windows.
        parts: of one split.
        masking: of the training.
        given: what a checkpoint states.
        cap_h: None for the largest label.
    """
    window_R = np.concatenate([part.holdout_W for part in parts])
    labels = windows.labels.only(window_R)
    part_R = np.repeat(np.arange(len(parts)), [len(part.holdout_W) for part in parts])
    grade_RV = labels.grade_WV.copy()
    for number, part in enumerate(parts):
        if given is None:
            for v, seen_W in enumerate(windows.labels.grade_WV[part.train_W].T):
                grade_RV[(part_R == number) & ~np.isin(grade_RV[:, v], seen_W), v] = -1
    rul_WV = windows.labels.rul_WV
    is_trained = given is not None or any(len(part.train_W) for part in parts)
    return Rows(
        windows=windows,
        parts=parts,
        cap_h=float(np.nanmax(rul_WV, initial=0.0)) if cap_h is None else cap_h,
        masking=masking,
        given=given,
        window_R=window_R,
        part_R=part_R,
        fold_R=fold_of(part_R, windows.group_W[window_R]),
        scored_R=~windows.warm_up_W[window_R],
        labels=replace(labels, grade_WV=grade_RV),
        predictions=join([part.clean for part in parts]),
        graded_V=np.asarray((windows.labels.grade_WV >= 0).any(0) & is_trained),
    )


class Temperatures(NamedTuple):
    """Temperatures of the grades' logits: of each fold [F, V], and to be shipped [V]."""

    of_fold_FV: Doubles
    shipped_V: Doubles


def fit_temperatures(rows: Rows, shipped: Mapping[str, float] | None = None) -> Temperatures:
    """Fit the temperatures with the least log loss (Guo et al., 2017), for each fold on the others.

    Those of a checkpoint are taken as they are; components without known grades have 1.

    Args:
        rows: held-out windows.
        shipped: by component id, taken as they are. Where conditions are held out as a whole, one
            that fails would give the others a temperature that no service has: above 2 or so the
            middle grades are never the most probable.
    """
    folds, V = int(rows.fold_R.max(initial=0)) + 1, len(rows.equipment.components)
    of_fold_FV, shipped_V = np.ones((folds, V)), np.ones(V)
    for v, component in enumerate(rows.equipment.components):
        taken = shipped if rows.given is None else rows.given.temperatures
        if taken is not None:
            shipped_V[v] = taken.get(component.component_id, 1.0)
            of_fold_FV[:, v] = shipped_V[v]
            continue
        known_R = rows.known_grades(v)
        if not known_R.any():
            continue
        shipped_V[v] = _temperature(rows, v, known_R)
        for fold in range(folds):
            deciding_R = known_R & others(rows.fold_R, fold)
            if deciding_R.any():
                of_fold_FV[fold, v] = _temperature(rows, v, deciding_R)
    return Temperatures(of_fold_FV, shipped_V)


def _temperature(rows: Rows, v: int, chosen_R: Booleans) -> float:
    own = evenly_spaced(np.flatnonzero(chosen_R), MAX_FITTED)
    true_R = rows.labels.grade_WV[own, v]
    logit_RMJ = rows.predictions.logit_WMVJ[own, :, v]
    losses = [nll(ordinal_probability(logit_RMJ, each), true_R) for each in TEMPERATURES.tolist()]
    return float(TEMPERATURES[int(np.argmin(losses))])


def answers_of(
    predictions: Predictions, fold_R: Integers, rows: Rows, temperatures: Temperatures
) -> Answers:
    """Return what the service would answer, by the rules of `app.diagnosis.decoder`.

    Args:
        predictions: of R windows.
        fold_R: fold of each, which chooses its temperatures.
        rows: the held-out windows.
        temperatures: of each fold.
    """
    R, _, V, J = predictions.logit_WMVJ.shape
    probability_RVK = np.full((R, V, J + 1), np.nan)
    health_RV, spread_RV = (
        each.astype(np.float64) for each in (predictions.health_WV, predictions.spread_WV)
    )
    for v in np.flatnonzero(rows.graded_V).tolist():
        for fold in np.unique(fold_R).tolist():
            own_R = np.flatnonzero(fold_R == fold)
            probability_RVK[own_R, v] = ordinal_probability(
                predictions.logit_WMVJ[own_R, :, v], temperatures.of_fold_FV[fold, v]
            )
        health_K = [grade.health for grade in rows.equipment.components[v].grades]
        probability_RK = probability_RVK[:, v, : len(health_K)]
        health_RV[:, v], spread_RV[:, v] = health_of_grades(probability_RK, health_K)
    grade_RV = np.where(rows.graded_V, np.nan_to_num(probability_RVK, nan=-1.0).argmax(-1), -1)
    return Answers(
        grade_RV.astype(np.int64),
        probability_RVK,
        health_RV,
        spread_RV,
        predictions.rul_WV.astype(np.float64),
        predictions.rul_spread_WV.astype(np.float64),
        predictions.rate_WV.astype(np.float64),
    )
