"""What the readings of a machine are normalised by: references of its design, or of its baseline.

Pure. The constants are those of the checkpoint and of the baseline; nothing is estimated here.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.core.errors import WindowError
from app.features.baseline import Baseline, SensorMoments, Table, check_baseline
from app.features.statistics import OF_RESIDUALS, Statistic
from app.schemas.equipment import Equipment, Sensor
from app.schemas.places import some_of

if TYPE_CHECKING:
    from app.features.spec import FeatureSpec

_STRICT = ConfigDict(frozen=True, extra="forbid")

RESIDUAL_FLOOR = 0.05
"""Least spread of statistics of residuals, as a share of that of other statistics: some readings
are predicted almost exactly."""
UNTRAINED_ROUGHNESS = 5.0
"""How much rougher than in its baseline a sensor of an untrained design may be without a fault."""


class Reference(BaseModel):
    """Statistics of one sensor of a design over the training windows, in the sensor's unit.

    `mean`, `spread`, `low` and `high` have F columns and one row for each step of a machine that
    repeats a cycle, else one row for all steps. `flat` and `roughness` are the largest `flatness`
    and `roughness` of a training window. `steps` is the least share of a window's steps that had
    readings, in at least a thousandth of the windows that had any; 1 in checkpoints that do not
    state it. Statistics of residuals are 0 in the reference of a design: it has no regressions.
    """

    model_config = _STRICT

    quantity: str
    unit: str
    mean: Table
    spread: tuple[tuple[Annotated[float, Field(gt=0)], ...], ...]
    low: Table
    high: Table
    flat: Annotated[float, Field(ge=0, le=1)]
    roughness: Annotated[float, Field(ge=0)]
    steps: Annotated[float, Field(gt=0, le=1)] = 1.0


def references_of(
    equipment: Equipment, spec: "FeatureSpec", baseline: Baseline | None = None
) -> Mapping[str, Reference]:
    """Return what the readings of a machine's sensors are normalised by, by sensor id.

    Without a baseline these are the references of the design. With one, a spec that was trained
    with the baselines of machines takes the machine's own statistics instead. A spec that was
    trained with references of the design keeps their spreads, which are of all conditions of
    training, and moves the rest by the difference between this machine and the design while
    healthy; so does a spec for a design of which no training machine had a baseline. Both
    accept what is usual of the design as no fault of a sensor; of a design that was not trained,
    readings `UNTRAINED_ROUGHNESS` as rough as the baseline's, since wear makes readings rougher. A
    sensor that the baseline lacks keeps the reference of its design.

    Args:
        equipment: the machine.
        spec: the checkpoint's feature spec.
        baseline: of the machine.

    Raises:
        WindowError: the baseline is of an earlier topology, or the spec can't use it.
    """
    of_design = spec.references.get(equipment.design, {})
    if baseline is None:
        return of_design
    check_baseline(baseline, equipment)
    _check_spec(spec, equipment.design, baseline)
    found = dict(of_design)
    for _, sensor in equipment.sensors:
        moments = baseline.sensors.get(sensor.sensor_id)
        if moments is None:
            continue
        own = reference_of(moments, sensor, baseline.statistics, spec.statistics, spec.spread_floor)
        usual = of_design.get(sensor.sensor_id)
        if not spec.takes_own_references(equipment.design):
            if usual is None:  # the network was not trained with it
                continue
            own = _moved(own, usual, spec.healthy[equipment.design][sensor.sensor_id])
        found[sensor.sensor_id] = _accepting(own, usual)
    return found


def reference_of(
    moments: SensorMoments,
    sensor: Sensor,
    columns: Sequence[Statistic],
    statistics: Sequence[Statistic],
    spread_floor: float,
) -> Reference:
    """Return the moments of a sensor as a reference.

    Args:
        moments: of the sensor.
        sensor: gives the range.
        columns: statistics of the tables of the moments.
        statistics: those of the reference.
        spread_floor: least spread, in deviations of the bins; it is also at least 1e-4 of the
            range; of statistics of residuals `RESIDUAL_FLOOR` of that.
    """
    places = [columns.index(name) for name in statistics]
    low, high = sensor.range
    floor = max(spread_floor * moments.deviation, 1e-4 * (high - low))
    floors = [floor * RESIDUAL_FLOOR if name in OF_RESIDUALS else floor for name in statistics]

    def chosen(rows: Table) -> Table:
        return tuple(tuple(row[place] for place in places) for row in rows)

    return Reference(
        quantity=moments.quantity,
        unit=moments.unit,
        mean=chosen(moments.mean),
        spread=tuple(tuple(map(max, row, floors)) for row in chosen(moments.spread)),
        low=chosen(moments.low),
        high=chosen(moments.high),
        flat=moments.flat,
        roughness=moments.roughness,
        steps=moments.steps,
    )


def _check_spec(spec: "FeatureSpec", design: str, baseline: Baseline) -> None:
    """Check that a spec can use a baseline of a machine of a design."""
    absent = [name for name in spec.statistics if name not in baseline.statistics]
    if absent:
        raise WindowError(
            f"expected a baseline with the statistics {', '.join(absent)}, which this version "
            "reads, found one without them: record the baseline again, with PUT "
            "/v1/equipment/{id}/baseline"
        )
    if spec.takes_own_references(design):
        return
    if design not in spec.references:
        raise WindowError(
            f"expected a version that was trained for design '{design}' or with baselines of "
            "machines, found one that was trained with references of its own designs "
            f"({some_of(tuple(spec.references))}): use a version that was trained with "
            "machine_baseline_h above 0"
        )
    used = spec.references[design].keys() & baseline.sensors.keys()
    unknown = sorted(used - spec.healthy.get(design, {}).keys())
    if unknown:
        raise WindowError(
            "expected a version that states the means of healthy training windows of "
            f"{some_of(tuple(unknown))} of design '{design}', found none: train it again, or "
            "delete the machine's baseline"
        )


def _moved(own: Reference, usual: Reference, healthy: Table) -> Reference:
    """Return the reference of a design, moved by what the healthy machine differs from it."""

    def moved(rows: Table) -> Table:
        return tuple(
            tuple(each + mine - other for each, mine, other in zip(*triple, strict=True))
            for triple in zip(rows, own.mean, healthy, strict=True)
        )

    return own.model_copy(
        update={
            "mean": moved(usual.mean),
            "spread": usual.spread,
            "low": moved(usual.low),
            "high": moved(usual.high),
        }
    )


def _accepting(own: Reference, usual: Reference | None) -> Reference:
    """Return a machine's reference that also accepts readings as they are usual of its design."""
    if usual is None:
        return own.model_copy(update={"roughness": UNTRAINED_ROUGHNESS * own.roughness})
    return own.model_copy(
        update={
            "flat": max(own.flat, usual.flat),
            "roughness": max(own.roughness, usual.roughness),
            "steps": min(own.steps, usual.steps),
        }
    )
