"""Registered equipment, and the slots of its sensors in the arrays of the grid.

Invariant: a sensor's slot never changes and is never given to another sensor, so stored arrays keep
their meaning when a topology gains, loses or reorders sensors.
"""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from app.schemas.equipment import Equipment
from app.store.partitions import Repository
from app.store.pool import Row, first_value, queries

PAGE = 100
"""Machines per statement when listing all: parsing them blocks the event loop for about 10 ms."""


class EquipmentRecord(BaseModel):
    """A registered equipment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment: Equipment
    revision: str
    registered_at: datetime
    updated_at: datetime


class EquipmentRepository(Repository):
    """Registered equipment."""

    async def put_equipment(self, item: Equipment) -> bool:
        """Register an equipment or replace its topology; return whether it is new.

        A changed `grid_s` recomputes the whole grid from the readings in the same transaction.
        Other writers to the equipment wait; 1.9 million readings took 3.5 s on two busy cores.
        """
        named = queries()
        topology = item.model_dump_json()
        async with self._database.patient_session() as session, session.transaction():
            await session.execute(named["lock_equipment"], item.equipment_id)
            put = await session.fetchrow(
                named["put_equipment"], item.equipment_id, topology, item.revision, item.grid_us
            )
            assert put is not None
            key = put["equipment_key"]
            await session.execute(named["add_sensors"], key, list(item.sensor_ids))
            if put["grid_us_before"] not in (None, item.grid_us):
                await session.execute(named["rebuild_grid"], key)
        return put["grid_us_before"] is None

    async def get_equipment(self, equipment_id: str) -> EquipmentRecord | None:
        """Return a registered equipment, or None."""
        return (await self.get_equipment_of([equipment_id])).get(equipment_id)

    async def get_equipment_of(self, equipment_ids: Sequence[str]) -> dict[str, EquipmentRecord]:
        """Return those of these equipment that are registered, by id, in one statement."""
        rows = await self._database.fetch("get_equipment", list(equipment_ids))
        return {row["equipment_id"]: _record(row) for row in rows}

    async def topology_of_revision(self, equipment_id: str, revision: str) -> Equipment | None:
        """Return the topology of an equipment at a revision; None when it is not kept."""
        topology: str | None = first_value(
            await self._database.fetch("topology_of_revision", equipment_id, revision)
        )
        return None if topology is None else Equipment.model_validate_json(topology)

    async def list_equipment(self) -> Sequence[EquipmentRecord]:
        """Return all registered equipment in the order of ids."""
        ids = await self.find_equipment()
        found: list[EquipmentRecord] = []
        for start in range(0, len(ids), PAGE):
            found += (await self.get_equipment_of(ids[start : start + PAGE])).values()
        return found

    async def find_equipment(
        self, pattern: str | None = None, design: str | None = None
    ) -> list[str]:
        """Return the ids of registered equipment in order.

        Args:
            pattern: of the ids, `*` for any part; None for all.
            design: of the equipment; None for all.
        """
        if pattern is not None:
            escapes = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_", "*": "%"})
            pattern = pattern.translate(escapes)
        rows = await self._database.fetch("find_equipment", pattern, design)
        return [row["equipment_id"] for row in rows]


def _record(row: Row) -> EquipmentRecord:
    equipment = Equipment.model_validate_json(row["topology"])
    vars(equipment)["revision"] = row["revision"]  # fills the cached property
    return EquipmentRecord(
        equipment=equipment,
        revision=row["revision"],
        registered_at=row["registered_at"],
        updated_at=row["updated_at"],
    )
