"""From a model's output to a diagnosis: health, states, intervals, conditions, evidence and abstention.

Pure: no clock, no store, no random numbers. It knows no machine; grades come from the checkpoint's feature spec.
Invariant: a component's health lies inside its interval, and both inside [0, 1]; what can't be told is null, with a reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from app.card import Head
from app.errors import LimitExceeded
from app.evidence import InputSummary, Thresholds, abstention_reasons, listed
from app.graph import ModelOutput
from app.schemas.diagnosis import Basis, Diagnosis, State, Window
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


class _Told(NamedTuple):
    """A model's output as plain numbers, which Python reads several times faster than numpy's."""

    health_V: list[float]
    low_V: list[float]
    high_V: list[float]
    rate_V: list[float]
    grade_probability_VK: list[list[float]]


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
    degradation_rate: float | None
    degradation_reason: str | None
    rul_h: float | None
    rul_reason: str | None
    evidence: Sequence[_Weight]


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

    Raises:
        ValidationError: a value is not as the schema says, which is an error of ours.
    """
    told = _told(scores.output)
    novelty_V = summary.novelty_V.tolist()
    components = [
        _component(index, component, told, novelty_V[index], knowledge, thresholds, previous)
        for index, component in enumerate(equipment.components)
    ]
    if scores.contribution_VS is not None:
        sensors_of = _sensor_positions(equipment)
        for index, item in enumerate(components):
            item["evidence"] = _evidence(
                index, item["basis"], scores.contribution_VS[index], summary, sensors_of[index], equipment.sensor_ids
            )
    reasons = (
        *abstention_reasons(equipment, summary, thresholds),
        *_reasons_of_silence(equipment, components, knowledge),
    )
    labelled = [item["health"] for item in components if item["basis"] == "labels" and item["health"] is not None]
    known = labelled or [item["health"] for item in components if item["health"] is not None]
    beyond = np.flatnonzero(summary.excess_S > summary.excess_limit_S)
    # one validation of plain values costs a fraction of what one for each part does, and refuses the same
    return Diagnosis.model_validate(
        {
            "diagnosis_id": occasion.diagnosis_id,
            "equipment_id": equipment.equipment_id,
            "created_at": occasion.created_at,
            "window": occasion.window,
            "model_version": knowledge.version,
            "topology_revision": equipment.revision,
            "fallback": occasion.fallback,
            "input": {
                "source": "inline" if occasion.source == "inline" else "store",
                "missing_sensors": summary.missing,
                "faulty_sensors": [{"sensor_id": item.sensor_id, "reason": item.reason} for item in summary.faults],
                "unusual_sensors": [equipment.sensor_ids[position] for position in beyond.tolist()],
                "coverage": _unit(float(summary.coverage_S.mean())) if summary.coverage_S.size else 0.0,
                "stale_s": occasion.stale_s,
            },
            "status": "insufficient_evidence" if reasons else "ok",
            "reasons": reasons,
            "health": min(known) if known else None,
            "components": components,
        }
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


def _told(output: ModelOutput) -> _Told:
    return _Told(
        output.health_V.tolist(),
        output.low_V.tolist(),
        output.high_V.tolist(),
        output.rate_V.tolist(),
        output.grade_probability_VK.tolist(),
    )


def _component(
    index: int,
    component: Component,
    told: _Told,
    novelty: float,
    knowledge: Knowledge,
    thresholds: Thresholds,
    previous: Mapping[str, State],
) -> _Fields:
    grades = knowledge.grades.get(component.component_id, ()) if knowledge.taught("grade", component) else ()
    labelled = _labelled(component, knowledge)
    health, interval, basis = _health_of(index, told, novelty, labelled=labelled)
    condition, confidence = None, None
    share_K = told.grade_probability_VK[index][: len(grades)]
    if grades and all(map(isfinite, share_K)):
        best = max(share_K)
        condition = grades[share_K.index(best)].name
        confidence = _unit(best)
    rate, rate_reason = _rate(index, component, told, knowledge)
    rul_h, rul_reason = _remaining_life(health, rate, rate_reason)
    before = previous.get(component.component_id)
    return {
        "component_id": component.component_id,
        "health": health,
        "interval": interval,
        "state": "unknown" if health is None else state_of(health, before, thresholds),
        "basis": basis,
        "condition": condition,
        "confidence": confidence,
        "degradation_rate": rate,
        "degradation_reason": rate_reason,
        "rul_h": rul_h,
        "rul_reason": rul_reason,
        "evidence": (),
    }


def _labelled(component: Component, knowledge: Knowledge) -> bool:
    if knowledge.taught("grade", component) and knowledge.grades.get(component.component_id):
        return True
    return knowledge.taught("health", component)


def _reasons_of_silence(equipment: Equipment, components: Sequence[_Fields], knowledge: Knowledge) -> tuple[str, ...]:
    silent = tuple(
        component.component_id
        for component, item in zip(equipment.components, components, strict=True)
        if item["health"] is None and _labelled(component, knowledge)
    )
    if not silent:
        return ()
    told = f"expected finite health from version {knowledge.version}, found none for {listed(silent)}"
    return (f"{told}: ask another version, and report this window",)


def _health_of(
    index: int, told: _Told, novelty: float, *, labelled: bool
) -> tuple[float | None, tuple[float, float], Basis]:
    if labelled:
        health, low, high = told.health_V[index], told.low_V[index], told.high_V[index]
        if not (isfinite(health) and isfinite(low) and isfinite(high)):
            return None, (0.0, 1.0), "none"
        health, low, high = _unit(health), _unit(low), _unit(high)
        return health, (min(low, health), max(high, health)), "labels"
    if not isfinite(novelty):
        return None, (0.0, 1.0), "none"
    return _unit(novelty), (0.0, 1.0), "novelty"


def _rate(index: int, component: Component, told: _Told, knowledge: Knowledge) -> tuple[float | None, str | None]:
    if not knowledge.taught("rate", component):
        return None, NO_WEAR_LABELS
    rate = told.rate_V[index]
    return (rate, None) if isfinite(rate) else (None, NOT_FINITE)


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
    contribution_S: F32,
    summary: InputSummary,
    own_sensors: Sequence[int],
    sensor_ids: Sequence[str],
) -> list[_Weight]:
    if basis == "none":
        return []
    if basis == "novelty":
        novelty = float(summary.novelty_V[index])
        without_S = summary.novelty_without_S.tolist()
        # float32 as both are, so that equal healths differ by nothing
        found = {position: float(np.float32(without_S[position]) - np.float32(novelty)) for position in own_sensors}
        order = sorted(
            (position for position in found if isfinite(found[position])), key=lambda position: -found[position]
        )
    else:
        found = dict(enumerate(contribution_S.tolist()))
        order = sorted(
            (position for position in found if isfinite(found[position]) and found[position] != 0),
            key=lambda position: -abs(found[position]),
        )
    return [{"sensor_id": sensor_ids[position], "contribution": round(found[position], DIGITS)} for position in order]


def _sensor_positions(equipment: Equipment) -> list[list[int]]:
    positions: list[list[int]] = [[] for _ in equipment.components]
    for position, placed in enumerate(equipment.sensors):
        positions[placed.component_index].append(position)
    return positions


def _unit(value: float) -> float:
    return round(min(1.0, max(0.0, value)), DIGITS)
