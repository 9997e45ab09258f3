"""Health of components in hours or days: of a machine, and of all machines of a tenant."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_RECORD = ConfigDict(frozen=True, extra="forbid")
_Counts = Annotated[
    Sequence[Annotated[int, Field(ge=0)]], Field(description="diagnoses in this state")
]
_Healths = Annotated[
    Sequence[Annotated[float, Field(ge=0.0, le=1.0)]],
    Field(description="1 as new, 0 at the failure threshold"),
]


class FleetComponentHealth(BaseModel):
    """Health of a component over all machines that have one of this id; arrays of one length.

    Hours and days without a diagnosis are left out.
    """

    model_config = _RECORD

    component_id: Annotated[str, Field(description="the component")]
    times: Annotated[Sequence[datetime], Field(description="beginnings of hours or days, UTC")]
    diagnoses: Annotated[
        Sequence[Annotated[int, Field(ge=1)]],
        Field(description="of stored readings, whose window ends in the hour or day"),
    ]
    health: Annotated[_Healths, Field(description="mean of these diagnoses")]
    watch: _Counts
    degraded: _Counts
    critical: _Counts


class ComponentHealth(FleetComponentHealth):
    """Health of a component of one machine; arrays of one length.

    Hours and days without a diagnosis are left out.
    """

    lowest: Annotated[_Healths, Field(description="of these diagnoses")]
    highest: Annotated[_Healths, Field(description="of these diagnoses")]


class HealthHistory(BaseModel):
    """Health of a machine's components in an interval."""

    model_config = _RECORD

    equipment_id: Annotated[str, Field(description="the machine")]
    start: Annotated[datetime, Field(description="of the interval [start, end)")]
    end: Annotated[datetime, Field(description="of the interval")]
    resolution: Annotated[Literal["hour", "day"], Field(description="width of the times")]
    components: Annotated[
        Sequence[ComponentHealth], Field(description="those that have a health, by id")
    ]


class FleetHealth(BaseModel):
    """Health of components over all machines of the key's tenant in an interval."""

    model_config = _RECORD

    start: Annotated[datetime, Field(description="of the interval [start, end)")]
    end: Annotated[datetime, Field(description="of the interval")]
    resolution: Annotated[Literal["hour", "day"], Field(description="width of the times")]
    components: Annotated[
        Sequence[FleetComponentHealth], Field(description="those that have a health, by id")
    ]


class ReadingCounts(BaseModel):
    """How many readings a machine has in each minute; minutes without any are left out."""

    model_config = _RECORD

    equipment_id: Annotated[str, Field(description="the machine")]
    start: Annotated[datetime, Field(description="of the interval [start, end)")]
    end: Annotated[datetime, Field(description="of the interval")]
    times: Annotated[Sequence[datetime], Field(description="beginnings of minutes, UTC")]
    readings: Annotated[
        Sequence[Annotated[int, Field(ge=1)]], Field(description="of all sensors in the minute")
    ]
