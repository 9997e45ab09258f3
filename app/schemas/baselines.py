"""Baselines of machines over HTTP: the request, and what is known of a stored one."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.times import AwareTime

_STRICT = ConfigDict(frozen=True, extra="forbid")


class BaselineRequest(BaseModel):
    """The interval [start, end) in which a machine was healthy."""

    model_config = _STRICT

    start: Annotated[AwareTime, Field(description="first moment of the interval")]
    end: Annotated[AwareTime, Field(description="first moment after it; not in the future")]


class MachineBaseline(BaseModel):
    """A machine's baseline: from an interval of its own readings, and used from then on."""

    model_config = _STRICT

    equipment_id: str
    baseline_id: Annotated[
        str, Field(description="hash of the machine, the interval and its readings' statistics")
    ]
    start: Annotated[datetime, Field(description="first moment of the interval")]
    end: Annotated[datetime, Field(description="first moment after it")]
    windows: Annotated[int, Field(description="complete windows in it, which were measured")]
    missing_sensors: Annotated[
        tuple[str, ...],
        Field(
            description="sensors with readings in too few windows: they keep the reference of the "
            "design, and are no evidence where there is none"
        ),
    ]
    stuck_sensors: Annotated[
        tuple[str, ...],
        Field(
            description="sensors that did not change through a whole window; check that they work, "
            "and record the baseline again if they did not"
        ),
    ]
    recorded_at: Annotated[datetime, Field(description="when it was recorded")]
    recorded_by: Annotated[str, Field(description="name of the key that recorded it")]
    deleted_at: Annotated[
        datetime | None, Field(description="until when it was used; null while it is")
    ] = None
