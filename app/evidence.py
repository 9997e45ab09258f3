"""What a diagnosis has to go by: the quality of its input, and whether that is enough.

Pure. Invariant: an abstention says what was expected, what was found and what to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.features import Fault, FeatureSpec, Floats, SensorFeatures
from app.novelty import leaves_range, novelty_health
from app.schemas.equipment import Equipment


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

    coverage_S: Floats
    excess_S: Floats
    excess_limit_S: Floats
    missing: tuple[str, ...]
    unreferenced: tuple[str, ...]
    faults: tuple[Fault, ...]
    unusual: bool
    novelty_V: Floats
    novelty_without_S: Floats


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
            f"({listed(useless)}): check their wiring"
        )
    if summary.unreferenced:
        reasons.append(
            f"expected sensors that this version was trained on for design '{equipment.design}', found "
            f"{listed(summary.unreferenced)}: train on this design's history, or correct its `design`"
        )
    if summary.unusual:
        order = np.argsort(-np.nan_to_num(summary.excess_S), kind="stable")
        worst = tuple(equipment.sensor_ids[position] for position in order if summary.excess_S[position] > 0)
        hint = " and that the window begins where a cycle does" if equipment.cycle_s is not None else ""
        reasons.append(
            "expected readings inside the range of training, found a window further outside than any held-out one, most of "
            f"it from {listed(worst, 5)}: check these sensors{hint}"
        )
    return tuple(reasons)


def listed(names: Sequence[str], limit: int = 10) -> str:
    """Return the first names of a list as text, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
