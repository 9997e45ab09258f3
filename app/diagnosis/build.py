"""Build a diagnosis from the prediction for a window and the quality of its input.

Pure: no clock, no store, no random numbers. Invariant: what is unknown is null, with a reason.
"""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import Literal, NamedTuple

from app.diagnosis.decoder import (
    UNKNOWN_INTERVAL,
    DecodedComponent,
    PredictionDecoder,
    WindowPrediction,
    unit,
)
from app.diagnosis.evidence import add_evidence
from app.diagnosis.input_quality import (
    MAX_NAMED,
    Thresholds,
    WindowQuality,
    abstention_reasons,
)
from app.diagnosis.machine_trends import WindowTrends
from app.diagnosis.root_cause import rank_causes, verdict_of
from app.diagnosis.states import state_of
from app.diagnosis.sufficiency import reasons_of_lack
from app.diagnosis.wear_estimates import Wear, wear_of
from app.model.graph import Contributions
from app.schemas.diagnosed_input import (
    FaultySensor,
    InputQuality,
    SensorFault,
    UsedBaseline,
    Window,
)
from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis, State
from app.schemas.equipment import Equipment
from app.schemas.places import some_of

MAX_LEADING = 3
"""Sensors that a reason names as leading the OOD distance."""
ABSTAINS = "this component abstains, see the reasons of the diagnosis"


class Scores(NamedTuple):
    """Prediction for one window of one equipment.

    Args:
        predicted: of the components, in topology order.
        contributions: of each sensor; None without `explain`.
    """

    predicted: WindowPrediction
    contributions: Contributions | None = None


class DiagnosisContext(NamedTuple):
    """Identity and window of a diagnosis, and the source of its readings.

    Args:
        diagnosis_id: of the diagnosis.
        created_at: UTC.
        window: of the readings.
        source: `inline` or `store`.
        stale_s: age of the newest reading; None for inline readings.
        fallback: whether another version answers than the one that was chosen.
        input_digest: of the window's bins.
        baseline: of the machine, by which its readings were normalised; None without one.
    """

    diagnosis_id: str
    created_at: datetime
    window: Window
    source: Literal["store", "inline"]
    stale_s: float | None
    fallback: bool
    input_digest: str
    baseline: UsedBaseline | None = None


def build_diagnosis(
    equipment: Equipment,
    context: DiagnosisContext,
    scores: Scores,
    quality: WindowQuality,
    decoder: PredictionDecoder,
    thresholds: Thresholds,
    previous: Mapping[str, State],
    trends: WindowTrends | None = None,
) -> Diagnosis:
    """Build the full answer for one equipment and window.

    Args:
        equipment: with the topology of the scores.
        context: identity, window and source.
        scores: from the model.
        quality: of the window's input.
        decoder: of the version that answers.
        thresholds: of states and abstention.
        previous: last state by component id, for hysteresis; may be empty.
        trends: of the stored diagnoses of earlier windows; None where they are not used.
    """
    decoded_V = scores.predicted.decoded(decoder, equipment.component_ids)
    components: list[ComponentDiagnosis] = []
    doubts: dict[str, str] = {}
    distant: dict[str, float] = {}
    lacks = {} if quality.lacks_baseline else reasons_of_lack(equipment, quality, decoder)
    lacking = _lacking(equipment, quality)
    for index, (component_id, decoded, novelty) in enumerate(
        zip(equipment.component_ids, decoded_V, quality.range_novelty_V.tolist(), strict=True)
    ):
        abstains = quality.lacks_baseline or index in lacks
        if not abstains:
            if index in lacking and (doubt := decoder.doubt(component_id, decoded)):
                doubts[component_id] = doubt
            if decoded.distance > thresholds.max_distance:  # false where it is unknown
                distant[component_id] = decoded.distance
            abstains = component_id in doubts or component_id in distant
        if abstains:
            components.append(_abstaining(component_id, decoded))
        else:
            before = previous.get(component_id)
            wear = wear_of(component_id, decoded, trends)
            components.append(_component(component_id, decoded, wear, novelty, thresholds, before))
    if scores.contributions is not None:
        add_evidence(components, scores.contributions, quality, equipment)
    without_evidence = {equipment.components[index].component_id for index in lacks}
    explained = doubts.keys() | distant.keys() | without_evidence
    abstentions = (
        *(() if quality.lacks_baseline else _reason_of_no_health(components, decoder, explained)),
        *_reason_of_distance(distant, components, thresholds),
        *doubts.values(),
    )
    of_input = (*abstention_reasons(equipment, quality, thresholds), *lacks.values())
    reasons = (*of_input, *abstentions)
    verdict = verdict_of(components, quality, thresholds)
    is_ranked = verdict in ("machine", "both") or scores.contributions is not None
    return Diagnosis(
        diagnosis_id=context.diagnosis_id,
        equipment_id=equipment.equipment_id,
        created_at=context.created_at,
        window=context.window,
        model_version=decoder.version,
        weights_sha256=decoder.weights_sha256,
        topology_revision=equipment.revision,
        fallback=context.fallback,
        design_trained=decoder.design_trained,
        baseline=context.baseline,
        input=InputQuality(
            source=context.source,
            missing_sensors=quality.missing,
            faulty_sensors=tuple(
                [FaultySensor(item.sensor_id, item.reason) for item in quality.faults]
            ),
            sensor_faults=_sensor_faults(quality, context.window, equipment),
            unusual_sensors=quality.beyond,
            coverage=unit(quality.coverage),
            stale_s=context.stale_s,
            digest=context.input_digest,
        ),
        status="insufficient_evidence" if reasons else "ok",
        reasons=reasons,
        health=_health_of_machine(
            components, any_abstains=bool(abstentions or without_evidence & decoder.predicted)
        ),
        components=tuple(components),
        verdict=verdict,
        root_cause=rank_causes(components, quality) if is_ranked else (),
    )


def _sensor_faults(
    quality: WindowQuality, window: Window, equipment: Equipment
) -> tuple[SensorFault, ...]:
    grid = timedelta(seconds=equipment.grid_s)
    return tuple(
        SensorFault(
            sensor_id=each.sensor_id,
            kind=each.kind,
            since=window.start + each.since * grid,
            size=each.size,
            score=each.score,
            masked=each.masked,
        )
        for each in quality.findings
    )


def _health_of_machine(
    components: Sequence[ComponentDiagnosis], *, any_abstains: bool
) -> float | None:
    """Return the health of the worst component with labels, else of the least usual one."""
    found: dict[str, list[float]] = {"labels": [], "novelty": [], "none": []}
    for item in components:
        if item.health is not None:
            found[item.basis].append(item.health)
    # usual readings elsewhere are no evidence about a component that abstains
    known = found["labels"] or ([] if any_abstains else found["novelty"])
    return min(known, default=None)


def _lacking(equipment: Equipment, quality: WindowQuality) -> set[int]:
    """Return the positions of the components that a missing or faulty sensor has evidence of."""
    absent = {*quality.missing, *(fault.sensor_id for fault in quality.faults)}
    if not absent:
        return set()
    return equipment.reached_from(
        placed.component_index for placed in equipment.sensors if placed.sensor.sensor_id in absent
    )


def _abstaining(component_id: str, decoded: DecodedComponent) -> ComponentDiagnosis:
    return ComponentDiagnosis(
        component_id=component_id,
        health=None,
        interval=UNKNOWN_INTERVAL,
        state="unknown",
        basis="none",
        condition=None,
        confidence=None,
        distance=decoded.stated_distance,
        degradation_rate=None,
        degradation_reason=ABSTAINS,
        rul_h=None,
        rul_interval_h=None,
        rul_reason=ABSTAINS,
    )


def _component(
    component_id: str,
    decoded: DecodedComponent,
    wear: Wear,
    novelty: float,
    thresholds: Thresholds,
    before: State | None,
) -> ComponentDiagnosis:
    health = decoded.health
    if decoded.basis == "novelty" and isfinite(novelty):
        health = unit(novelty)
    return ComponentDiagnosis(
        component_id=component_id,
        health=health,
        interval=decoded.interval,
        state="unknown" if health is None else state_of(health, before, thresholds),
        basis="none" if health is None else decoded.basis,
        condition=decoded.condition,
        confidence=decoded.confidence,
        distance=decoded.stated_distance,
        degradation_rate=wear.rate,
        degradation_interval=wear.rate_interval,
        degradation_reason=wear.rate_reason,
        rul_h=wear.rul_h,
        rul_interval_h=wear.rul_interval_h,
        rul_reason=wear.rul_reason,
        trend=wear.trend,
    )


def _reason_of_no_health(
    components: Sequence[ComponentDiagnosis],
    decoder: PredictionDecoder,
    explained: Container[str],
) -> tuple[str, ...]:
    silent = tuple(
        item.component_id
        for item in components
        if item.health is None
        and item.component_id not in explained
        and decoder.has("health", item.component_id)
    )
    if not silent:
        return ()
    reason = (
        f"expected finite health from version {decoder.version}, found none for "
        f"{some_of(silent, MAX_NAMED)}: use another version, and report this window"
    )
    return (reason,)


def _reason_of_distance(
    distant: Mapping[str, float], components: Sequence[ComponentDiagnosis], thresholds: Thresholds
) -> tuple[str, ...]:
    if not distant:
        return ()
    leading = {
        item.component_id: ", ".join(
            weight.sensor_id for weight in item.distance_evidence[:MAX_LEADING]
        )
        for item in components
    }
    found = ", ".join(
        f"{name} {distance:.3g}" + (f" (led by {leading[name]})" if leading[name] else "")
        for name, distance in distant.items()
    )
    reason = (
        f"expected evidence at most {thresholds.max_distance:g} times as far from training as is "
        f"usual of held-out conditions, found {found}: inspect the machine, and train on labelled "
        "windows of this condition"
    )
    return (reason,)
