"""What held-out windows say of a training, as one `Evaluation`: figures beside baselines, intervals, abstention, robustness.

`evaluate_parts` is the only entry. It does no training of networks and writes nothing. It is long because each section of the report is
one short function over the same held-out rows; scoring, certainty, abstention and baselines stand elsewhere.
Invariant: unless the caller says `seen`, no figure uses an answer of weights, references, temperatures or thresholds that have seen the
window's fold.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from app.checkpoint.calibration import Calibration, ComponentCalibration
from app.features.binning import Floats
from app.features.spec import Limits
from app.schemas.equipment import Equipment
from train.config import TrainConfig
from train.data.labels import HOUR_US, Booleans
from train.data.reference import fit_limits
from train.data.windows import Windows
from train.evaluation.baselines import baselines
from train.evaluation.conformal import cross_fit, residuals
from train.evaluation.holdout import HoldoutPart
from train.evaluation.predict import Predictions, join
from train.evaluation.record import (
    ALONE,
    NO_MESSAGES,
    THIS,
    Answered,
    Certainty,
    Evaluation,
    IntervalFigures,
    LearningPoint,
    Listening,
    PartSize,
    Robustness,
    Scorecard,
    Trajectory,
    TroubleFigures,
)
from train.evaluation.robustness import TROUBLES, Trouble
from train.evaluation.scorecard import Answers, scorecard
from train.evaluation.scores import (
    Doubles,
    covered,
    exact_matches,
    grade_probability,
    joined_probability,
    nll,
    opinion_probability,
    reliability,
    score_grades,
)
from train.evaluation.selective_prediction import abstentions, silences
from train.evaluation.uncertainty import (
    Given,
    Rows,
    Temperatures,
    as_given,
    fit_temperatures,
    gather,
    interval,
    shares,
)

COVERAGE = 0.9
ROUNDING = 1e-6
"""Share of the scale by which a truth may miss its interval: labels and answers are float32, the service tells six decimals."""
MOST_POINTS = 400
"""Windows of a drawn trajectory."""
MOST_MACHINES = 4
"""Machines whose trajectories are drawn."""


class _Band(NamedTuple):
    """Truth, what was told and the ends of its interval, [R], of one quantity of one component."""

    true_R: Floats
    told_R: Floats
    low_R: Doubles
    high_R: Doubles


class _Bands(NamedTuple):
    """Health and remaining life of the component at a position, where it has labels of them."""

    position: int
    health: _Band | None
    rul: _Band | None


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
    rival: bool = True,
    seen: bool = False,
) -> Evaluation:
    """Evaluate what fits say of the windows that they never saw, or, where it is `seen`, what a checkpoint says of windows it may know.

    Call `train.evaluation.holdout.hold_out` after each part's fit, then this once with all of them. Temperatures, reach and thresholds are
    cross-fitted between the parts, or between groups of a single part; those of the result's `calibration` and of
    `certainty[...].temperature` come from all held-out windows and are to be shipped.

    Args:
        windows: all windows.
        parts: of one split, at least one; a window is held out by at most one part.
        config: of the training: `statistics`, `linear_weight` and `seed` are read.
        split: name of the split, for the report.
        without_messages: the same parts, of fits without message passing; None where there are none, which the notes say.
        learning: epochs of each fit by its name.
        given: what a checkpoint states: it is checked instead of fitting anew.
        cap_h: beyond which remaining life is not told apart; None for the largest label.
        rival: whether classical baselines are fitted to `train_W` of the parts.
        seen: whether windows that are scored may have been in the training of what is scored.

    Returns:
        The evaluation.

    Raises:
        ValueError: no part holds out a window.
    """
    if not sum(len(part.held_W) for part in parts):
        raise ValueError("expected parts that hold out windows, found none: give another split")
    equipment, rows = windows.equipment, gather(windows, parts, fitted_elsewhere=given is not None)
    names = tuple(part.name for part in parts)
    graded_V: Booleans = np.any(windows.labels.grade_WV >= 0, axis=0)
    cap = _cap(windows, cap_h)
    temperatures = fit_temperatures(rows, equipment, given)
    share_RVK = shares(rows.predictions, rows.fold_R, temperatures, config.linear_weight, graded_V)
    found: dict[str, Scorecard] = {
        THIS: scorecard(windows, rows, names, _answers(rows.predictions, share_RVK, graded_V), cap)
    }
    if config.linear_weight and np.isfinite(rows.predictions.opinion_WVK).any():
        alone_RVK = shares(rows.predictions, rows.fold_R, temperatures, 0.0, graded_V)
        found[ALONE] = scorecard(
            windows, rows, names, _answers(rows.predictions, alone_RVK, graded_V), cap
        )
    notes: list[str] = []
    if (never_WV := rows.labels.grade_WV != windows.labels.grade_WV[rows.window_R]).any():
        names_V = [
            each.component_id
            for each, never in zip(equipment.components, never_WV.any(0).tolist(), strict=True)
            if never
        ]
        notes.append(
            f"Grades that a part's training never showed can't be told and are not scored: of {', '.join(names_V)}."
        )
    placed_V = np.isfinite(rows.predictions.distance_WV).any(0)
    if (graded_V & ~placed_V).any():
        names_V = [
            equipment.components[v].component_id
            for v in np.flatnonzero(graded_V & ~placed_V).tolist()
        ]
        notes.append(
            f"How far evidence is from training is not known of {', '.join(names_V)}, which never abstain for that: there were too few groups, "
            "or no second opinion."
        )
    if without_messages is None:
        notes.append(
            "The ablation without message passing was not run: no fit of it was given to this evaluation."
        )
    else:
        plain = gather(windows, without_messages)
        plain_RVK = shares(
            plain.predictions, plain.fold_R, fit_temperatures(plain, equipment), 0.0, graded_V
        )
        plain_names = tuple(part.name for part in without_messages)
        found[NO_MESSAGES] = scorecard(
            windows, plain, plain_names, _answers(plain.predictions, plain_RVK, graded_V), cap
        )
    if rival and all(len(part.train_W) for part in parts):
        for name, told in baselines(windows, parts, config.statistics, config.seed).items():
            found[name] = scorecard(
                windows,
                rows,
                names,
                Answers(told.grade_WV, told.share_WVK.astype(np.float64), rul_RV=told.rul_WV),
                cap,
            )
    else:
        notes.append(
            "Classical baselines were not fitted here, for want of windows to fit them to or because they stand elsewhere."
        )
    if not rows.crossed and given is None:
        notes.append(
            "Intervals and thresholds were checked on the windows that chose them: there is one group only."
        )
    bands, certainty, calibration = _certainty(
        rows, names, equipment, temperatures, share_RVK, config, given, cap
    )
    abstention, calibration = abstentions(
        windows, parts, rows, temperatures, config.linear_weight, graded_V, calibration, given
    )
    return Evaluation(
        equipment_id=equipment.equipment_id,
        design=equipment.design,
        split=split,
        windows=len(rows.window_R),
        warm_up_windows=int((~rows.scored_R).sum()),
        groups=len(np.unique(windows.group_W[rows.window_R])),
        parts={
            part.name: PartSize(train=len(part.train_W), held=len(part.held_W)) for part in parts
        },
        grades={
            component.component_id: tuple(grade.name for grade in component.grades)
            for component, graded in zip(equipment.components, graded_V.tolist(), strict=True)
            if graded
        },
        cap_h=cap if np.isfinite(windows.labels.rul_WV).any() else None,
        cross_fitted=rows.crossed or given is not None,
        seen=seen,
        scorecards=found,
        certainty=certainty,
        answered=_answered(equipment, rows, share_RVK, graded_V, given),
        abstention=abstention,
        robustness=_robustness(parts, rows, temperatures, config.linear_weight, graded_V, cap),
        listening=_listening(equipment, parts),
        learning={name: tuple(points) for name, points in (learning or {}).items()},
        trajectories=_trajectories(windows, rows, bands),
        limits=_limits(rows, equipment, given),
        calibration=calibration,
        notes=tuple(notes),
    )


def _cap(windows: Windows, cap_h: float | None) -> float:
    known = windows.labels.rul_WV[np.isfinite(windows.labels.rul_WV)]
    return cap_h if cap_h is not None else float(known.max(initial=0.0))


def _answers(predictions: Predictions, share_RVK: Doubles, graded_V: Booleans) -> Answers:
    return Answers(
        np.where(graded_V, np.nan_to_num(share_RVK, nan=-1.0).argmax(-1), -1).astype(np.int64),
        share_RVK=share_RVK,
        health_RV=predictions.health_WV,
        rul_RV=predictions.rul_WV,
        rate_RV=predictions.rate_WV,
    )


def _answered(
    equipment: Equipment, rows: Rows, share_RVK: Doubles, graded_V: Booleans, given: Given | None
) -> dict[str, Answered]:
    silent_RV = silences(rows.predictions, rows.fold_R, rows, given)
    found: dict[str, Answered] = {}
    for v in np.flatnonzero(graded_V).tolist():
        known_R = rows.scored_R & (rows.labels.grade_WV[:, v] >= 0)
        told_R = known_R & ~silent_RV[:, v]
        if known_R.any():
            grade_R = np.nan_to_num(share_RVK[told_R, v], nan=-1.0).argmax(-1)
            found[equipment.components[v].component_id] = Answered(
                share=float(told_R.sum() / known_R.sum()),
                score=score_grades(rows.labels.grade_WV[told_R, v], grade_R)
                if told_R.any()
                else None,
            )
    return found


def _limits(rows: Rows, equipment: Equipment, given: Given | None) -> Limits | None:
    if given is not None:
        return given.limits
    excess_RS = rows.predictions.exceedance_WS[rows.scored_R]
    judged_R = np.isfinite(excess_RS).any(1)
    return fit_limits(excess_RS[judged_R], equipment) if judged_R.any() else None


def _certainty(
    rows: Rows,
    names: Sequence[str],
    equipment: Equipment,
    temperatures: Temperatures,
    share_RVK: Doubles,
    config: TrainConfig,
    given: Given | None,
    cap_h: float,
) -> tuple[dict[str, _Bands], dict[str, Certainty], Calibration]:
    """Fit and check intervals and stated probabilities of every component that has labels."""
    said, labels = rows.predictions, rows.labels
    bands: dict[str, _Bands] = {}
    found: dict[str, Certainty] = {}
    shipped: dict[str, ComponentCalibration] = {}
    stated = Calibration(coverage=COVERAGE) if given is None else given.calibration
    for v, component in enumerate(equipment.components):
        before = stated.of(equipment.design, component.component_id)
        health, health_figures = _intervals(
            rows, names, labels.health_WV[:, v], said.health_WV[:, v], said.spread_WV[:, v], 1.0,
            None if given is None else before.health_reach,
        )  # fmt: skip
        rul, rul_figures = _intervals(
            rows, names, labels.rul_WV[:, v], said.rul_WV[:, v], said.rul_spread_WV[:, v], cap_h,
            None if given is None else before.rul_reach,
        )  # fmt: skip
        if health_figures is None and rul_figures is None:
            continue
        bands[component.component_id] = _Bands(v, health, rul)
        update: dict[str, float] = {
            name: figures.reach
            for name, figures in (("health_reach", health_figures), ("rul_reach", rul_figures))
            if figures is not None
        }
        if rul_figures is not None:
            update["rul_cap_h"] = cap_h
        shipped[component.component_id] = before.model_copy(update=update)
        certainty = Certainty(health=health_figures, rul=rul_figures)
        if (labels.grade_WV[rows.scored_R, v] >= 0).any():
            certainty = certainty.model_copy(
                update=_stated(rows, v, temperatures, share_RVK, config.linear_weight)
            )
        found[component.component_id] = certainty
    calibration = (
        Calibration(coverage=COVERAGE, components={equipment.design: shipped})
        if given is None
        else stated
    )
    return bands, found, calibration


def _stated(
    rows: Rows, v: int, temperatures: Temperatures, share_RVK: Doubles, weight: float
) -> dict[str, float | tuple[tuple[float, float, int], ...]]:
    """Check the probabilities that are stated of a component's grades."""
    known_R = rows.scored_R & (rows.labels.grade_WV[:, v] >= 0)
    true_R, share_RK = rows.labels.grade_WV[known_R, v], share_RVK[known_R, v]
    plain_RK = grade_probability(rows.predictions.logit_WMVJ[known_R, :, v], 1.0)
    opinion_RK = opinion_probability(rows.predictions.opinion_WVK[known_R, v], 1.0)
    return {
        "temperature": float(temperatures.network_V[v]),
        "opinion_temperature": float(temperatures.opinion_V[v]),
        "nll_plain": nll(
            joined_probability(plain_RK, opinion_RK, weight) if weight else plain_RK, true_R
        ),
        "nll_calibrated": nll(share_RK, true_R),
        "reliability": reliability(share_RK.max(-1), share_RK.argmax(-1) == true_R),
    }


def _intervals(
    rows: Rows,
    names: Sequence[str],
    true_R: Floats,
    told_R: Floats,
    spread_R: Floats,
    cap: float,
    stated: float | None,
) -> tuple[_Band | None, IntervalFigures | None]:
    known_R = rows.scored_R & np.isfinite(true_R) & np.isfinite(told_R)
    if not known_R.any() or cap <= 0:
        return None, None
    told_R = np.clip(told_R, 0.0, cap)
    residual_R = np.where(known_R, residuals(true_R, told_R, spread_R), np.nan)
    reach = (
        cross_fit(residual_R, rows.fold_R, COVERAGE)
        if stated is None
        else as_given(stated, len(true_R))
    )
    low_R, high_R = interval(told_R, spread_R, reach.of_R, cap)
    inside_R = covered(true_R, low_R - ROUNDING * cap, high_R + ROUNDING * cap)
    return _Band(true_R, told_R, low_R, high_R), IntervalFigures(
        reach=reach.shipped,
        coverage=float(inside_R[known_R].mean()),
        parts={
            name: float(inside_R[own_R].mean())
            for number, name in enumerate(names)
            if (own_R := known_R & (rows.part_R == number)).any()
        },
        width=float((high_R - low_R)[known_R].mean()),
        windows=int(known_R.sum()),
    )


def _robustness(
    parts: Sequence[HoldoutPart],
    rows: Rows,
    temperatures: Temperatures,
    weight: float,
    graded_V: Booleans,
    cap_h: float,
) -> Robustness | None:
    """Compare what is told of the probes with one sensor broken to what is told of them whole."""
    probes = [(number, part.probes) for number, part in enumerate(parts) if part.probes is not None]
    if not probes:
        return None
    row_R = np.concatenate([rows.of(number, found.window_W) for number, found in probes])
    scored_R = rows.scored_R[row_R]
    labels = rows.labels.only(row_R[scored_R])
    exact = bool((labels.grade_WV >= 0).any())
    if not len(labels) or not (exact or np.isfinite(labels.rul_WV).any()):
        return None

    def figure(predictions: Sequence[Predictions]) -> float:
        said = join(list(predictions)).only(scored_R)
        if exact:
            fold_R = rows.fold_R[row_R][scored_R]
            answers = _answers(said, shares(said, fold_R, temperatures, weight, graded_V), graded_V)
            return float(exact_matches(labels.grade_WV, answers.grade_RV).mean())
        error_RV = np.clip(said.rul_WV, 0.0, cap_h) - np.minimum(labels.rul_WV, cap_h)
        return float(np.sqrt(np.nanmean(error_RV.astype(np.float64) ** 2)))

    clean = figure([found.clean for _, found in probes])
    troubles: dict[Trouble, TroubleFigures] = {}
    for trouble in TROUBLES:
        by_sensor = {
            sensor_id: figure([found.troubled[trouble][sensor_id] for _, found in probes])
            for sensor_id in probes[0][1].troubled[trouble]
        }
        mean = float(np.mean([*by_sensor.values()]))
        worst = (min if exact else max)(
            by_sensor, key=lambda name, by_sensor=by_sensor: by_sensor[name]
        )  # type: ignore[misc]
        troubles[trouble] = TroubleFigures(
            mean=mean,
            cost=clean - mean if exact else mean - clean,
            worst_sensor=worst,
            sensors=by_sensor,
        )
    return Robustness(
        measure="exact match" if exact else "rul rmse",
        clean=clean,
        windows=len(labels),
        troubles=troubles,
    )


def _listening(equipment: Equipment, parts: Sequence[HoldoutPart]) -> tuple[Listening, ...]:
    told = [part.attention_LE for part in parts if part.attention_LE.size]
    if not told:
        return ()
    mean_LE = np.mean(told, axis=0)
    edges: list[tuple[str, str, str]] = []  # in the order of `plan_graph`
    for connection in equipment.connections:
        if connection.evidence != "none":
            edges.append((connection.source, connection.target, connection.medium))
        if connection.evidence == "both":
            edges.append((connection.target, connection.source, connection.medium))
    return tuple(
        Listening(
            source=source, target=target, medium=medium, weights=tuple(mean_LE[:, edge].tolist())
        )
        for edge, (source, target, medium) in enumerate(edges)
    )


def _trajectories(
    windows: Windows, rows: Rows, bands: Mapping[str, _Bands]
) -> tuple[Trajectory, ...]:
    """Follow each component of a few machines through the windows that were held out."""
    found: list[Trajectory] = []
    for component_id, band in bands.items():
        for quantity, values in (("health", band.health), ("rul_h", band.rul)):
            if values is None:
                continue
            known_R = rows.scored_R & np.isfinite(values.true_R)
            for machine in np.unique(rows.labels.machine_W[known_R])[:MOST_MACHINES].tolist():
                own = np.flatnonzero(known_R & (rows.labels.machine_W == machine))
                own = own[np.argsort(rows.labels.start_us_W[own], kind="stable")]
                own = own[
                    np.unique(
                        np.linspace(0, len(own) - 1, min(MOST_POINTS, len(own))).astype(np.int64)
                    )
                ]
                hours = (rows.labels.start_us_W[own] - rows.labels.start_us_W[own[0]]) / HOUR_US
                told = {
                    name: tuple(
                        np.round(getattr(values, f"{name}_R")[own].astype(np.float64), 5).tolist()
                    )
                    for name in ("true", "told", "low", "high")
                }
                found.append(
                    Trajectory(
                        machine=windows.machines[machine],
                        component_id=component_id,
                        quantity="health" if quantity == "health" else "rul_h",
                        hours=tuple(np.round(hours, 4).tolist()),
                        **told,
                    )
                )
    return tuple(found)
