"""A machine's baseline: moments of its sensors, and regressions on their neighbours, while healthy.

It does not depend on a checkpoint: it has every statistic, and each feature spec takes from it
those that it was trained with. `app.features.references` measures it.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.core.errors import WindowError
from app.features.statistics import Statistic
from app.schemas.equipment import Equipment

Table = tuple[tuple[float, ...], ...]
"""A number of each statistic, a row for each step of a machine that repeats a cycle, else one."""

_STRICT = ConfigDict(
    frozen=True, extra="forbid", allow_inf_nan=False, ignored_types=(cached_property,)
)


class SensorMoments(BaseModel):
    """Moments of one sensor over windows, in the sensor's unit.

    `mean`, `spread`, `low` and `high` are of the statistics of steps; `spread` and `deviation`, of
    the bins, are population standard deviations. `flat` and `roughness` are the largest of a
    window. `steps` is the least share of a window's steps that had readings, in at least a
    thousandth of the windows that had any. `windows` had readings.
    """

    model_config = _STRICT

    quantity: str
    unit: str
    mean: Table
    spread: Table
    low: Table
    high: Table
    deviation: Annotated[float, Field(ge=0)]
    flat: Annotated[float, Field(ge=0, le=1)]
    roughness: Annotated[float, Field(ge=0)]
    steps: Annotated[float, Field(gt=0, le=1)]
    windows: Annotated[int, Field(ge=1)]


class Regression(BaseModel):
    """Predicts a sensor from its neighbours; see `app.features.residuals`.

    Args:
        sensors: ids of the neighbours.
        weights: of the reading of each a bin before, at the same time and a bin after.
        constant: added to the weighted sum.
    """

    model_config = _STRICT

    sensors: tuple[str, ...]
    weights: tuple[tuple[float, float, float], ...]
    constant: float

    @model_validator(mode="after")
    def _sensor_has_weights(self) -> Self:
        if len(self.sensors) != len(self.weights):
            raise ValueError(
                f"expected weights of {len(self.sensors)} sensors, found {len(self.weights)}"
            )
        return self


class WindowLayout(NamedTuple):
    """How windows are divided: width of a bin, bins of a window, steps, rows of a table."""

    grid_us: int
    bins: int
    steps: int
    rows: int

    @classmethod
    def of(cls, equipment: Equipment) -> "WindowLayout":
        """Return the layout of a machine's windows."""
        rows = 1 if equipment.cycle_s is None else equipment.steps
        return cls(equipment.grid_us, equipment.bins, equipment.steps, rows)


class Baseline(BaseModel):
    """Moments and regressions of the sensors of one machine.

    Args:
        statistics: columns of the tables.
        layout: of the windows that were measured.
        sensors: by id; a sensor with too few readings is missing.
        regressions: by sensor id; a sensor without one has no residuals, and the statistics of
            residuals in its moments are 0.
    """

    model_config = _STRICT

    statistics: tuple[Statistic, ...]
    layout: WindowLayout
    sensors: Mapping[str, SensorMoments]
    regressions: Mapping[str, Regression] = Field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Hash of the content: 128 bits of BLAKE2b as hexadecimal."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=16).hexdigest()


def check_baseline(baseline: Baseline, equipment: Equipment) -> None:
    """Check that a baseline is of a machine's present topology.

    Raises:
        WindowError: its windows were divided otherwise, or a sensor had another quantity or unit.
    """
    advice = "record the baseline again, with PUT /v1/equipment/{id}/baseline"
    layout = WindowLayout.of(equipment)
    if baseline.layout != layout:
        raise WindowError(
            f"expected a baseline of windows of {layout.bins} bins of {layout.grid_us} us and "
            f"{layout.steps} steps ({layout.rows} apart), found one of {baseline.layout.bins} bins "
            f"of {baseline.layout.grid_us} us and {baseline.layout.steps} steps "
            f"({baseline.layout.rows} apart): the topology has changed; {advice}"
        )
    for _, sensor in equipment.sensors:
        found = baseline.sensors.get(sensor.sensor_id)
        if found is not None and (found.quantity, found.unit) != (sensor.quantity, sensor.unit):
            raise WindowError(
                f"expected a baseline of '{sensor.sensor_id}' as {sensor.quantity} in "
                f"{sensor.unit}, found one as {found.quantity} in {found.unit}: the topology has "
                f"changed; {advice}"
            )
