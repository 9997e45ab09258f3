"""From a model's output to a diagnosis: health, states, intervals, conditions, evidence and abstention.

Pure: no clock, no store, no random numbers. It knows no machine; grades come from the checkpoint's feature spec.
Invariant: a component's health lies inside its interval, and both inside [0, 1]; what can't be told is null, with a reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from app.card import Head
from app.errors import LimitExceeded
from app.evidence import InputSummary, Thresholds, abstention_reasons, listed
from app.graph import ModelOutput
from app.schemas.diagnosis import (
    Basis,
    ComponentDiagnosis,
    Diagnosis,
    Evidence,
    FaultySensor,
    InputQuality,
    State,
    Window,
)
from app.schemas.equipment import Component, Equipment, Grade

F32 = npt.NDArray[np.float32]

STATES: tuple[State, ...] = ("critical", "degraded", "watch", "healthy")
DIGITS = 6
"""Decimals of what is told: finer than any threshold and than float32 can hold."""
NO_WEAR_LABELS = "the training data of this version hold no history of wear for this component"
MAX_EXPLAINED_SENSORS = 128
"""Sensors of a graph that evidence is worked out for: it costs a forward pass for each of them."""
NOT_FINITE = "the network's answer for this component is not a finite number"
NO_HEALTH = "the component's health can't be told, so no time of failure follows from it"


def too_large_to_explain(sensors: int) -> LimitExceeded:
    """Make the error of a request for evidence about a machine with more than `MAX_EXPLAINED_SENSORS` sensors."""
    return LimitExceeded(
        f"expected at most {MAX_EXPLAINED_SENSORS} sensors of a machine whose diagnosis is to be explained, found {sensors}: "
        "leave `explain` out",
        "explain",
    )


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's output for one equipment, components in topology order.

    Args:
        output: for this equipment's components alone.
        contribution_VS: health without a sensor less health with it, or None when not asked for.
    """

    output: ModelOutput
    contribution_VS: F32 | None = None


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the version that answers was taught about one design.

    Args:
        version: its name.
        grades: by component id, grades that labels were trained on; a component that is not in it had no labels.
        trained_heads: by head (`grade`, `health`, `rate`) the component types that had a label for it.
    """

    version: str
    grades: Mapping[str, Sequence[Grade]]
    trained_heads: Mapping[Head, Sequence[str]]

    def taught(self, head: Head, component: Component) -> bool:
        """Tell whether a head had labels for components of this type."""
        return component.type in self.trained_heads.get(head, ())


@dataclass(frozen=True, slots=True)
class Occasion:
    """When and about what a diagnosis is made: its identity, its window and where its readings came from."""

    diagnosis_id: str
    created_at: datetime
    window: Window
    source: str
    stale_s: float | None
    fallback: bool


def diagnose(
    equipment: Equipment,
    occasion: Occasion,
    scores: Scores,
    summary: InputSummary,
    knowledge: Knowledge,
    thresholds: Thresholds,
    previous: Mapping[str, State],
) -> Diagnosis:
    """Make the full answer for one equipment at one time.

    Args:
        equipment: the topology that the scores are of.
        occasion: identity, window and source.
        scores: from the model.
        summary: from the features.
        knowledge: what the version was taught.
        thresholds: where states begin and when to abstain.
        previous: last known state by component id, for hysteresis; empty when there is none.
    """
    sensors_of = _sensor_positions(equipment)
    components = tuple(
        _component(
            index, component, scores, summary, knowledge, thresholds, previous, sensors_of[index], equipment.sensor_ids
        )
        for index, component in enumerate(equipment.components)
    )
    reasons = (
        *abstention_reasons(equipment, summary, thresholds),
        *_reasons_of_silence(equipment, components, knowledge),
    )
    labelled = [item.health for item in components if item.basis == "labels" and item.health is not None]
    known = labelled or [item.health for item in components if item.health is not None]
    beyond = summary.excess_S > summary.excess_limit_S
    return Diagnosis(
        diagnosis_id=occasion.diagnosis_id,
        equipment_id=equipment.equipment_id,
        created_at=occasion.created_at,
        window=occasion.window,
        model_version=knowledge.version,
        topology_revision=equipment.revision,
        fallback=occasion.fallback,
        input=InputQuality(
            source="inline" if occasion.source == "inline" else "store",
            missing_sensors=summary.missing,
            faulty_sensors=tuple(FaultySensor(sensor_id=item.sensor_id, reason=item.reason) for item in summary.faults),
            unusual_sensors=tuple(name for name, flag in zip(equipment.sensor_ids, beyond, strict=True) if flag),
            coverage=_unit(float(summary.coverage_S.mean())) if summary.coverage_S.size else 0.0,
            stale_s=occasion.stale_s,
        ),
        status="insufficient_evidence" if reasons else "ok",
        reasons=reasons,
        health=min(known) if known else None,
        components=components,
    )


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


def _component(
    index: int,
    component: Component,
    scores: Scores,
    summary: InputSummary,
    knowledge: Knowledge,
    thresholds: Thresholds,
    previous: Mapping[str, State],
    own_sensors: Sequence[int],
    sensor_ids: Sequence[str],
) -> ComponentDiagnosis:
    grades = knowledge.grades.get(component.component_id, ()) if knowledge.taught("grade", component) else ()
    labelled = _labelled(component, knowledge)
    health, interval, basis = _health_of(index, scores.output, summary, labelled=labelled)
    condition, confidence = None, None
    share_K = scores.output.grade_probability_VK[index, : len(grades)]
    if grades and np.isfinite(share_K).all():
        best = int(np.argmax(share_K))
        condition = grades[best].name
        confidence = _unit(float(share_K[best]))
    rate, rate_reason = _rate(index, component, scores.output, knowledge)
    rul_h, rul_reason = _remaining_life(health, rate, rate_reason)
    before = previous.get(component.component_id)
    return ComponentDiagnosis(
        component_id=component.component_id,
        health=health,
        interval=interval,
        state="unknown" if health is None else state_of(health, before, thresholds),
        basis=basis,
        condition=condition,
        confidence=confidence,
        degradation_rate=rate,
        degradation_reason=rate_reason,
        rul_h=rul_h,
        rul_reason=rul_reason,
        evidence=_evidence(index, basis, scores, summary, own_sensors, sensor_ids),
    )


def _labelled(component: Component, knowledge: Knowledge) -> bool:
    if knowledge.taught("grade", component) and knowledge.grades.get(component.component_id):
        return True
    return knowledge.taught("health", component)


def _reasons_of_silence(
    equipment: Equipment, components: Sequence[ComponentDiagnosis], knowledge: Knowledge
) -> tuple[str, ...]:
    silent = tuple(
        component.component_id
        for component, item in zip(equipment.components, components, strict=True)
        if item.health is None and _labelled(component, knowledge)
    )
    if not silent:
        return ()
    told = f"expected finite health from version {knowledge.version}, found none for {listed(silent)}"
    return (f"{told}: ask another version, and report this window",)


def _health_of(
    index: int, output: ModelOutput, summary: InputSummary, *, labelled: bool
) -> tuple[float | None, tuple[float, float], Basis]:
    if labelled:
        told_3 = np.array([output.health_V[index], output.low_V[index], output.high_V[index]])
        if not np.isfinite(told_3).all():
            return None, (0.0, 1.0), "none"
        health, low, high = map(_unit, told_3.tolist())
        return health, (min(low, health), max(high, health)), "labels"
    if not np.isfinite(summary.novelty_V[index]):
        return None, (0.0, 1.0), "none"
    return _unit(float(summary.novelty_V[index])), (0.0, 1.0), "novelty"


def _rate(
    index: int, component: Component, output: ModelOutput, knowledge: Knowledge
) -> tuple[float | None, str | None]:
    if not knowledge.taught("rate", component):
        return None, NO_WEAR_LABELS
    rate = float(output.rate_V[index])
    return (rate, None) if np.isfinite(rate) else (None, NOT_FINITE)


def _remaining_life(
    health: float | None, rate: float | None, rate_reason: str | None
) -> tuple[float | None, str | None]:
    if rate is None:
        return None, rate_reason
    if health is None:
        return None, NO_HEALTH
    if rate <= 0:
        return None, "health does not fall, so no time of failure follows from it"
    return 1000.0 * health / rate, None


def _evidence(
    index: int,
    basis: Basis,
    scores: Scores,
    summary: InputSummary,
    own_sensors: Sequence[int],
    sensor_ids: Sequence[str],
) -> tuple[Evidence, ...]:
    if scores.contribution_VS is None or basis == "none":
        return ()
    if basis != "labels":
        return _novelty_evidence(index, summary, own_sensors, sensor_ids)
    row_S = scores.contribution_VS[index]
    order = np.argsort(-np.abs(np.nan_to_num(row_S)), kind="stable")
    return tuple(
        Evidence(sensor_id=sensor_ids[position], contribution=round(float(row_S[position]), DIGITS))
        for position in order
        if np.isfinite(row_S[position]) and row_S[position] != 0
    )


def _novelty_evidence(
    index: int, summary: InputSummary, own_sensors: Sequence[int], sensor_ids: Sequence[str]
) -> tuple[Evidence, ...]:
    found = {
        sensor_ids[position]: float(summary.novelty_without_S[position] - summary.novelty_V[index])
        for position in own_sensors
        if np.isfinite(summary.novelty_without_S[position])
    }
    order = sorted(found, key=lambda sensor_id: -found[sensor_id])
    return tuple(Evidence(sensor_id=sensor_id, contribution=round(found[sensor_id], DIGITS)) for sensor_id in order)


def _sensor_positions(equipment: Equipment) -> list[list[int]]:
    positions: list[list[int]] = [[] for _ in equipment.components]
    for position, placed in enumerate(equipment.sensors):
        positions[placed.component_index].append(position)
    return positions


def _unit(value: float) -> float:
    return round(min(1.0, max(0.0, value)), DIGITS)
