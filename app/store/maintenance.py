"""Recorded maintenance of equipment.

Invariant: an equipment has at most one record of a kind for a component and time; recording it
again changes its note.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from app.core.errors import UnknownEquipment
from app.schemas.maintenance import Maintenance, MaintenanceRecord
from app.store.partitions import Repository


class Recorded(NamedTuple):
    """A record, and whether it is new."""

    record: MaintenanceRecord
    is_new: bool


class MaintenanceRepository(Repository):
    """Maintenance of equipment."""

    async def put_maintenance(self, equipment_id: str, item: Maintenance) -> Recorded:
        """Record maintenance of a registered equipment.

        Raises:
            UnknownEquipment: it is not registered.
        """
        rows = await self._database.fetch(
            "put_maintenance", equipment_id, item.time, item.component_id or "", item.kind,
            item.note,
        )  # fmt: skip
        if not rows:
            raise UnknownEquipment(equipment_id)
        number, is_new = rows[0]
        record = MaintenanceRecord(maintenance_id=number, **item.model_dump())
        return Recorded(record, is_new)

    async def list_maintenance(
        self,
        equipment_id: str,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 1_000,
        after: tuple[datetime, int] | None = None,
    ) -> Sequence[MaintenanceRecord]:
        """Return the maintenance of an equipment, newest first.

        Args:
            equipment_id: need not be registered any more.
            start: of the interval; None for all.
            end: likewise.
            limit: most records to return.
            after: time and number of the record before the first; None for the newest.
        """
        rows = await self._database.fetch(
            "list_maintenance", equipment_id, start, end, *(after or (None, None)), limit
        )
        return [MaintenanceRecord(**dict(row)) for row in rows]

    async def delete_maintenance(self, equipment_id: str, maintenance_id: int) -> bool:
        """Remove a record; return whether there was one."""
        rows = await self._database.fetch("delete_maintenance", equipment_id, maintenance_id)
        return bool(rows)
