"""Registered equipment and the places of its sensors in the grid's arrays.

Invariant: a sensor's slot never changes and is never given to another, so stored arrays keep their meaning when a
topology gains, loses or reorders sensors.
"""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from app.schemas.equipment import Equipment
from app.store.pool import Database, Row, first_value
from app.store.sql import queries

PAGE = 100
"""Machines of one statement when all are listed: reading their topologies holds the event loop up for some 10 ms."""


class EquipmentRecord(BaseModel):
    """A registered equipment. `slot_sensors` are the sensors by slot, those that the topology lost included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment: Equipment
    revision: str
    registered_at: datetime
    updated_at: datetime
    slot_sensors: tuple[str, ...]


class PutResult(BaseModel):
    """What registering did. `rebuilt_bins` counts the bins worked out again because `grid_s` changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: EquipmentRecord
    created: bool
    rebuilt_bins: int = 0


async def put_equipment(database: Database, equipment: Equipment) -> PutResult:
    """Register an equipment or replace its topology.

    A changed `grid_s` works the whole grid out again from the readings, in the same transaction: the readings are the
    truth, and a refusal would leave no way on but to import them again under another name. Writers to this
    equipment wait meanwhile; 1.9 million readings took 3.5 s on two busy cores.

    Raises:
        StoreUnavailable: the database can't be reached.
        StoreError: it refused.
    """
    named = queries()
    topology = equipment.model_dump_json()
    async with database.patient_session() as session, session.transaction():
        await session.execute(named["lock_equipment"], equipment.equipment_id)
        put = await session.fetchrow(
            named["put_equipment"],
            equipment.equipment_id,
            topology,
            equipment.revision,
            equipment.grid_us,
        )
        assert put is not None
        await session.execute(
            named["add_sensors"], put["equipment_key"], list(equipment.sensor_ids)
        )
        rebuilt = 0
        if put["grid_us_before"] not in (None, equipment.grid_us):
            rebuilt = await session.fetchval(named["rebuild_grid"], put["equipment_key"])
        row = await session.fetchrow(named["get_equipment"], [equipment.equipment_id])
        assert row is not None
    return PutResult(
        record=_record(row), created=put["revision_before"] is None, rebuilt_bins=rebuilt
    )


async def get_equipment(
    database: Database, equipment_ids: Sequence[str]
) -> dict[str, EquipmentRecord]:
    """Return the registered ones of these equipment, by id, in one statement.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    rows = await database.fetch("get_equipment", list(equipment_ids))
    return {row["equipment_id"]: _record(row) for row in rows}


async def topology_of_revision(
    database: Database, equipment_id: str, revision: str
) -> Equipment | None:
    """Return the topology that an equipment has, or had, at a revision; None when it is not kept.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    topology: str | None = first_value(
        await database.fetch("topology_of_revision", equipment_id, revision)
    )
    return None if topology is None else Equipment.model_validate_json(topology)


async def list_equipment(database: Database) -> Sequence[EquipmentRecord]:
    """Return all registered equipment in the order of ids.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    found: list[EquipmentRecord] = []
    after = ""
    while rows := await database.fetch("list_equipment", after, PAGE):
        found += map(_record, rows)
        after = rows[-1]["equipment_id"]
    return found


async def find_equipment(
    database: Database, pattern: str | None = None, design: str | None = None
) -> list[str]:
    """Return the ids of registered equipment, in their order.

    Args:
        database: migrated.
        pattern: of the ids, `*` for any part; None for all.
        design: of the equipment; None for all.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    like = None
    if pattern is not None:
        like = (
            pattern.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_").replace("*", "%")
        )
    return [row["equipment_id"] for row in await database.fetch("find_equipment", like, design)]


def _record(row: Row) -> EquipmentRecord:
    equipment = Equipment.model_validate_json(row["topology"])
    vars(equipment)["revision"] = row["revision"]  # what the cached property would work out again
    return EquipmentRecord(
        equipment=equipment,
        revision=row["revision"],
        registered_at=row["registered_at"],
        updated_at=row["updated_at"],
        slot_sensors=tuple(row["slot_sensors"]),
    )
