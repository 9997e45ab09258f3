"""Selective prediction: thresholds of abstention, and the risk of the answers with sensors missing.

Invariant: the threshold applied to a window was chosen on windows of other folds.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom, norm

from app.checkpoint.calibration import Calibration, ComponentCalibration
from app.checkpoint.masking import Masking
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.sufficiency import lacks_evidence, plan_evidence
from app.features.binning import Floats
from app.features.range_checks import window_exceedance
from app.schemas.equipment import Equipment
from train.data.labels import Booleans, Integers
from train.data.windows import Windows
from train.evaluation.conformal import (
    RISK_SLACK,
    Removal,
    choose_threshold,
    others,
    removal_levels,
    risk_coverage,
)
from train.evaluation.holdout import HoldoutPart
from train.evaluation.predict import Predictions, join
from train.evaluation.record import TOGETHER, Abstention, LevelFigures
from train.evaluation.scores import Doubles
from train.evaluation.uncertainty import Given, Rows, Temperatures, probabilities

RANGE_SHARE = 0.999
"""Share of held-out windows inside the limit of range exceedance; as in `fit_limits`."""
CHANCE = 0.05


def abstentions(
    windows: Windows,
    parts: Sequence[HoldoutPart],
    rows: Rows,
    temperatures: Temperatures,
    weight: float,
    graded_V: Booleans,
    calibration: Calibration,
    masking: Masking,
    given: Given | None,
) -> tuple[dict[str, Abstention], Calibration]:
    """Choose thresholds across folds and measure them.

    All graded components share one threshold; each component without grades has its own. As in the
    service, `silences` are not answered, and a threshold applies where a sensor is missing whose
    evidence can reach the component.

    Args:
        windows: all windows.
        parts: with their removals; without any, nothing is measured.
        rows: the held-out windows.
        temperatures: of each fold.
        weight: share of the linear classifier.
        graded_V: components with grades.
        calibration: gets the thresholds chosen on all removals.
        masking: of the training.
        given: what a checkpoint states, measured instead of chosen.

    Returns:
        Figures by component id, and pooled over the graded ones; and the calibration to ship.
    """
    removals = [
        (number, part.removals) for number, part in enumerate(parts) if part.removals is not None
    ]
    if not removals:
        return {}, calibration
    equipment = windows.equipment
    away = removals[0][1].away
    row_R = np.concatenate([rows.of(number, found.window_W) for number, found in removals])
    fold_R, scored_R = rows.fold_R[row_R], rows.scored_R[row_R]
    labels = rows.labels.only(row_R)
    levels = [
        [found.predictions[level] for _, found in removals] for level in range(len(away))
    ]  # by level, then by part
    silent_LRV = np.stack(
        [silences(join(level), equipment, masking, fold_R, rows, given) for level in levels]
    )
    reach_V = [equipment.sensors_in_reach(v) for v in range(len(equipment.components))]
    lacking_LRV = np.stack(
        [
            _lacking(np.concatenate([each.exceedance_WS for each in level]), reach_V)
            for level in levels
        ]
    )
    lacking_LRV[0] = True  # with all sensors the stated confidence is measured
    probability_LRVK = [
        np.concatenate(
            [
                probabilities(
                    each,
                    rows.fold_R[rows.of(number, found.window_W)],
                    temperatures,
                    weight,
                    graded_V,
                )
                for each, (number, found) in zip(level, removals, strict=True)
            ]
        )
        for level in levels
    ]
    found: dict[str, Abstention] = {}
    shipped: dict[str, ComponentCalibration] = {}
    pooled: list[tuple[str, Removal, Integers]] = []
    for v, component in enumerate(equipment.components):
        known_R = scored_R & (
            (labels.grade_WV[:, v] >= 0) if graded_V[v] else np.isfinite(labels.health_WV[:, v])
        )
        if not known_R.any():
            continue
        if graded_V[v]:
            removal = _of_grades(
                [probability_RVK[:, v] for probability_RVK in probability_LRVK],
                labels.grade_WV[:, v],
                silent_LRV[..., v],
                lacking_LRV[..., v],
            ).only(known_R)
            pooled.append((component.component_id, removal, fold_R[known_R]))
            continue
        removal = _of_health(
            levels,
            v,
            labels.health_WV[:, v].astype(np.float64),
            silent_LRV[..., v],
            lacking_LRV[..., v],
        ).only(known_R)
        stated = calibration.of(equipment.design, component.component_id)
        threshold_R, chosen = _thresholds(
            removal, fold_R[known_R], None if given is None else -_bound(stated)
        )
        found[component.component_id] = _figures(removal, threshold_R, away, chosen, graded=False)
        shipped[component.component_id] = stated.model_copy(
            update={"most_spread": -chosen if np.isfinite(chosen) else None}
        )
    if pooled:
        of_grades, least = _of_all_grades(
            pooled, away, calibration, equipment.design, is_given=given is not None
        )
        found = {**of_grades, **found}
        for component_id, _, _ in pooled:
            stated = calibration.of(equipment.design, component_id)
            shipped[component_id] = stated.model_copy(
                update={"least_confidence": min(1.0, max(0.0, least))}
            )
    if given is not None:
        return found, calibration
    components = {**calibration.components.get(equipment.design, {}), **shipped}
    return found, Calibration(
        coverage=calibration.coverage,
        components={**calibration.components, equipment.design: components},
    )


def silences(
    predictions: Predictions,
    equipment: Equipment,
    masking: Masking,
    fold_R: Integers,
    rows: Rows,
    given: Given | None,
) -> Booleans:
    """Return which components abstain in some windows, whatever the prediction, [R, V].

    All do where more sensors are missing than `Thresholds.max_missing`, or where the range
    exceedance is above that of held-out windows of other folds; one does where its OOD distance is
    above `Thresholds.max_distance`, or where it lacks evidence, see `app.diagnosis.sufficiency`.

    Args:
        predictions: of the windows.
        equipment: the machine, of which the network predicts all components.
        masking: of the training.
        fold_R: of each.
        rows: the held-out windows.
        given: limits of a checkpoint, applied instead of those of the other folds.
    """
    useless_R = np.isnan(predictions.exceedance_WS).mean(1) > Thresholds().max_missing
    excess_R = window_exceedance(predictions.exceedance_WS)
    clean_R = window_exceedance(rows.predictions.exceedance_WS)
    limit_R = np.full(len(excess_R), np.inf)
    for fold in np.unique(fold_R).tolist():
        if given is not None:
            limit_R[fold_R == fold] = np.inf if given.limits is None else given.limits.window
            continue
        deciding_R = rows.scored_R & others(rows.fold_R, fold)
        if deciding_R.any():
            limit_R[fold_R == fold] = np.quantile(clean_R[deciding_R], RANGE_SHARE)
    silent_R = useless_R | (excess_R > limit_R)
    silent_RV: Booleans = silent_R[:, None] | (predictions.distance_WV > Thresholds().max_distance)
    predicted = frozenset(each.component_id for each in equipment.components)
    plan = plan_evidence(equipment, masking, predicted)
    lacks_RL = lacks_evidence(predictions.usable_WS, plan)
    for v, lacks_R in zip(plan.component_L.tolist(), lacks_RL.T, strict=True):
        silent_RV[:, v] |= lacks_R
    return silent_RV


def _lacking(excess_RS: Floats, reach_V: Sequence[Sequence[int]]) -> Booleans:
    """Return which components miss a sensor whose evidence can reach them, [R, V]."""
    lacks_RS = np.isnan(excess_RS)
    return np.stack([lacks_RS[:, list(sensors)].any(1) for sensors in reach_V], axis=1)


def _trust(trust_LR: Doubles, silent_LR: Booleans, lacking_LR: Booleans) -> Doubles:
    return np.where(silent_LR, -np.inf, np.where(lacking_LR, trust_LR, np.inf))


def _of_grades(
    probability_LRK: Sequence[Doubles], true_R: Integers, silent_LR: Booleans, lacking_LR: Booleans
) -> Removal:
    trust_LR = np.stack([probability_RK.max(-1) for probability_RK in probability_LRK])
    loss_LR = np.stack(
        [probability_RK.argmax(-1) != true_R for probability_RK in probability_LRK]
    ).astype(np.float64)
    return Removal(_trust(trust_LR, silent_LR, lacking_LR), loss_LR)


def _of_health(
    levels: Sequence[Sequence[Predictions]],
    v: int,
    true_R: Doubles,
    silent_LR: Booleans,
    lacking_LR: Booleans,
) -> Removal:
    health_LR = np.stack(
        [np.concatenate([each.health_WV[:, v] for each in level]) for level in levels]
    )
    spread_LR = np.stack(
        [np.concatenate([each.spread_WV[:, v] for each in level]) for level in levels]
    )
    return Removal(
        _trust(-spread_LR.astype(np.float64), silent_LR, lacking_LR), np.abs(health_LR - true_R)
    )


def _of_all_grades(
    pooled: Sequence[tuple[str, Removal, Integers]],
    away: Sequence[int],
    calibration: Calibration,
    design: str,
    *,
    is_given: bool,
) -> tuple[dict[str, Abstention], float]:
    """Choose one confidence for all graded components by the risk of all their answers.

    A component with few errors has too few of them for a threshold of its own: the first one would
    make it abstain.
    """
    together = Removal(
        np.concatenate([removal.trust_LW for _, removal, _ in pooled], axis=1),
        np.concatenate([removal.loss_LW for _, removal, _ in pooled], axis=1),
    )
    stated = [
        calibration.of(design, component_id).least_confidence for component_id, _, _ in pooled
    ]
    if is_given:
        threshold_R = np.repeat(stated, [len(fold_R) for _, _, fold_R in pooled])
        chosen = max(stated)
    else:
        threshold_R, chosen = _thresholds(
            together, np.concatenate([fold_R for _, _, fold_R in pooled]), None
        )
    found: dict[str, Abstention] = {}
    first = 0
    for component_id, removal, fold_R in pooled:
        own_R = threshold_R[first : first + len(fold_R)]
        least = calibration.of(design, component_id).least_confidence if is_given else chosen
        found[component_id] = _figures(removal, own_R, away, least, graded=True)
        first += len(fold_R)
    return {TOGETHER: _figures(together, threshold_R, away, chosen, graded=True), **found}, chosen


def _bound(stated: ComponentCalibration) -> float:
    return np.inf if stated.most_spread is None else stated.most_spread


def _thresholds(removal: Removal, fold_R: Integers, stated: float | None) -> tuple[Doubles, float]:
    if stated is not None:
        return np.full(len(fold_R), stated), stated
    threshold_R = np.empty(len(fold_R))
    for fold in np.unique(fold_R).tolist():
        threshold_R[fold_R == fold] = choose_threshold(removal.only(others(fold_R, fold)))
    return threshold_R, choose_threshold(removal)


def _figures(
    removal: Removal,
    threshold_R: Doubles,
    away: Sequence[int],
    chosen: float | None,
    *,
    graded: bool,
) -> Abstention:
    full_risk, levels = removal.full_risk, removal_levels(removal, threshold_R, away)
    allowed = RISK_SLACK * full_risk
    answered = [each for each in levels if each.risk is not None]
    worst = max((each.risk for each in answered if each.risk is not None), default=0.0)
    beyond = [
        each
        for each in answered
        if each.risk is not None
        and _beyond_chance(each.risk, each.windows, allowed, removal.loss_LW, len(levels))
    ]
    return Abstention(
        least_confidence=max(0.0, chosen) if graded and chosen is not None else None,
        most_spread=-chosen if not graded and chosen is not None and np.isfinite(chosen) else None,
        full_risk=full_risk,
        worst_ratio=worst / full_risk if full_risk > 0 else None,
        holds=worst <= allowed + 1e-12,
        holds_beyond_chance=not beyond,
        levels=tuple(
            LevelFigures(
                away=each.away, answered=each.answered, risk=each.risk, windows=each.windows
            )
            for each in levels
        ),
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
