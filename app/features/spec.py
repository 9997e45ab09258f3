"""The feature spec of a checkpoint, and its plan: the same constants as arrays for one topology.

`FeatureSpec` is the file `feature_spec.json`. Its constants are computed from the training windows
and travel with the checkpoint; nothing is estimated when a window is served. A machine with a
baseline of its own is normalised by that, see `references_of`.
Shapes: M machines, W windows, S sensors, N bins, T steps, F statistics of a step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.core.errors import WindowError
from app.features.baseline import Baseline, Table
from app.features.binning import Doubles, check_bins
from app.features.normalisation import Reference, references_of
from app.features.residuals import ResidualPlan, plan_residuals, stack_residual_plans
from app.features.sensor_model import SensorModel, SensorPlan, plan_sensors
from app.features.statistics import OF_RESIDUALS, Statistic
from app.schemas.equipment import Equipment, Grade

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Limits(BaseModel):
    """Largest range exceedance of holdout windows, of a window and of each sensor."""

    model_config = _STRICT

    window: Annotated[float, Field(ge=0)]
    sensors: Mapping[str, Annotated[float, Field(ge=0)]]


class FeatureSpec(BaseModel):
    """How the features of a checkpoint are computed: `feature_spec.json`.

    `references` and `grades` are by design, then by sensor or component id; `limits` and
    `sensor_models` are by design. A design without a sensor model has only the tests of each
    sensor's own signal; checkpoints from before there were any have none.
    The index of a grade set in the network is its position in `grade_sets`.

    `normalisation` says what the features of training were distances from: `design`, the
    references here; `machine`, the baseline of each machine, and the statistics here are of the
    windows of all baselines together. `spread_floor` is that of the training. `healthy` has the
    `mean` of healthy training windows alone, by design and sensor id, of designs whose references
    a baseline moves (`takes_own_references`), and `types` the types of the trained components, by
    design and component id; earlier checkpoints state neither.
    `life_scales` has the factor of designs whose lives are longer or shorter than the network's
    unit: remaining lives are multiplied by it, rates divided; 1 for all others.
    `baseline_machines` has the number of machines of a design whose baselines the references pool;
    earlier checkpoints do not state it.
    """

    model_config = _STRICT

    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1)]
    clip: Annotated[float, Field(gt=0)]
    quantities: tuple[str, ...]
    component_types: tuple[str, ...]
    media: tuple[str, ...]
    references: Mapping[str, Mapping[str, Reference]]
    grades: Mapping[str, Mapping[str, tuple[Grade, ...]]]
    limits: Mapping[str, Limits]
    normalisation: Literal["design", "machine"] = "design"
    spread_floor: Annotated[float, Field(gt=0)] = 0.02
    healthy: Mapping[str, Mapping[str, Table]] = Field(default_factory=dict)
    types: Mapping[str, Mapping[str, str]] = Field(default_factory=dict)
    sensor_models: Mapping[str, SensorModel] = Field(default_factory=dict)
    life_scales: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    baseline_machines: Mapping[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rows_have_all_statistics(self) -> Self:
        for design, sensors in self.references.items():
            for sensor_id, reference in sensors.items():
                rows = (reference.mean, reference.spread, reference.low, reference.high)
                found = {(len(table), len(row)) for table in rows for row in table}
                if len({steps for steps, _ in found}) != 1 or {width for _, width in found} != {
                    len(self.statistics)
                }:
                    raise ValueError(
                        f"expected {len(self.statistics)} numbers a row "
                        f"({', '.join(self.statistics)}) and as many rows in each table of "
                        f"references.{design}.{sensor_id}, found (rows, numbers) {sorted(found)}"
                    )
        return self

    @property
    def features(self) -> int:
        """Number of features of a step: the statistics and the coverage."""
        return len(self.statistics) + 1

    def takes_own_references(self, design: str) -> bool:
        """Return whether a baseline replaces the references of a machine, instead of moving them.

        It does as in training: not in a design of which no training machine had a baseline. A
        checkpoint that does not state their number may have had some.
        """
        return self.normalisation == "machine" and self.baseline_machines.get(design, 1) > 0

    def needs_baseline(self, design: str) -> bool:
        """Return whether a machine of a trained design needs a baseline of its own.

        It does where training normalised several machines by their own baselines: the references
        are then of no machine, and readings that differ from them say nothing of wear. With one
        machine they are its own, and another machine of the design is taken for it, as it is by a
        spec with references of designs. A checkpoint that does not state the number may have had
        several.
        """
        return self.normalisation == "machine" and self.baseline_machines.get(design, 2) > 1

    def sensor_slots(self) -> tuple[tuple[str, str], ...]:
        """Return (design, sensor id) of every sensor with a reference, in index order."""
        return tuple(
            (design, sensor_id)
            for design, sensors in self.references.items()
            for sensor_id in sensors
        )

    def component_slots(self) -> tuple[tuple[str, str], ...]:
        """Return (design, component id) of every component of training, in index order."""
        return tuple(
            (design, component)
            for design, components in self.types.items()
            for component in components
        )

    def grade_sets(self) -> tuple[tuple[str, str], ...]:
        """Return (design, component id) of every grade set, in index order."""
        return tuple(
            (design, component) for design, sets in self.grades.items() for component in sets
        )


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """A feature spec for one topology, as arrays; made once by `plan_features`.

    The arrays of references may have a leading axis of windows, see `rows`.

    Args:
        sensor_ids: ids of the S sensors.
        bins: N of a window.
        steps: T; divides N.
        statistics: names of the statistics.
        clip: largest absolute feature.
        low_S: lower end of each sensor's range, in its unit.
        high_S: upper end.
        flat_S: the reference's `flat`, infinite without one.
        roughness_S: the reference's `roughness`, infinite without one.
        mean_STF: statistics that are normalised to 0.0.
        spread_STF: distance from `mean_STF` that is normalised to 1.0.
        referenced_S: sensors for which the spec has a reference.
        steps_S: fewest steps with readings in a training window; T without a reference.
        low_STF: lowest statistics of the training windows; 0.0 without a reference.
        high_STF: highest.
        units: of the sensors' readings.
        components: V.
        sensors: predicts the sensors from each other; None without a sensor model.
        residuals: regressions of the sensors on their neighbours; None without any.
    """

    sensor_ids: tuple[str, ...]
    bins: int
    steps: int
    statistics: tuple[Statistic, ...]
    clip: float
    low_S: Doubles
    high_S: Doubles
    flat_S: Doubles
    roughness_S: Doubles
    mean_STF: Doubles
    spread_STF: Doubles
    referenced_S: NDArray[np.bool_]
    steps_S: NDArray[np.int64]
    low_STF: Doubles
    high_STF: Doubles
    units: tuple[str, ...]
    components: int
    sensors: SensorPlan | None
    residuals: ResidualPlan | None

    @property
    def usual_ST(self) -> Doubles:
        """Mean of each step of each sensor in the reference."""
        usual_ST: Doubles = self.mean_STF[..., self.statistics.index("mean")]
        return usual_ST

    def rows(self, chosen: slice | NDArray[np.int64]) -> Self:
        """Return the plan of some of the windows; one without a leading axis is that of all.

        Args:
            chosen: positions on the leading axis, may repeat.
        """
        if self.flat_S.ndim == 1:
            return self
        return replace(
            self,
            flat_S=self.flat_S[chosen],
            roughness_S=self.roughness_S[chosen],
            mean_STF=self.mean_STF[chosen],
            spread_STF=self.spread_STF[chosen],
            referenced_S=self.referenced_S[chosen],
            steps_S=self.steps_S[chosen],
            low_STF=self.low_STF[chosen],
            high_STF=self.high_STF[chosen],
            residuals=None if self.residuals is None else self.residuals.rows(chosen),
        )


def stack_plans(plans: Sequence[FeaturePlan]) -> FeaturePlan:
    """Return the plan of M machines of one topology, on a leading axis."""
    return replace(
        plans[0],
        flat_S=np.stack([plan.flat_S for plan in plans]),
        roughness_S=np.stack([plan.roughness_S for plan in plans]),
        mean_STF=np.stack([plan.mean_STF for plan in plans]),
        spread_STF=np.stack([plan.spread_STF for plan in plans]),
        referenced_S=np.stack([plan.referenced_S for plan in plans]),
        steps_S=np.stack([plan.steps_S for plan in plans]),
        low_STF=np.stack([plan.low_STF for plan in plans]),
        high_STF=np.stack([plan.high_STF for plan in plans]),
        residuals=stack_residual_plans([plan.residuals for plan in plans]),
    )


def plan_features(
    equipment: Equipment, spec: FeatureSpec, baseline: Baseline | None = None
) -> FeaturePlan:
    """Make the plan of a topology.

    A sensor without a reference is scaled by its declared range: the middle becomes 0 and the ends
    become -1 and 1.

    Args:
        equipment: the machine, or another one of the same topology.
        spec: the checkpoint's feature spec.
        baseline: of the machine, see `references_of`; None for the references of its design.

    Raises:
        WindowError: the spec or the baseline does not fit the equipment: a reference has another
            number of steps, a sensor has another quantity or unit than its reference, or the bins
            are no multiple of the steps.
    """
    check_bins(equipment.bins, equipment.steps)
    S, T, F = len(equipment.sensors), equipment.steps, len(spec.statistics)
    references = references_of(equipment, spec, baseline)
    mean_STF, spread_STF = np.empty((S, T, F)), np.empty((S, T, F))
    flat_S, roughness_S = np.full(S, np.inf), np.full(S, np.inf)
    referenced_S, steps_S = np.zeros(S, np.bool_), np.full(S, T)
    low_STF, high_STF = np.zeros((S, T, F)), np.zeros((S, T, F))
    for index, (_, sensor) in enumerate(equipment.sensors):
        reference = references.get(sensor.sensor_id)
        if reference is None:
            mean_STF[index], spread_STF[index] = _range_scale(sensor.range, spec.statistics)
            continue
        _check_reference(
            reference, sensor.quantity, sensor.unit, T, f"{equipment.design}.{sensor.sensor_id}"
        )
        mean_STF[index], spread_STF[index] = reference.mean, reference.spread
        low_STF[index], high_STF[index] = reference.low, reference.high
        flat_S[index], roughness_S[index] = reference.flat, reference.roughness
        referenced_S[index] = True
        steps_S[index] = max(1, int(reference.steps * T + 1e-9))
    range_S2 = np.array([sensor.range for _, sensor in equipment.sensors], np.float64).reshape(
        -1, 2
    )
    return FeaturePlan(
        sensor_ids=equipment.sensor_ids,
        bins=equipment.bins,
        steps=T,
        statistics=spec.statistics,
        clip=spec.clip,
        low_S=range_S2[:, 0].copy(),
        high_S=range_S2[:, 1].copy(),
        flat_S=flat_S,
        roughness_S=roughness_S,
        mean_STF=mean_STF,
        spread_STF=spread_STF,
        referenced_S=referenced_S,
        steps_S=steps_S,
        low_STF=low_STF,
        high_STF=high_STF,
        units=tuple(sensor.unit for _, sensor in equipment.sensors),
        components=len(equipment.components),
        sensors=_sensors(equipment, spec),
        residuals=_residuals(equipment, spec, baseline),
    )


def _residuals(
    equipment: Equipment, spec: FeatureSpec, baseline: Baseline | None
) -> ResidualPlan | None:
    """Return the regressions of a machine, none where training had none of its design."""
    if baseline is None or OF_RESIDUALS.keys().isdisjoint(spec.statistics):
        return None
    if not spec.takes_own_references(equipment.design):
        return None
    return plan_residuals(equipment, baseline.regressions)


def _sensors(equipment: Equipment, spec: FeatureSpec) -> SensorPlan | None:
    model = spec.sensor_models.get(equipment.design)
    if model is None or "mean" not in spec.statistics:
        return None
    component_ids = [component.component_id for component in equipment.components]
    return plan_sensors(model, equipment.sensor_ids, component_ids)


def _range_scale(
    limits: tuple[float, float], statistics: tuple[Statistic, ...]
) -> tuple[list[float], float]:
    half = max((limits[1] - limits[0]) / 2.0, 1e-12)
    middle = (limits[0] + limits[1]) / 2.0
    return [middle if name == "mean" else 0.0 for name in statistics], half


def _check_reference(
    reference: Reference, quantity: str, unit: str, steps: int, where: str
) -> None:
    if (reference.quantity, reference.unit) != (quantity, unit):
        raise WindowError(
            f"the checkpoint was trained with '{where}' as {reference.quantity} in "
            f"{reference.unit}, the equipment has it as {quantity} in {unit}: convert the readings "
            "or retrain"
        )
    if len(reference.mean) not in (1, steps):
        raise WindowError(
            f"the checkpoint was trained on windows of {len(reference.mean)} steps for '{where}', "
            f"the equipment has {steps}: give the equipment {len(reference.mean)} steps or retrain"
        )
