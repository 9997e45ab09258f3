"""Evaluate a training on its held-out windows: one `Evaluation` with all figures of the report.

`evaluate_parts` is the only entry; it fits no network and writes nothing. Invariant: unless `seen`
is set, no figure uses weights, references, temperatures or thresholds that have seen the window's
fold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from app.features.spec import Limits
from app.schemas.equipment import Equipment
from train.config import TrainConfig
from train.data.labels import Booleans
from train.data.reference import fit_limits
from train.data.windows import Windows
from train.evaluation.baselines import baselines
from train.evaluation.health_baselines import health_baselines
from train.evaluation.holdout import HoldoutPart
from train.evaluation.intervals import Residuals, calibrate, trajectories
from train.evaluation.predict import Predictions, join
from train.evaluation.record import (
    DEEP,
    NO_MESSAGES,
    THIS,
    WIDE,
    Answered,
    AttentionWeights,
    Evaluation,
    FaultFigures,
    LearningPoint,
    PartSize,
    Robustness,
    Scorecard,
)
from train.evaluation.robustness import FAULTS, Fault
from train.evaluation.scorecard import scorecard
from train.evaluation.scores import exact_matches, score_grades
from train.evaluation.selective_prediction import abstentions, silences
from train.evaluation.uncertainty import (
    Answers,
    Given,
    Rows,
    Temperatures,
    answers_of,
    fit_temperatures,
    gather,
)


def evaluate_parts(
    windows: Windows,
    parts: Sequence[HoldoutPart],
    config: TrainConfig,
    *,
    split: str,
    without_messages: Sequence[HoldoutPart] | None = None,
    learning: Mapping[str, Sequence[LearningPoint]] | None = None,
    given: Given | None = None,
    cap_h: float | None = None,
    with_baselines: bool = True,
    seen: bool = False,
    elsewhere: Residuals = Residuals(),  # noqa: B008
    temperatures: Mapping[str, float] | None = None,
) -> Evaluation:
    """Evaluate the fits of a split on their holdouts, or a checkpoint on windows it may have seen.

    Call `train.evaluation.holdout.predict_holdout` after each fit, then this once with all parts.
    Temperatures, reach and thresholds are cross-fitted between the parts, or between the groups of
    a single part; those in `calibration` and `uncertainty[...].temperature` are fitted on all
    held-out windows and are to be shipped.

    Args:
        windows: all windows.
        parts: of one split, at least one; a window is held out by at most one part.
        config: of the training: `statistics` and `seed` are read.
        split: name of the split, for the report.
        without_messages: the same parts of fits without message passing, None without such fits.
        learning: epochs of each fit by its name.
        given: what a checkpoint states; it is checked and nothing is fitted.
        cap_h: beyond which remaining life is not distinguished; None for the largest label.
        with_baselines: whether baselines are fitted to `train_W` of the parts.
        seen: whether scored windows may have been in the training of what is scored.
        elsewhere: residuals of the other designs of the training, see `held_out_residuals`.
        temperatures: by component id, those of the training's own split; None to fit them.

    Raises:
        ValueError: no part holds out a window.
    """
    if not sum(len(part.holdout_W) for part in parts):
        raise ValueError("expected parts that hold out windows, found none: use another split")
    equipment = windows.equipment
    masking = config.masking if given is None else given.masking
    rows = gather(windows, parts, masking, given, cap_h)
    used = fit_temperatures(rows, temperatures)
    answers = answers_of(rows.predictions, rows.fold_R, rows, used)
    found: dict[str, Scorecard] = {THIS: scorecard(rows, answers)}
    if rows.predictions.has_skip:
        found[WIDE] = _scored(rows, rows.predictions.wide_alone(), temperatures)
        found[DEEP] = _scored(rows, rows.predictions.deep_alone(), temperatures)
    if without_messages is not None:
        plain = gather(windows, without_messages, masking, cap_h=cap_h)
        found[NO_MESSAGES] = _scored(plain, plain.predictions.deep_alone(), temperatures)
    has_baselines = with_baselines and all(len(part.train_W) for part in parts)
    if has_baselines:
        of_baselines = baselines(windows, parts, config.statistics, config.seed)
        of_baselines |= health_baselines(windows, parts, config.statistics, config.seed)
        found |= {name: scorecard(rows, each) for name, each in of_baselines.items()}
    bands, uncertainty, calibration = calibrate(rows, used, answers, elsewhere)
    abstention, calibration = abstentions(rows, used, calibration)
    return Evaluation(
        equipment_id=equipment.equipment_id,
        design=equipment.design,
        split=split,
        windows=len(rows.window_R),
        warm_up_windows=int((~rows.scored_R).sum()),
        groups=len(np.unique(windows.group_W[rows.window_R])),
        parts={
            part.name: PartSize(train=len(part.train_W), holdout=len(part.holdout_W))
            for part in parts
        },
        grades={
            component.component_id: tuple(grade.name for grade in component.grades)
            for component, graded in zip(equipment.components, rows.graded_V.tolist(), strict=True)
            if graded
        },
        cap_h=rows.cap_h if np.isfinite(windows.labels.rul_WV).any() else None,
        cross_fitted=rows.is_crossed or given is not None,
        seen=seen,
        scorecards=found,
        uncertainty=uncertainty,
        answered=_answered(rows, answers),
        abstention=abstention,
        robustness=_robustness(rows, used),
        attention=_attention(equipment, parts),
        learning={name: tuple(points) for name, points in (learning or {}).items()},
        trajectories=trajectories(rows, bands),
        limits=_limits(rows),
        calibration=calibration,
        notes=_notes(rows, has_ablation=without_messages is not None, has_baselines=has_baselines),
    )


def _scored(
    rows: Rows, predictions: Predictions, temperatures: Mapping[str, float] | None
) -> Scorecard:
    """Score other predictions of the held-out windows, with temperatures of their own if None."""
    own = replace(rows, predictions=predictions, given=None)
    return scorecard(
        own, answers_of(predictions, own.fold_R, own, fit_temperatures(own, temperatures))
    )


def held_out_residuals(
    windows: Windows, parts: Sequence[HoldoutPart], config: TrainConfig
) -> Residuals:
    """Return the residuals of a design's held-out windows, for designs that have too few.

    Args:
        windows: of the design.
        parts: of one split.
        config: of the training.
    """
    rows = gather(windows, parts, config.masking, cap_h=config.cap_h(windows.equipment.design))
    temperatures = fit_temperatures(rows)
    answers = answers_of(rows.predictions, rows.fold_R, rows, temperatures)
    return Residuals.of(rows, answers)


def _notes(rows: Rows, *, has_ablation: bool, has_baselines: bool) -> tuple[str, ...]:
    """Name what could not be measured, and why."""

    def named(chosen_V: Booleans) -> str:
        components = rows.equipment.components
        return ", ".join(components[v].component_id for v in np.flatnonzero(chosen_V).tolist())

    notes: list[str] = []
    unknown_V = (rows.labels.grade_WV != rows.windows.labels.grade_WV[rows.window_R]).any(0)
    if unknown_V.any():
        notes.append(
            "Grades that are missing from a part's training cannot be predicted and are not "
            f"scored: of {named(unknown_V)}."
        )
    no_distance_V = rows.graded_V & ~np.isfinite(rows.predictions.distance_WV).any(0)
    if no_distance_V.any():
        notes.append(
            f"The OOD distance of {named(no_distance_V)} is unknown, so these components never "
            "abstain for it: there were too few groups."
        )
    if not has_ablation:
        notes.append("The ablation without message passing was not run.")
    if not has_baselines:
        notes.append(
            "Classical baselines were not fitted: there were no windows to fit them to, or they "
            "are in another report."
        )
    if not rows.is_crossed and rows.given is None:
        notes.append(
            "Intervals and thresholds were checked on the windows that chose them: there is one "
            "group only."
        )
    return tuple(notes)


def _answered(rows: Rows, answers: Answers) -> dict[str, Answered]:
    silent_RV = silences(rows.predictions, rows.fold_R, rows)
    found: dict[str, Answered] = {}
    for v in np.flatnonzero(rows.graded_V).tolist():
        component, known_R = rows.equipment.components[v], rows.known_grades(v)
        answered_R = known_R & ~silent_RV[:, v]
        if not known_R.any():
            continue
        grade_R, score, contradicting = answers.grade_RV[answered_R, v], None, None
        if answered_R.any():
            score = score_grades(rows.labels.grade_WV[answered_R, v], grade_R)
            health_K = np.array([grade.health for grade in component.grades])
            apart_RK = np.abs(answers.health_RV[answered_R, v, None] - health_K)
            contradicting = float((apart_RK.argmin(1) != grade_R).mean())
        found[component.component_id] = Answered(
            share=float(answered_R.sum() / known_R.sum()), score=score, contradicting=contradicting
        )
    return found


def _limits(rows: Rows) -> Limits | None:
    if rows.given is not None:
        return rows.given.limits
    exceedance_RS = rows.predictions.exceedance_WS[rows.scored_R]
    judged_R = np.isfinite(exceedance_RS).any(1)
    return fit_limits(exceedance_RS[judged_R], rows.equipment) if judged_R.any() else None


def _robustness(rows: Rows, temperatures: Temperatures) -> Robustness | None:
    """Compare the answers for the probes with one sensor faulty to those for clean input."""
    probes = [(n, part.probes) for n, part in enumerate(rows.parts) if part.probes is not None]
    if not probes:
        return None
    row_R = np.concatenate([rows.of(number, found.window_W) for number, found in probes])
    scored_R = rows.scored_R[row_R]
    labels = rows.labels.only(row_R[scored_R])
    exact = bool((labels.grade_WV >= 0).any())
    if not len(labels) or not (exact or np.isfinite(labels.rul_WV).any()):
        return None

    def figure(predictions: Sequence[Predictions]) -> float:
        scored = join(list(predictions)).only(scored_R)
        if exact:
            answers = answers_of(scored, rows.fold_R[row_R][scored_R], rows, temperatures)
            return float(exact_matches(labels.grade_WV, answers.grade_RV).mean())
        error_RV = np.clip(scored.rul_WV, 0.0, rows.cap_h) - np.minimum(labels.rul_WV, rows.cap_h)
        return float(np.sqrt(np.nanmean(error_RV.astype(np.float64) ** 2)))

    clean = figure([found.clean for _, found in probes])
    faults: dict[Fault, FaultFigures] = {}
    for fault in FAULTS:
        by_sensor = {
            sensor_id: figure([found.faulty[fault][sensor_id] for _, found in probes])
            for sensor_id in probes[0][1].faulty[fault]
        }
        mean = float(np.mean([*by_sensor.values()]))
        worst = (min if exact else max)(by_sensor.items(), key=lambda item: item[1])
        faults[fault] = FaultFigures(
            mean=mean,
            cost=clean - mean if exact else mean - clean,
            worst_sensor=worst[0],
            sensors=by_sensor,
        )
    return Robustness(
        measure="exact match" if exact else "rul rmse",
        clean=clean,
        windows=len(labels),
        faults=faults,
    )


def _attention(equipment: Equipment, parts: Sequence[HoldoutPart]) -> tuple[AttentionWeights, ...]:
    found = [part.attention_LE for part in parts if part.attention_LE.size]
    if not found:
        return ()
    mean_LE = np.mean(found, axis=0)
    edges: list[tuple[str, str, str]] = []  # in the order of `plan_graph`
    for connection in equipment.connections:
        if connection.evidence != "none":
            edges.append((connection.source, connection.target, connection.medium))
        if connection.evidence == "both":
            edges.append((connection.target, connection.source, connection.medium))
    return tuple(
        AttentionWeights(
            source=source, target=target, medium=medium, weights=tuple(mean_LE[:, edge].tolist())
        )
        for edge, (source, target, medium) in enumerate(edges)
    )
