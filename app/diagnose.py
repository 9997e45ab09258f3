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
from app.features import Fault, FeatureSpec, SensorFeatures
from app.graph import ModelOutput
from app.novelty import leaves_range, novelty_health
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
NO_WEAR_LABELS = "the training data of this version hold no history of wear for this component"
MAX_EXPLAINED_SENSORS = 256
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
class Thresholds:
    """Where states begin and when to abstain; set in `serve_config.yaml`.

    `watch`, `degraded` and `critical` are the healths below which a component is in that state; it leaves a worse state
    for a better one only when its health is `hysteresis` above the border. With less than `min_coverage` of the window's
    bins filled, or more than `max_missing` of the sensors without use, the evidence is insufficient.
    """

    watch: float = 0.85
    degraded: float = 0.6
    critical: float = 0.25
    hysteresis: float = 0.02
    min_coverage: float = 0.5
    max_missing: float = 0.4

    def __post_init__(self) -> None:
        if not 0.0 <= self.critical < self.degraded < self.watch <= 1.0:
            raise ValueError(
                "expected critical < degraded < watch, all in [0, 1], found "
                f"{self.critical:g}, {self.degraded:g}, {self.watch:g}: correct the thresholds"
            )
        for name in ("hysteresis", "min_coverage", "max_missing"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:  # false for NaN too
                raise ValueError(f"expected {name} in [0, 1], found {value:g}: correct the thresholds")


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
class InputSummary:
    """What the features say of the input; sensors and components in topology order.

    Args:
        coverage_S: share of the window's bins that hold a reading.
        excess_S: how far each sensor leaves the range of training, 0 inside it; NaN for sensors that can't be judged.
        excess_limit_S: what held-out windows of training stayed below; infinite where that is not known.
        missing: sensors without a reading.
        unreferenced: sensors that the checkpoint has no reference for.
        faults: sensors left out, and why.
        unusual: whether the whole window leaves the range of training.
        novelty_V: health by novelty of each component; NaN where nothing can be said.
        novelty_without_S: that of the sensor's component had the sensor not been there; NaN where nothing can be said.
    """

    coverage_S: F32
    excess_S: F32
    excess_limit_S: F32
    missing: tuple[str, ...]
    unreferenced: tuple[str, ...]
    faults: tuple[Fault, ...]
    unusual: bool
    novelty_V: F32
    novelty_without_S: F32


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


def summarise(equipment: Equipment, features: SensorFeatures, spec: FeatureSpec) -> InputSummary:
    """Keep of a window's features what a diagnosis tells about its input.

    Args:
        equipment: the machine.
        features: of its window.
        spec: that the features were made with.
    """
    limits = spec.limits.get(equipment.design)
    limit_of = {} if limits is None else limits.sensors
    without_S = np.full(len(equipment.sensors), np.nan, np.float32)
    for position, placed in enumerate(equipment.sensors):
        others_S = features.excess_S.copy()
        others_S[position] = np.nan
        without_S[position] = novelty_health(others_S, equipment, spec)[placed.component_index]
    return InputSummary(
        coverage_S=features.coverage_S,
        excess_S=features.excess_S,
        excess_limit_S=np.array([limit_of.get(sensor_id, np.inf) for sensor_id in equipment.sensor_ids], np.float32),
        missing=features.missing,
        unreferenced=features.unreferenced,
        faults=features.faulty,
        unusual=leaves_range(features.excess_S, equipment, spec),
        novelty_V=novelty_health(features.excess_S, equipment, spec),
        novelty_without_S=without_S,
    )


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


def abstention_reasons(equipment: Equipment, summary: InputSummary, thresholds: Thresholds) -> tuple[str, ...]:
    """Say why the evidence is insufficient; empty when it is not."""
    reasons = []
    coverage = float(summary.coverage_S.mean()) if summary.coverage_S.size else 0.0
    if coverage < thresholds.min_coverage:
        reasons.append(
            f"expected readings in at least {thresholds.min_coverage:.0%} of the window's sensor bins, found {coverage:.0%}: "
            "check that the sensors send"
        )
    useless = (*summary.missing, *(fault.sensor_id for fault in summary.faults))
    share = len(useless) / max(1, len(equipment.sensors))
    if share > thresholds.max_missing:
        reasons.append(
            f"expected at most {thresholds.max_missing:.0%} of the sensors missing or faulty, found {share:.0%} "
            f"({_listed(useless)}): check their wiring"
        )
    if summary.unreferenced:
        reasons.append(
            f"expected sensors that this version was trained on for design '{equipment.design}', found "
            f"{_listed(summary.unreferenced)}: train on this design's history, or correct its `design`"
        )
    if summary.unusual:
        order = np.argsort(-np.nan_to_num(summary.excess_S), kind="stable")
        worst = tuple(equipment.sensor_ids[position] for position in order if summary.excess_S[position] > 0)
        hint = " and that the window begins where a cycle does" if equipment.cycle_s is not None else ""
        reasons.append(
            "expected readings inside the range of training, found a window further outside than any held-out one, most of "
            f"it from {_listed(worst, 5)}: check these sensors{hint}"
        )
    return tuple(reasons)


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
    told = f"expected finite health from version {knowledge.version}, found none for {_listed(silent)}"
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
        Evidence(sensor_id=sensor_ids[position], contribution=float(row_S[position]))
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
    return tuple(Evidence(sensor_id=sensor_id, contribution=found[sensor_id]) for sensor_id in order)


def _sensor_positions(equipment: Equipment) -> list[list[int]]:
    positions: list[list[int]] = [[] for _ in equipment.components]
    for position, placed in enumerate(equipment.sensors):
        positions[placed.component_index].append(position)
    return positions


def _listed(names: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))
