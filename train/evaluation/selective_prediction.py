"""Selective prediction: thresholds of abstention, and the risk of the answers with sensors missing.

Invariant: the threshold applied to a window was chosen on windows of other folds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom, norm

from app.checkpoint.calibration import Calibration, ComponentCalibration
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.sufficiency import lacks_evidence, plan_evidence
from app.features.range_checks import window_exceedance
from train.data.labels import Booleans, Integers
from train.evaluation.conformal import (
    RISK_SLACK,
    Removal,
    choose_threshold,
    others,
    removal_levels,
    risk_coverage,
)
from train.evaluation.predict import Predictions, join
from train.evaluation.record import TOGETHER, Abstention
from train.evaluation.scores import Doubles
from train.evaluation.uncertainty import Rows, Temperatures, answers_of

RANGE_SHARE = 0.999
"""Share of held-out windows inside the limit of range exceedance; as in `fit_limits`."""
CHANCE = 0.05


class _Graded(NamedTuple):
    """Answers about a graded component, the fold of each, and the component's calibration."""

    component_id: str
    removal: Removal
    fold_R: Integers
    stated: ComponentCalibration


def abstentions(
    rows: Rows, temperatures: Temperatures, calibration: Calibration
) -> tuple[dict[str, Abstention], Calibration]:
    """Choose thresholds across folds and measure them; those of a checkpoint are only measured.

    All graded components share one threshold; each component without grades has its own. As in the
    service, `silences` are not answered, and a threshold applies where a sensor is missing whose
    evidence can reach the component.

    Args:
        rows: the held-out windows; without removals in its parts, nothing is measured.
        temperatures: of each fold.
        calibration: gets the thresholds chosen on all removals.

    Returns:
        Figures by component id, and pooled over the graded ones; and the calibration to ship.
    """
    removals = [
        (number, part.removals)
        for number, part in enumerate(rows.parts)
        if part.removals is not None
    ]
    if not removals:
        return {}, calibration
    equipment, away = rows.equipment, removals[0][1].away
    row_R = np.concatenate([rows.of(number, each.window_W) for number, each in removals])
    fold_R, labels = rows.fold_R[row_R], rows.labels.only(row_R)
    levels = [join([each.predictions[level] for _, each in removals]) for level in range(len(away))]
    answers = [answers_of(level, fold_R, rows, temperatures) for level in levels]
    silent_LRV = np.stack([silences(level, fold_R, rows) for level in levels])
    missing_LRS = np.stack([np.isnan(level.exceedance_WS) for level in levels])
    graded: list[_Graded] = []
    found: dict[str, Abstention] = {}
    shipped: dict[str, ComponentCalibration] = {}
    for v, component in enumerate(equipment.components):
        component_id = component.component_id
        if rows.graded_V[v]:
            known_R = labels.grade_WV[:, v] >= 0
            trust_LR = np.stack([each.probability_RVK[:, v].max(-1) for each in answers])
            loss_LR = np.stack([each.grade_RV[:, v] != labels.grade_WV[:, v] for each in answers])
        else:
            known_R = np.isfinite(labels.health_WV[:, v])
            trust_LR = np.stack([-each.spread_RV[:, v] for each in answers])
            loss_LR = np.abs(
                np.stack([each.health_RV[:, v] for each in answers]) - labels.health_WV[:, v]
            )
        known_R &= rows.scored_R[row_R]
        if not known_R.any():
            continue
        applies_LR: Booleans = np.any(
            missing_LRS[..., list(equipment.sensors_in_reach(v))], axis=-1
        )
        applies_LR[0] = True  # with all sensors the stated confidence is measured
        trust_LR = np.where(applies_LR, trust_LR, np.inf)
        trust_LR[silent_LRV[..., v]] = -np.inf
        removal = Removal(trust_LR, loss_LR.astype(np.float64)).only(known_R)
        stated = calibration.of(equipment.design, component_id)
        if rows.graded_V[v]:
            graded.append(_Graded(component_id, removal, fold_R[known_R], stated))
            continue
        if rows.given is None:
            threshold_R, chosen = _cross_choose(removal, fold_R[known_R])
        else:
            chosen = -np.inf if stated.most_spread is None else -stated.most_spread
            threshold_R = np.full(int(known_R.sum()), chosen)
        most_spread = -chosen if np.isfinite(chosen) else None
        found[component_id] = _figures(removal, threshold_R, away, most_spread=most_spread)
        shipped[component_id] = stated.model_copy(update={"most_spread": most_spread})
    if graded:
        of_grades, least = _of_grades(graded, away, is_given=rows.given is not None)
        found = of_grades | found
        for each in graded:
            update = {"least_confidence": min(1.0, max(0.0, least))}
            shipped[each.component_id] = each.stated.model_copy(update=update)
    if rows.given is not None:
        return found, calibration
    components = {**calibration.components.get(equipment.design, {}), **shipped}
    return found, Calibration(
        coverage=calibration.coverage,
        components={**calibration.components, equipment.design: components},
    )


def silences(predictions: Predictions, fold_R: Integers, rows: Rows) -> Booleans:
    """Return which components abstain in some windows, whatever the prediction, [R, V].

    All do where more sensors are missing than `Thresholds.max_missing`, or where the range
    exceedance is above that of held-out windows of other folds, or above a checkpoint's limit; one
    does where its OOD distance is above `Thresholds.max_distance`, or where it lacks evidence, see
    `app.diagnosis.sufficiency`.

    Args:
        predictions: of the windows.
        fold_R: of each.
        rows: the held-out windows.
    """
    excess_R = window_exceedance(predictions.exceedance_WS)
    limit_R = np.full(len(excess_R), np.inf)
    if rows.given is None:
        clean_R = window_exceedance(rows.predictions.exceedance_WS)
        for fold in np.unique(fold_R).tolist():
            deciding_R = rows.scored_R & others(rows.fold_R, fold)
            if deciding_R.any():
                limit_R[fold_R == fold] = np.quantile(clean_R[deciding_R], RANGE_SHARE)
    elif rows.given.limits is not None:
        limit_R[:] = rows.given.limits.window
    useless_R = np.isnan(predictions.exceedance_WS).mean(1) > Thresholds().max_missing
    silent_R = useless_R | (excess_R > limit_R)
    silent_RV: Booleans = silent_R[:, None] | (predictions.distance_WV > Thresholds().max_distance)
    predicted = frozenset(each.component_id for each in rows.equipment.components)
    plan = plan_evidence(rows.equipment, rows.masking, predicted)
    lacks_RL = lacks_evidence(predictions.usable_WS, plan)
    for v, lacks_R in zip(plan.component_L.tolist(), lacks_RL.T, strict=True):
        silent_RV[:, v] |= lacks_R
    return silent_RV


def _of_grades(
    graded: Sequence[_Graded], away: Sequence[int], *, is_given: bool
) -> tuple[dict[str, Abstention], float]:
    """Choose one confidence for all graded components by the risk of all their answers.

    A component with few errors has too few of them for a threshold of its own: the first one would
    make it abstain.
    """
    together = Removal(
        np.concatenate([each.removal.trust_LW for each in graded], axis=1),
        np.concatenate([each.removal.loss_LW for each in graded], axis=1),
    )
    sizes = [len(each.fold_R) for each in graded]
    if is_given:
        least = [each.stated.least_confidence for each in graded]
        threshold_R, chosen = np.repeat(least, sizes), max(least)
    else:
        threshold_R, chosen = _cross_choose(
            together, np.concatenate([each.fold_R for each in graded])
        )
        least = [chosen] * len(graded)
    found = {TOGETHER: _figures(together, threshold_R, away, least_confidence=max(0.0, chosen))}
    own = np.split(threshold_R, np.cumsum(sizes)[:-1])
    for each, own_R, confidence in zip(graded, own, least, strict=True):
        found[each.component_id] = _figures(
            each.removal, own_R, away, least_confidence=max(0.0, confidence)
        )
    return found, chosen


def _cross_choose(removal: Removal, fold_R: Integers) -> tuple[Doubles, float]:
    """Return the threshold of each window, chosen on other folds, and that of all windows."""
    threshold_R = np.empty(len(fold_R))
    for fold in np.unique(fold_R).tolist():
        threshold_R[fold_R == fold] = choose_threshold(removal.only(others(fold_R, fold)))
    return threshold_R, choose_threshold(removal)


def _figures(
    removal: Removal,
    threshold_R: Doubles,
    away: Sequence[int],
    *,
    least_confidence: float | None = None,
    most_spread: float | None = None,
) -> Abstention:
    full_risk, levels = removal.full_risk, removal_levels(removal, threshold_R, away)
    allowed = RISK_SLACK * full_risk
    answered = [(each.risk, each.windows) for each in levels if each.risk is not None]
    worst = max((risk for risk, _ in answered), default=0.0)
    return Abstention(
        least_confidence=least_confidence,
        most_spread=most_spread,
        full_risk=full_risk,
        worst_ratio=worst / full_risk if full_risk > 0 else None,
        holds=worst <= allowed + 1e-12,
        holds_beyond_chance=not any(
            _beyond_chance(risk, count, allowed, removal.loss_LW, len(levels))
            for risk, count in answered
        ),
        levels=levels,
        curve=risk_coverage(removal.trust_LW[0], removal.loss_LW[0]),
    )


def _beyond_chance(risk: float, count: int, allowed: float, loss_LW: Doubles, levels: int) -> bool:
    """Return whether chance explains such a risk in fewer than one of twenty evaluations."""
    if risk <= allowed:
        return False
    if np.isin(loss_LW, (0.0, 1.0)).all():
        return bool(binom.sf(round(risk * count) - 1, count, min(allowed, 1.0)) < CHANCE / levels)
    error = float(loss_LW.std()) / np.sqrt(count)
    return bool(norm.sf((risk - allowed) / max(error, 1e-12)) < CHANCE / levels)
