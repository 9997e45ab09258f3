"""Readings as they arrive over HTTP: one line each, or a whole window inline.

Invariant: every time is aware and every value a float32 can hold, so that nothing behind this door needs to ask.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from app.schemas.equipment import Identifier
from app.schemas.times import AwareTime

FLOAT32_MAX = 3.4028234663852886e38
"""Largest finite float32: what the store and the networks hold."""

MAX_WINDOW_VALUES = 100_000
"""Most values of one sensor in an inline window."""

MAX_LISTED_REJECTED = 1_000
"""Most rejected lines that an answer lists; it counts them all."""


class _SaysFloat32:
    """One message for whatever a value fails at; it stays in pydantic's core, since windows have millions of values."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source),
            "float32",
            custom_error_message="expected a finite number that a float32 holds",
        )


FiniteFloat = Annotated[
    float, Field(strict=True, allow_inf_nan=False, ge=-FLOAT32_MAX, le=FLOAT32_MAX), _SaysFloat32()
]


class Reading(BaseModel):
    """One value of one sensor at one time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment_id: Identifier
    sensor_id: Identifier
    time: AwareTime
    value: FiniteFloat


class InlineReadings(BaseModel):
    """A window's readings inside a request.

    Value i of each sensor was read at `start` + i * `step_s`; null is missing. Of each sensor only the first bad value
    is told: a body of nothing else would have millions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: AwareTime
    step_s: Annotated[float, Field(gt=0, allow_inf_nan=False, le=86_400)]
    values: Annotated[
        dict[
            Identifier,
            Annotated[list[FiniteFloat | None], Field(max_length=MAX_WINDOW_VALUES), FailFast()],
        ],
        Field(min_length=1, max_length=2048),
    ]


class RejectedLine(BaseModel):
    """A line of a readings body that was not taken, and why. `line` counts from 1, a CSV header included."""

    model_config = ConfigDict(frozen=True)

    line: int
    reason: str
    field: Literal["equipment_id", "sensor_id", "time", "value", ""] = ""


class IngestAnswer(BaseModel):
    """What became of a readings body; every line was accepted, a duplicate or rejected.

    `rejected` lists the first `MAX_LISTED_REJECTED` of the rejected lines; `rejected_count` says how many there were when
    that is more.
    """

    model_config = ConfigDict(frozen=True)

    accepted: int
    duplicates: int
    rejected: list[RejectedLine]
    rejected_count: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _count_then_cut(cls, data: Any) -> Any:
        if (
            not isinstance(data, dict)
            or "rejected_count" in data
            or not isinstance(data.get("rejected"), list)
        ):
            return data
        rejected = data["rejected"]
        if len(rejected) <= MAX_LISTED_REJECTED:
            return data
        return data | {"rejected": rejected[:MAX_LISTED_REJECTED], "rejected_count": len(rejected)}
