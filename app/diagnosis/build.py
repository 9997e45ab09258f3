"""From a model's output to a diagnosis: what `app.diagnosis.decoder` tells of each component, its state and evidence, and abstention.

Pure: no clock, no store, no random numbers. It knows no machine.
Invariant: what can't be told is null, with a reason.
"""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from math import isfinite
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import orjson

from app.core.errors import LimitExceeded
from app.diagnosis.decoder import (
    DIGITS,
    UNTOLD,
    ComponentPrediction,
    Condition,
    PredictionDecoder,
    unit,
)
from app.diagnosis.input_quality import Thresholds, WindowQuality, abstention_reasons, listed
from app.model.graph import Contributions
from app.schemas.diagnosis import Basis, Diagnosis, State, Window
from app.schemas.equipment import Component, Equipment

F32 = npt.NDArray[np.float32]

STATES: tuple[State, ...] = ("critical", "degraded", "watch", "healthy")
MAX_EXPLAINED_SENSORS = 128
"""Sensors of a graph that evidence is worked out for: it costs a forward pass for each of them."""
NAMED = 3
"""Sensors that a reason names at most as those whose readings are unlike training's."""
KEPT_BACK = "this component's condition is not told, see the reasons of the diagnosis"


def too_large_to_explain(sensors: int) -> LimitExceeded:
    """Make the error of a request for evidence about a machine with more than `MAX_EXPLAINED_SENSORS` sensors."""
    return LimitExceeded(
        f"expected at most {MAX_EXPLAINED_SENSORS} sensors of a machine whose diagnosis is to be explained, found {sensors}: "
        "leave `explain` out",
        "explain",
    )


class Scores(NamedTuple):
    """A model's output for one equipment, components in topology order.

    Args:
        told: of this equipment's components alone.
        contributions: of each sensor, or None when not asked for.
    """

    told: Sequence[ComponentPrediction]
    contributions: Contributions | None = None


class DiagnosisContext(NamedTuple):
    """When and about what a diagnosis is made: its identity, its window, and where its readings came from, with the digest of its bins."""

    diagnosis_id: str
    created_at: datetime
    window: Window
    source: str
    stale_s: float | None
    fallback: bool
    input_digest: str


class _Interval(TypedDict):
    """The fields of a `Window`."""

    start: datetime
    end: datetime


class _Fault(TypedDict):
    """The fields of a `FaultySensor`."""

    sensor_id: str
    reason: str


class _Quality(TypedDict):
    """The fields of an `InputQuality`."""

    source: str
    missing_sensors: Sequence[str]
    faulty_sensors: Sequence[_Fault]
    unusual_sensors: Sequence[str]
    coverage: float
    stale_s: float | None
    digest: str


class _Weight(TypedDict):
    """The fields of an `Evidence`."""

    sensor_id: str
    contribution: float


class _Fields(TypedDict):
    """The fields of a `ComponentDiagnosis`."""

    component_id: str
    health: float | None
    interval: tuple[float, float]
    state: State
    basis: Basis
    condition: str | None
    confidence: float | None
    distance: float | None
    degradation_rate: float | None
    degradation_reason: str | None
    rul_h: float | None
    rul_interval_h: tuple[float, float] | None
    rul_reason: str | None
    evidence: Sequence[_Weight]
    distance_evidence: Sequence[_Weight]


class DiagnosisFields(TypedDict):
    """The fields of a `Diagnosis`, in its order, as plain values."""

    diagnosis_id: str
    equipment_id: str
    created_at: datetime
    window: _Interval
    model_version: str
    weights_sha256: str
    topology_revision: str
    fallback: bool
    input: _Quality
    status: Literal["ok", "insufficient_evidence"]
    reasons: Sequence[str]
    health: float | None
    components: Sequence[_Fields]


def diagnose(
    equipment: Equipment,
    context: DiagnosisContext,
    scores: Scores,
    summary: WindowQuality,
    decoder: PredictionDecoder,
    thresholds: Thresholds,
    previous: Mapping[str, State],
) -> Diagnosis:
    """Make the full answer for one equipment at one time, as `build_diagnosis` does, and hold it to its schema.

    Raises:
        ValidationError: a value is not as the schema says, which is an error of ours.
    """
    return Diagnosis.model_validate(
        build_diagnosis(equipment, context, scores, summary, decoder, thresholds, previous)
    )


def as_json(fields: DiagnosisFields) -> bytes:
    """Return a diagnosis as JSON: the text that `Diagnosis` makes of the same fields, at a tenth of its cost."""
    return orjson.dumps(fields, option=orjson.OPT_UTC_Z)


def build_diagnosis(
    equipment: Equipment,
    context: DiagnosisContext,
    scores: Scores,
    summary: WindowQuality,
    decoder: PredictionDecoder,
    thresholds: Thresholds,
    previous: Mapping[str, State],
) -> DiagnosisFields:
    """Work out the full answer for one equipment at one time.

    Args:
        equipment: the topology that the scores are of.
        context: identity, window and source.
        scores: from the model.
        summary: from the features.
        decoder: what the version was taught.
        thresholds: where states begin and when to abstain.
        previous: last known state by component id, for hysteresis; empty when there is none.
    """
    components: list[_Fields] = []
    doubts: dict[str, str] = {}
    strange: dict[str, float] = {}
    lacking = _lacking(equipment, summary)
    for index, (component, told, novelty) in enumerate(
        zip(equipment.components, scores.told, summary.range_novelty_V.tolist(), strict=True)
    ):
        condition = decoder.condition(component, told)
        doubt = decoder.doubt(component, told, condition) if index in lacking else ""
        if told.distance > thresholds.max_distance:  # false where it is not known
            strange[component.component_id] = told.distance
        if doubt:
            doubts[component.component_id] = doubt
        if component.component_id in strange or doubt:
            components.append(_kept_back(component, told))
        else:
            components.append(
                _component(component, told, novelty, condition, decoder, thresholds, previous)
            )
    if scores.contributions is not None:
        sensors_of = _sensor_positions(equipment)
        for index, item in enumerate(components):
            health_S, distance_S = (
                scores.contributions.health_VS[index],
                scores.contributions.distance_VS[index],
            )
            item["evidence"] = _evidence(
                index, item["basis"], health_S, summary, sensors_of[index], equipment.sensor_ids
            )
            item["distance_evidence"] = _distance_evidence(distance_S, equipment.sensor_ids)
    explained = doubts.keys() | strange.keys()
    untold = (
        *_reasons_of_silence(equipment, components, decoder, explained),
        *_reason_of_distance(strange, components, thresholds),
        *doubts.values(),
    )
    reasons = (*abstention_reasons(equipment, summary, thresholds), *untold)
    labelled = [
        item["health"]
        for item in components
        if item["basis"] == "labels" and item["health"] is not None
    ]
    usual = [
        item["health"]
        for item in components
        if item["basis"] == "novelty" and item["health"] is not None
    ]
    known = labelled or (
        [] if untold else usual
    )  # usual readings of the others say nothing of a component that is not told
    return {
        "diagnosis_id": context.diagnosis_id,
        "equipment_id": equipment.equipment_id,
        "created_at": context.created_at,
        "window": {"start": context.window.start, "end": context.window.end},
        "model_version": decoder.version,
        "weights_sha256": decoder.weights_sha256,
        "topology_revision": equipment.revision,
        "fallback": context.fallback,
        "input": {
            "source": "inline" if context.source == "inline" else "store",
            "missing_sensors": summary.missing,
            "faulty_sensors": [
                {"sensor_id": item.sensor_id, "reason": item.reason} for item in summary.faults
            ],
            "unusual_sensors": summary.beyond,
            "coverage": unit(summary.coverage),
            "stale_s": context.stale_s,
            "digest": context.input_digest,
        },
        "status": "insufficient_evidence" if reasons else "ok",
        "reasons": reasons,
        "health": min(known) if known else None,
        "components": components,
    }


def state_of(health: float, previous: State | None, thresholds: Thresholds) -> State:
    """Return the state of a health, with hysteresis on the way up.

    Args:
        health: in [0, 1].
        previous: the component's last state, or None.
        thresholds: the borders.
    """
    borders = (thresholds.critical, thresholds.degraded, thresholds.watch)
    rank = sum(health >= border for border in borders)
    if previous in STATES:
        before = STATES.index(previous)
        while rank > before and health < borders[rank - 1] + thresholds.hysteresis:
            rank -= 1
    return STATES[rank]


def _lacking(equipment: Equipment, summary: WindowQuality) -> set[int]:
    """Return the positions of the components that a missing or faulty sensor's evidence would have reached."""
    away = {*summary.missing, *(fault.sensor_id for fault in summary.faults)}
    if not away:
        return set()
    return equipment.reached_from(
        placed.component_index for placed in equipment.sensors if placed.sensor.sensor_id in away
    )


def _kept_back(component: Component, told: ComponentPrediction) -> _Fields:
    """Return the answer about a component that abstains."""
    return {
        "component_id": component.component_id,
        "health": UNTOLD.health,
        "interval": UNTOLD.interval,
        "state": "unknown",
        "basis": UNTOLD.basis,
        "condition": None,
        "confidence": None,
        "distance": _distance(told),
        "degradation_rate": None,
        "degradation_reason": KEPT_BACK,
        "rul_h": None,
        "rul_interval_h": None,
        "rul_reason": KEPT_BACK,
        "evidence": (),
        "distance_evidence": (),
    }


def _component(
    component: Component,
    told: ComponentPrediction,
    novelty: float,
    condition: Condition | None,
    decoder: PredictionDecoder,
    thresholds: Thresholds,
    previous: Mapping[str, State],
) -> _Fields:
    health, interval, basis = decoder.health(component, told, novelty)
    rate, rate_reason = decoder.rate(component, told)
    rul_h, rul_interval_h, rul_reason = decoder.remaining_life(component, told)
    before = previous.get(component.component_id)
    return {
        "component_id": component.component_id,
        "health": health,
        "interval": interval,
        "state": "unknown" if health is None else state_of(health, before, thresholds),
        "basis": basis,
        "condition": None if condition is None else condition.name,
        "confidence": None if condition is None else condition.confidence,
        "distance": _distance(told),
        "degradation_rate": rate,
        "degradation_reason": rate_reason,
        "rul_h": rul_h,
        "rul_interval_h": rul_interval_h,
        "rul_reason": rul_reason,
        "evidence": (),
        "distance_evidence": (),
    }


def _distance(told: ComponentPrediction) -> float | None:
    return round(max(0.0, told.distance), DIGITS) if isfinite(told.distance) else None


def _reasons_of_silence(
    equipment: Equipment,
    components: Sequence[_Fields],
    decoder: PredictionDecoder,
    explained: Container[str],
) -> tuple[str, ...]:
    silent = tuple(
        component.component_id
        for component, item in zip(equipment.components, components, strict=True)
        if item["health"] is None
        and component.component_id not in explained
        and decoder.taught("health", component)
    )
    if not silent:
        return ()
    told = f"expected finite health from version {decoder.version}, found none for {listed(silent)}"
    return (f"{told}: ask another version, and report this window",)


def _reason_of_distance(
    strange: Mapping[str, float], components: Sequence[_Fields], thresholds: Thresholds
) -> tuple[str, ...]:
    if not strange:
        return ()
    leading = {
        item["component_id"]: ", ".join(
            weight["sensor_id"] for weight in item["distance_evidence"][:NAMED]
        )
        for item in components
    }
    found = ", ".join(
        f"{name} {distance:.3g}" + (f" (led by {leading[name]})" if leading[name] else "")
        for name, distance in strange.items()
    )
    expected = f"at most {thresholds.max_distance:g} times as far from training as is usual of held-out conditions"
    return (
        f"expected evidence {expected}, found {found}: inspect the machine, and train on labelled windows of this condition",
    )


def _evidence(
    index: int,
    basis: Basis,
    contribution_S: F32,
    summary: WindowQuality,
    own_sensors: Sequence[int],
    sensor_ids: Sequence[str],
) -> list[_Weight]:
    if basis == "none":
        return []
    if basis == "novelty":
        novelty = float(summary.range_novelty_V[index])
        without_S = summary.novelty_without_S.tolist()
        # float32 as both are, so that equal healths differ by nothing
        found = {
            position: float(np.float32(without_S[position]) - np.float32(novelty))
            for position in own_sensors
        }
        order = sorted(
            (position for position in found if isfinite(found[position])),
            key=lambda position: -found[position],
        )
    else:
        found = dict(enumerate(contribution_S.tolist()))
        order = sorted(
            (position for position in found if isfinite(found[position]) and found[position] != 0),
            key=lambda position: -abs(found[position]),
        )
    return [
        {"sensor_id": sensor_ids[position], "contribution": round(found[position], DIGITS)}
        for position in order
    ]


def _distance_evidence(contribution_S: F32, sensor_ids: Sequence[str]) -> list[_Weight]:
    """Return the sensors that a component's evidence is further from training with than without, the furthest first."""
    found = zip(sensor_ids, contribution_S.tolist(), strict=True)
    further = [(name, round(weight, DIGITS)) for name, weight in found if isfinite(weight)]
    further.sort(key=lambda each: -each[1])
    return [{"sensor_id": name, "contribution": weight} for name, weight in further if weight > 0.0]


def _sensor_positions(equipment: Equipment) -> list[list[int]]:
    positions: list[list[int]] = [[] for _ in equipment.components]
    for position, placed in enumerate(equipment.sensors):
        positions[placed.component_index].append(position)
    return positions
