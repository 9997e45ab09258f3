"""Score the answers of one model against the labels: checkpoint, baselines and ablations alike.

Pure. Invariant: warm-ups count in the warm-up's own score alone, and a part's figure is of the
windows that the part holds out.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from sklearn.metrics import roc_auc_score

from app.diagnosis.states import STATES, state_ranks
from app.features.binning import Floats
from train.data.labels import Booleans, Integers
from train.evaluation.record import GradeFigures, LifeFigures, Scorecard, ShareFigures
from train.evaluation.scores import (
    Doubles,
    LifeScore,
    Score,
    confusion,
    exact_matches,
    last_half,
    runs,
    score_grades,
    score_life,
    smooth,
)
from train.evaluation.uncertainty import Answers, Rows

SMOOTHED = 5
"""Windows whose probabilities the smoothed figures average."""

Figure = TypeVar("Figure")


def scorecard(rows: Rows, answers: Answers) -> Scorecard:
    """Score answers for the held-out windows."""
    equipment, true_RV = rows.equipment, rows.labels.grade_WV
    answered_V: Booleans = np.any(answers.grade_RV >= 0, axis=0)
    graded = [v for v in np.flatnonzero((true_RV >= 0).any(0)).tolist() if answered_V[v]]
    smoothed_RV = _smoothed(rows, answers) if graded else answers.grade_RV
    ids = [component.component_id for component in equipment.components]
    warm_R = ~rows.scored_R

    def figures(grade_RV: Integers, v: int) -> GradeFigures | None:
        def score(chosen_R: Booleans) -> Score:
            return score_grades(true_RV[chosen_R, v], grade_RV[chosen_R, v])

        known_R = rows.known_grades(v)
        if not known_R.any():
            return None
        by_part = _by_part(rows, known_R, score)
        return GradeFigures(
            pooled=score(known_R),
            parts=by_part,
            mean_macro_f1=float(np.mean([each.macro_f1 for each in by_part.values()])),
            confusion=confusion(
                true_RV[known_R, v], grade_RV[known_R, v], len(equipment.components[v].grades)
            ),
        )

    def exact(grade_RV: Integers) -> ShareFigures | None:
        known_RV = np.where(np.isin(np.arange(true_RV.shape[1]), graded), true_RV, -1)
        known_R = rows.scored_R & (known_RV >= 0).any(1)
        if not known_R.any():
            return None
        right_R = exact_matches(known_RV, grade_RV)
        by_part = _by_part(rows, known_R, lambda chosen_R: float(right_R[chosen_R].mean()))
        return ShareFigures(
            pooled=float(right_R[known_R].mean()),
            parts=by_part,
            mean=float(np.mean([*by_part.values()])),
        )

    return Scorecard(
        grades={ids[v]: found for v in graded if (found := figures(answers.grade_RV, v))},
        smoothed={ids[v]: found for v in graded if (found := figures(smoothed_RV, v))},
        exact_match=exact(answers.grade_RV) if graded else None,
        exact_match_smoothed=exact(smoothed_RV) if graded else None,
        warm_up={
            ids[v]: score_grades(true_RV[known_R, v], answers.grade_RV[known_R, v])
            for v in graded
            if (known_R := warm_R & (true_RV[:, v] >= 0)).any()
        },
        health_mae=_health_mae(rows, ids, answers),
        even_health_mae=even_error(*_ungraded_health(rows, answers)),
        worn_health_mae=_worn_error(*_ungraded_health(rows, answers)),
        states=_states(rows, ids, answers),
        ranking=_ranking(rows, ids, answers),
        life=_life(rows, ids, answers),
    )


def _by_part(
    rows: Rows, known_R: Booleans, score: Callable[[Booleans], Figure]
) -> dict[str, Figure]:
    chosen = {part.name: known_R & (rows.part_R == n) for n, part in enumerate(rows.parts)}
    return {name: score(chosen_R) for name, chosen_R in chosen.items() if chosen_R.any()}


def _smoothed(rows: Rows, answers: Answers) -> Integers:
    equipment = rows.equipment
    configuration_R = rows.windows.configuration_W[rows.window_R]
    run_R = runs(
        configuration_R * (int(rows.part_R.max()) + 1) + rows.part_R,
        rows.labels.machine_W,
        rows.labels.start_us_W,
        equipment.bins * equipment.grid_us,
    )
    smoothed_RVK = smooth(answers.probability_RVK, run_R, SMOOTHED)
    grade_RV = np.nan_to_num(smoothed_RVK, nan=-1.0).argmax(-1)
    return np.where(answers.grade_RV < 0, -1, grade_RV).astype(np.int64)


def _health_mae(rows: Rows, ids: Sequence[str], answers: Answers) -> dict[str, float]:
    error_RV = np.abs(answers.health_RV - rows.labels.health_WV)[rows.scored_R]
    return {
        component_id: float(np.nanmean(error_RV[:, v]))
        for v, component_id in enumerate(ids)
        if np.isfinite(error_RV[:, v]).any()
    }


def even_error(true_X: Floats, predicted_X: Doubles) -> float | None:
    """Return the mean absolute error of health with severities spread evenly.

    The errors at health 1 and in each fifth of the range below count equally, however many they
    are; empty ones do not count.

    Args:
        true_X: health in [0, 1].
        predicted_X: likewise.
    """
    place_X = np.where(true_X >= 1.0, 5, np.minimum(true_X * 5, 4).astype(np.int64))
    error_X = np.abs(predicted_X - true_X)
    means = [float(error_X[place_X == place].mean()) for place in np.unique(place_X)]
    return float(np.mean(means)) if means else None


def _worn_error(true_X: Floats, predicted_X: Doubles) -> float | None:
    is_worn_X = true_X < 1.0
    error_X = np.abs(predicted_X - true_X)[is_worn_X]
    return float(error_X.mean()) if len(error_X) else None


def _ungraded_health(rows: Rows, answers: Answers) -> tuple[Floats, Doubles]:
    """Return true and predicted health of the components without grades, where both are known."""
    true_RV, predicted_RV = rows.labels.health_WV, answers.health_RV
    is_graded_V = (rows.labels.grade_WV >= 0).any(0)
    known_RV = rows.scored_R[:, None] & ~is_graded_V & np.isfinite(true_RV)
    known_RV &= np.isfinite(predicted_RV)
    return true_RV[known_RV], predicted_RV[known_RV]


def _states(rows: Rows, ids: Sequence[str], answers: Answers) -> dict[str, Score]:
    true_RV, predicted_RV = rows.labels.health_WV, answers.health_RV
    known_RV = rows.scored_R[:, None] & np.isfinite(true_RV) & np.isfinite(predicted_RV)
    return {
        component_id: score_grades(
            state_ranks(true_RV[known_RV[:, v], v]), state_ranks(predicted_RV[known_RV[:, v], v])
        )
        for v, component_id in enumerate(ids)
        if known_RV[:, v].any()
    }


def _ranking(rows: Rows, ids: Sequence[str], answers: Answers) -> dict[str, float]:
    found: dict[str, float] = {}
    for v, component_id in enumerate(ids):
        true_R, predicted_R = rows.labels.health_WV[:, v], answers.health_RV[:, v]
        known_R = rows.scored_R & np.isfinite(true_R) & np.isfinite(predicted_R)
        is_faulty_R = state_ranks(true_R[known_R]) < STATES.index("healthy")
        if is_faulty_R.any() and not is_faulty_R.all():
            found[component_id] = float(roc_auc_score(is_faulty_R, -predicted_R[known_R]))
    return found


def _life(rows: Rows, ids: Sequence[str], answers: Answers) -> dict[str, LifeFigures]:
    found: dict[str, LifeFigures] = {}
    labels, cap_h = rows.windows.labels, rows.cap_h
    for v, component_id in enumerate(ids):
        true_R, predicted_R = rows.labels.rul_WV[:, v], answers.rul_RV[:, v]
        known_R = rows.scored_R & np.isfinite(true_R) & np.isfinite(predicted_R)
        if not known_R.any():
            continue
        # of all windows, since a part may hold only the end of a life
        half_W = last_half(labels.machine_W, labels.start_us_W, labels.rul_WV[:, v], cap_h)
        rate_R = answers.rate_RV[:, v] if np.isfinite(answers.rate_RV[:, v]).any() else None
        score = partial(_score_life, true_R, predicted_R, rate_R, half_W[rows.window_R], rows.cap_h)
        by_part = _by_part(rows, known_R, score)
        found[component_id] = LifeFigures(
            pooled=score(known_R),
            parts=by_part,
            mean_rmse_h=float(np.mean([each.rmse_h for each in by_part.values()])),
        )
    return found


def _score_life(
    true_R: Floats,
    predicted_R: Doubles,
    rate_R: Doubles | None,
    half_R: Booleans,
    cap_h: float,
    chosen_R: Booleans,
) -> LifeScore:
    rate = None if rate_R is None else rate_R[chosen_R]
    return score_life(true_R[chosen_R], predicted_R[chosen_R], cap_h, rate, half_R[chosen_R])
