"""Readings in HTTP requests: one per line, or a whole window inline.

Invariant: every time has a zone and every value is finite as float32.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    RootModel,
)
from pydantic_core import CoreSchema, core_schema

from app.schemas.equipment import Identifier
from app.schemas.times import AwareTime

FLOAT32_MAX = 3.4028234663852886e38
"""Largest finite float32, the type of the store and the networks."""

MAX_WINDOW_VALUES = 100_000
"""Most values of one sensor in an inline window."""

MAX_LISTED_REJECTED = 1_000
"""Most rejected lines in an answer; it counts all of them."""


class _SaysFloat32:
    """One message for every invalid value, checked in pydantic's core: windows have many values."""

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

    equipment_id: Annotated[Identifier, Field(description="a registered machine")]
    sensor_id: Annotated[Identifier, Field(description="a sensor of its topology")]
    time: Annotated[AwareTime, Field(description="when it was read")]
    value: Annotated[FiniteFloat, Field(description="in the sensor's unit")]


class ReadingList(BaseModel):
    """Readings as an object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    readings: Annotated[list[Reading], Field(description="in any order")]


class ReadingsBody(RootModel[Reading | list[Reading] | ReadingList]):
    """A JSON body of readings: one, a list, or an object with a list."""


class InlineReadings(BaseModel):
    """A window's readings inside a request.

    Value i of each sensor was read at `start` + i * `step_s`; null is missing. Only the first
    invalid value of each sensor is reported.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Annotated[AwareTime, Field(description="time of the first value")]
    step_s: Annotated[
        float,
        Field(
            strict=True,
            gt=0,
            allow_inf_nan=False,
            le=86_400,
            description="seconds between two values",
        ),
    ]
    values: Annotated[
        dict[
            Identifier,
            Annotated[list[FiniteFloat | None], Field(max_length=MAX_WINDOW_VALUES), FailFast()],
        ],
        Field(
            min_length=1,
            max_length=2048,
            description="by sensor, in its unit: values of the whole window, null if missing",
        ),
    ]


ReadingAction = Literal["replace_values", "replace_interval", "delete_interval"]
ReadingField = Literal["equipment_id", "sensor_id", "time", "value", ""]


class RejectedLine(BaseModel):
    """A rejected line of a readings body, and why. `line` counts from 1, with a CSV header."""

    model_config = ConfigDict(frozen=True)

    line: int
    reason: str
    field: ReadingField = ""


class IngestAnswer(BaseModel):
    """Result of a readings body; every reading was accepted, stored already, or rejected.

    `rejected` has the first `MAX_LISTED_REJECTED` rejected lines; `rejected_count` is given when
    there are more. `conflict_lines` likewise; `conflicts` counts all.
    """

    model_config = ConfigDict(frozen=True)

    accepted: int = Field(description="new readings")
    duplicates: int = Field(description="readings that were stored already with this value")
    conflicts: int = Field(
        default=0,
        description="readings of a sensor and time that has another value, which was kept",
    )
    conflict_lines: list[int] = Field(
        default_factory=list, description="lines of the first 1,000 conflicts"
    )
    replaced: int = Field(
        default=0, description="readings that replaced another value (`on_conflict=replace`)"
    )
    spooled: int = Field(
        default=0,
        description="readings that are safe on disk and will be stored when the database is back; "
        "whether they are new, duplicates or in conflict shows then",
    )
    rejected: list[RejectedLine]
    rejected_count: int | None = None


class IntervalAnswer(BaseModel):
    """Result of replacing or deleting a machine's readings of an interval."""

    model_config = ConfigDict(frozen=True)

    removed: int = Field(description="readings that were in the interval before")
    written: int = Field(description="readings that are in it now")


class SensorBins(BaseModel):
    """Statistics of one sensor's readings for each bin of a chart; null where there are none."""

    model_config = ConfigDict(frozen=True)

    sensor_id: str
    unit: str
    mean: list[float | None]
    min: list[float | None]
    max: list[float | None]
    count: list[int]


class BinnedReadings(BaseModel):
    """A machine's readings in bins. Bin i is [start + i * bin_s, start + (i + 1) * bin_s)."""

    model_config = ConfigDict(frozen=True)

    equipment_id: str
    start: datetime
    end: datetime
    bin_s: float
    bins: int
    source: Literal["readings", "grid"] = Field(
        description="what was binned: all readings, or of a long interval the means of the "
        "machine's grid, whose number `count` then has"
    )
    sensors: list[SensorBins]


class ReadingChange(BaseModel):
    """A recorded change of stored readings."""

    model_config = ConfigDict(frozen=True)

    change_id: int
    changed_at: datetime
    actor: str = Field(description="name of the API key")
    action: ReadingAction
    start: datetime = Field(description="of the interval, or time of the first changed reading")
    end: datetime = Field(description="of the interval, or time of the last changed reading")
    removed: int
    written: int


class ReadingChanges(BaseModel):
    """Recorded changes, newest first."""

    model_config = ConfigDict(frozen=True)

    changes: list[ReadingChange]
    next_cursor: str | None = Field(
        default=None, description="`cursor` of the next page; null after the last item"
    )
