"""Maintenance of a machine: when, on which component, what was done.

Trends of health begin anew after it, except after an inspection.
"""

from datetime import datetime
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.core.errors import InputError
from app.schemas.equipment import Equipment, Identifier
from app.schemas.places import some_of
from app.schemas.times import EARLIEST, AwareTime

Kind = Literal["replacement", "repair", "adjustment", "cleaning", "fluid", "inspection", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KEEPS_WEAR: Kind = "inspection"
"""The kind of maintenance that changes nothing of the machine."""


class Maintenance(BaseModel):
    """One piece of maintenance of a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: Annotated[AwareTime, Field(description="when it ended")]
    component_id: Annotated[
        Identifier | None, Field(description="of the component; null for the whole machine")
    ] = None
    kind: Annotated[
        Kind,
        Field(
            description="what was done; after all but an `inspection` the trends of health begin "
            "anew"
        ),
    ]
    note: Annotated[str, StringConstraints(max_length=2_000), Field(description="for people")] = ""


class MaintenanceRecord(Maintenance):
    """Recorded maintenance of a machine."""

    maintenance_id: Annotated[int, Field(description="number of the record")]


def check_maintenance(item: Maintenance, equipment: Equipment, latest: datetime) -> None:
    """Check that maintenance may be recorded of a machine.

    Args:
        item: to record.
        equipment: the machine.
        latest: last time that it may have ended.

    Raises:
        InputError: there is no such component, or the time is not one from 1970 to `latest`.
    """
    if item.component_id is not None and item.component_id not in equipment.component_ids:
        raise InputError(
            f"expected a component of '{equipment.equipment_id}', found '{item.component_id}': "
            f"there are {some_of(equipment.component_ids)}",
            "component_id",
        )
    if not EARLIEST <= item.time <= latest:
        raise InputError(
            f"expected a time from {EARLIEST.year} up to now "
            f"({latest.isoformat(timespec='seconds')}), found {item.time.isoformat()}: record "
            "maintenance after it was done",
            "time",
        )
