"""Quality of a window's input, and whether it suffices for a diagnosis.

Pure. Invariant: the reason of an abstention says what was expected, what was found and what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.baseline import Baseline
from app.features.binning import Floats
from app.features.extraction import FeatureBatch
from app.features.normalisation import references_of
from app.features.range_checks import (
    RangeNoveltyPlan,
    leaves_range,
    plan_range_novelty,
    range_novelty,
)
from app.features.sensor_faults import Fault, faults_of
from app.features.sensor_screening import Finding, findings_of
from app.features.spec import FeatureSpec
from app.schemas.equipment import Equipment
from app.schemas.places import some_of

MAX_NAMED = 10
"""Sensors or components that a reason names."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of states and of abstention; set in `serve_config.yaml`.

    Args:
        watch: health below which a component is in this state; likewise `degraded`, `critical`.
        degraded: see `watch`.
        critical: see `watch`.
        hysteresis: health above the threshold at which a component leaves the worse state.
        min_coverage: share of the window's bins below which the evidence is insufficient.
        max_missing: share of missing or faulty sensors above which it is insufficient.
        max_distance: OOD distance above which a component abstains; 1.0 is where windows of
            held-out conditions begin to be outliers. The figures of a checkpoint are for 1.0.
    """

    watch: float = 0.85
    degraded: float = 0.6
    critical: float = 0.25
    hysteresis: float = 0.02
    min_coverage: float = 0.5
    max_missing: float = 0.4
    max_distance: float = 1.0

    @property
    def borders(self) -> tuple[float, float, float]:
        """Return the healths where the states degraded, watch and healthy begin."""
        return self.critical, self.degraded, self.watch

    def __post_init__(self) -> None:
        if not 0.0 <= self.critical < self.degraded < self.watch <= 1.0:
            raise ValueError(
                "expected critical < degraded < watch, all in [0, 1], found "
                f"{self.critical:g}, {self.degraded:g}, {self.watch:g}: correct the thresholds"
            )
        for name in ("hysteresis", "min_coverage", "max_missing"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:  # false for NaN too
                raise ValueError(
                    f"expected {name} in [0, 1], found {value:g}: correct the thresholds"
                )
        if not 0.0 < self.max_distance < inf:  # false for NaN too
            raise ValueError(
                f"expected max_distance above 0 and finite, found {self.max_distance:g}: correct "
                "the thresholds"
            )


class WindowQuality(NamedTuple):
    """Quality of one window's input; sensors and components in topology order.

    Args:
        coverage: share of the window's sensor bins that hold a reading.
        usable_S: share of the steps that have usable readings, see `FeatureBatch`.
        is_whole: whether it is 1 for all sensors, and their evidence reaches every component.
        exceedance_S: range exceedance of each sensor, 0 inside the range; NaN where unknown.
        beyond: sensors with a larger exceedance than held-out windows of training.
        missing: sensors without a reading.
        unreferenced: sensors without a reference in the checkpoint or the machine's baseline.
        faults: sensors left out, and why.
        unusual: whether the whole window leaves the range of training.
        range_novelty_V: health of each component by range novelty; NaN where unknown.
        novelty_without_S: the same of the sensor's component without the sensor.
        findings: faults of sensors by kind; those in `faults`, and dropouts.
        unexplained: whether sensors contradict each other without a few being at fault.
        blame_V: evidence against each component, see `Screening`; NaN where unknown.
        lacks_baseline: whether the version can't answer for the machine without a baseline, see
            `FeatureSpec.needs_baseline`.
    """

    coverage: float
    usable_S: Floats
    is_whole: bool
    exceedance_S: Floats
    beyond: tuple[str, ...]
    missing: tuple[str, ...]
    unreferenced: tuple[str, ...]
    faults: tuple[Fault, ...]
    unusual: bool
    range_novelty_V: Floats
    novelty_without_S: Floats
    findings: tuple[Finding, ...]
    unexplained: bool
    blame_V: Floats
    lacks_baseline: bool


@dataclass(frozen=True, slots=True)
class QualityBatch:
    """Quality of the input of W windows of one topology; see `WindowQuality`.

    `coverage_WS`, `usable_WS`, `fault_WS` and the fields of `Screening` are as in `FeatureBatch`;
    `exceedance_limit_S` is the largest exceedance of held-out windows of training, infinite where
    unknown.
    """

    coverage_WS: Floats
    usable_WS: Floats
    is_whole_W: NDArray[np.bool_]
    exceedance_WS: Floats
    exceedance_limit_S: Floats
    unreferenced_S: NDArray[np.bool_]
    fault_WS: NDArray[np.uint8]
    unusual_W: NDArray[np.bool_]
    range_novelty_WV: Floats
    novelty_without_WS: Floats
    finding_WS: NDArray[np.void]
    unexplained_W: NDArray[np.bool_]
    blame_WV: Floats
    lacks_baseline: bool

    def windows(self, sensor_ids: Sequence[str]) -> list[WindowQuality]:
        """Return the quality of each window; `sensor_ids` are those of the topology."""
        coverage_W = (
            self.coverage_WS.mean(axis=1).tolist()
            if len(sensor_ids)
            else [0.0] * len(self.coverage_WS)
        )
        is_whole_W = self.is_whole_W.tolist()
        beyond_W = _named(self.exceedance_WS > self.exceedance_limit_S, sensor_ids)
        missing_W = _named(self.coverage_WS == 0.0, sensor_ids)
        unreferenced = tuple(compress(sensor_ids, self.unreferenced_S.tolist()))
        faulty = set(np.flatnonzero(self.fault_WS.any(axis=1)).tolist())
        found = set(np.flatnonzero(self.finding_WS["kind"].any(axis=1)).tolist())
        unexplained_W = self.unexplained_W.tolist()
        return [
            WindowQuality(
                coverage=coverage_W[index],
                usable_S=self.usable_WS[index],
                is_whole=is_whole_W[index],
                exceedance_S=self.exceedance_WS[index],
                beyond=beyond_W[index],
                missing=missing_W[index],
                unreferenced=unreferenced,
                faults=faults_of(self.fault_WS[index], sensor_ids) if index in faulty else (),
                unusual=unusual,
                range_novelty_V=self.range_novelty_WV[index],
                novelty_without_S=self.novelty_without_WS[index],
                findings=findings_of(self.finding_WS[index], self.fault_WS[index], sensor_ids)
                if index in found
                else (),
                unexplained=unexplained_W[index],
                blame_V=self.blame_WV[index],
                lacks_baseline=self.lacks_baseline,
            )
            for index, unusual in enumerate(self.unusual_W.tolist())
        ]


@dataclass(frozen=True, slots=True)
class QualityPlan:
    """Arrays that the quality of all windows of a topology shares; made by `plan_quality`."""

    equipment: Equipment
    spec: FeatureSpec
    novelty: RangeNoveltyPlan
    exceedance_limit_S: Floats
    unreferenced_S: NDArray[np.bool_]
    reaches_all: bool
    lacks_baseline: bool


def plan_quality(
    equipment: Equipment, spec: FeatureSpec, baseline: Baseline | None = None
) -> QualityPlan:
    """Return the plan of a topology, a feature spec and a baseline of the machine, if any."""
    needs_baseline = spec.needs_baseline(equipment.design)
    lacks_baseline = needs_baseline and baseline is None
    novelty = plan_range_novelty(equipment, spec)
    references = references_of(equipment, spec, baseline)
    if needs_baseline and baseline is not None:
        references = {name: found for name, found in references.items() if name in baseline.sensors}
    reached = equipment.reached_from(placed.component_index for placed in equipment.sensors)
    return QualityPlan(
        equipment=equipment,
        spec=spec,
        novelty=novelty,
        # what leaves the range of other machines' baselines is not unusual of this one
        exceedance_limit_S=np.full_like(novelty.limit_S, np.inf, np.float32)
        if lacks_baseline
        else np.nan_to_num(novelty.limit_S, nan=np.inf).astype(np.float32),
        unreferenced_S=np.array(
            [sensor_id not in references for sensor_id in equipment.sensor_ids], np.bool_
        ),
        reaches_all=len(reached) == len(equipment.components),
        lacks_baseline=lacks_baseline,
    )


def assess_batch(features: FeatureBatch, plan: QualityPlan) -> QualityBatch:
    """Assess the input of windows by their features.

    Args:
        features: of windows of the plan's topology, made with its spec.
        plan: of that topology.
    """
    novelty = range_novelty(features.exceedance_WS, plan.novelty)
    # readings of a sensor that training never saw are no evidence for what training learned
    usable_WS = np.where(plan.unreferenced_S, np.float32(0.0), features.usable_WS)
    return QualityBatch(
        coverage_WS=features.coverage_WS,
        usable_WS=usable_WS,
        is_whole_W=(usable_WS == 1.0).all(axis=1) & plan.reaches_all,
        exceedance_WS=features.exceedance_WS,
        exceedance_limit_S=plan.exceedance_limit_S,
        unreferenced_S=plan.unreferenced_S,
        fault_WS=features.fault_WS,
        unusual_W=leaves_range(features.exceedance_WS, plan.equipment, plan.spec)
        & (not plan.lacks_baseline),
        range_novelty_WV=novelty.health_WV,
        novelty_without_WS=novelty.without_WS,
        finding_WS=features.finding_WS,
        unexplained_W=features.unexplained_W,
        blame_WV=features.blame_WV,
        lacks_baseline=plan.lacks_baseline,
    )


def abstention_reasons(
    equipment: Equipment, quality: WindowQuality, thresholds: Thresholds
) -> tuple[str, ...]:
    """Return why the evidence is insufficient; empty when it suffices."""
    reasons = []
    if quality.lacks_baseline:
        reasons.append(
            "expected a baseline of the machine, since this version was trained with the machines' "
            f"own baselines for design '{equipment.design}'; found none: record an interval in "
            "which the machine was healthy, with PUT /v1/equipment/{equipment_id}/baseline or "
            "`hydraulic equipment baseline ID --start TIME --end TIME`"
        )
    if quality.coverage < thresholds.min_coverage:
        reasons.append(
            f"expected readings in at least {thresholds.min_coverage:.0%} of the window's sensor "
            f"bins, found {quality.coverage:.0%}: check that the sensors send, and that their "
            "readings reach POST /v1/readings"
        )
    useless = (*quality.missing, *(fault.sensor_id for fault in quality.faults))
    share = len(useless) / max(1, len(equipment.sensors))
    if share > thresholds.max_missing:
        reasons.append(
            f"expected at most {thresholds.max_missing:.0%} of the sensors missing or faulty, "
            f"found {share:.0%} ({some_of(useless, MAX_NAMED)}): check their wiring"
        )
    if quality.unreferenced:
        reasons.append(
            f"expected sensors that this version was trained on for design '{equipment.design}', "
            f"found {some_of(quality.unreferenced, MAX_NAMED)}, which no baseline of the machine "
            "has: train on this design's history, record a baseline while they send, or correct "
            "its `design`"
        )
    if quality.unusual:
        order = np.argsort(-np.nan_to_num(quality.exceedance_S), kind="stable")
        worst = tuple(
            equipment.sensor_ids[position]
            for position in order
            if quality.exceedance_S[position] > 0
        )
        hint = (
            " and that the window begins where a cycle does"
            if equipment.cycle_s is not None
            else ""
        )
        reasons.append(
            "expected readings inside the range of training, found a window further outside than "
            f"any held-out one, most of it from {some_of(worst, 5)}: check these sensors{hint}"
        )
    return tuple(reasons)


def _named(flag_WS: NDArray[np.bool_], sensor_ids: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the names of the flagged sensors of each window; most windows have none."""
    named: list[tuple[str, ...]] = [()] * len(flag_WS)
    for window in np.flatnonzero(flag_WS.any(axis=1)).tolist():
        named[window] = tuple(compress(sensor_ids, flag_WS[window].tolist()))
    return named
