"""How a checkpoint's features are made: the constants of its training windows, as `feature_spec.json` holds them.

Constants travel with the checkpoint; nothing here is estimated when serving.
Invariant: each table of a reference has one row for all steps or one for each, and a number for each statistic.
"""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.features.binning import Statistic
from app.schemas.equipment import Grade

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Reference(BaseModel):
    """What one sensor of a design showed in the training windows, in the sensor's unit.

    `mean`, `spread`, `low` and `high` are [R][F]: one row for each step of a machine that repeats a cycle, else one row for all
    steps. `flat` is the largest share of a window that one unchanging value filled, `roughness` the largest mean absolute
    second difference of neighbouring bins.
    """

    model_config = _STRICT

    quantity: str
    unit: str
    mean: tuple[tuple[float, ...], ...]
    spread: tuple[tuple[Annotated[float, Field(gt=0)], ...], ...]
    low: tuple[tuple[float, ...], ...]
    high: tuple[tuple[float, ...], ...]
    flat: Annotated[float, Field(ge=0, le=1)]
    roughness: Annotated[float, Field(ge=0)]


class Limits(BaseModel):
    """How far windows that the weights never saw left the range of their training windows; see `range_exceedance`."""

    model_config = _STRICT

    window: Annotated[float, Field(ge=0)]
    sensors: Mapping[str, Annotated[float, Field(ge=0)]]


class FeatureSpec(BaseModel):
    """How a checkpoint's features are made: `feature_spec.json`. Constants are those of its training windows, never literals.

    `references` and `grades` are by design, then by sensor or component id; `limits` is by design. A grade set's number in
    the network is its place in `grade_sets`.
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
                        f"expected {len(self.statistics)} numbers a row ({', '.join(self.statistics)}) and as many rows in "
                        f"each table of references.{design}.{sensor_id}, found (rows, numbers) {sorted(found)}"
                    )
        return self

    @property
    def features(self) -> int:
        """F of the network: the statistics and the coverage."""
        return len(self.statistics) + 1

    def sensor_slots(self) -> tuple[tuple[str, str], ...]:
        """Return (design, sensor id) of every sensor with a reference, in the order of their numbers."""
        return tuple(
            (design, sensor_id)
            for design, sensors in self.references.items()
            for sensor_id in sensors
        )

    def grade_sets(self) -> tuple[tuple[str, str], ...]:
        """Return (design, component id) of every grade set, in the order of their numbers."""
        return tuple(
            (design, component) for design, sets in self.grades.items() for component in sets
        )
