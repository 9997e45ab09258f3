"""Readings as they arrive over HTTP: one line each, or a whole window inline.

Invariant: every time is aware and every value finite, so that nothing behind this door needs to ask.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

SensorId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
FiniteFloat = Annotated[float, Field(strict=True, allow_inf_nan=False)]

MAX_WINDOW_VALUES = 100_000
"""Most values of one sensor in an inline window."""


class Reading(BaseModel):
    """One value of one sensor at one time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    sensor_id: SensorId
    time: AwareDatetime
    value: FiniteFloat


class InlineReadings(BaseModel):
    """A window's readings inside a request.

    Value i of each sensor was read at `start` + i * `step_s`; null is missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: AwareDatetime
    step_s: Annotated[float, Field(gt=0, allow_inf_nan=False, le=86_400)]
    values: Annotated[
        dict[SensorId, Annotated[list[FiniteFloat | None], Field(max_length=MAX_WINDOW_VALUES)]],
        Field(min_length=1, max_length=2048),
    ]


class RejectedLine(BaseModel):
    """A line of a readings body that was not taken, and why. `line` counts from 1, a CSV header included."""

    model_config = ConfigDict(frozen=True)

    line: int
    reason: str
    field: Literal["equipment_id", "sensor_id", "time", "value", ""] = ""


class IngestAnswer(BaseModel):
    """What became of a readings body; every line is in exactly one of the three."""

    model_config = ConfigDict(frozen=True)

    accepted: int
    duplicates: int
    rejected: list[RejectedLine]
