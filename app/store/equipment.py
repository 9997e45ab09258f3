"""Registered equipment, and the slots of its sensors in the arrays of the grid.

Invariant: a sensor's slot never changes and is never given to another sensor, so stored arrays keep
their meaning when a topology gains, loses or reorders sensors.
"""

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from app.core.errors import ConflictError
from app.schemas.equipment import METADATA, Equipment, EquipmentSummary, Metadata
from app.store.partitions import Repository
from app.store.postgres_errors import NotVisible
from app.store.statements import Row, first_value, queries

PAGE = 100
"""Machines per statement when listing all: parsing them blocks the event loop for about 10 ms."""
PURGE_ROWS = 20_000
PURGE_DIAGNOSES = 2_000
"""Rows that one statement of a purge removes; a diagnosis is some 5 KB."""
_ID_CHARACTERS = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_", "*": "%"})


class EquipmentRecord(BaseModel):
    """An equipment that is registered, or was until it was deleted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment: Equipment
    revision: str
    registered_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    baseline_id: str | None = None
    """Of the baseline in force."""


class Put(NamedTuple):
    """Whether a registration was the first one, or brought a deleted equipment back."""

    created: bool
    restored: bool


class Purged(NamedTuple):
    """How many rows of an equipment one call of `purge_equipment` removed; `complete` if all."""

    complete: bool
    readings: int
    bins: int
    diagnoses: int
    labels: int


class EquipmentRepository(Repository):
    """Registered equipment."""

    async def put_equipment(self, item: Equipment, actor: str = "") -> Put:
        """Register an equipment, replace its topology, or restore a deleted one.

        A changed `grid_s` recomputes the whole grid from the readings in the same transaction.
        Other writers to the equipment wait; 1.9 million readings took 3.5 s on two busy cores.

        Args:
            item: the equipment.
            actor: recorded when it is restored.

        Raises:
            ConflictError: the id is another tenant's.
        """
        try:
            return await self._put_equipment(item, actor)
        except NotVisible as error:
            raise ConflictError(
                f"expected an id that no other tenant uses, found '{item.equipment_id}': choose "
                "another id, such as one that begins with the plant",
                "equipment_id",
            ) from error

    async def _put_equipment(self, item: Equipment, actor: str) -> Put:
        named = queries()
        topology = item.model_dump_json(exclude=set(METADATA))
        metadata = item.metadata.model_dump_json(exclude_none=True)
        async with self._database.patient_session() as session, session.transaction():
            await session.execute(named["lock_equipment"], item.equipment_id)
            put = await session.fetchrow(
                named["put_equipment"],
                item.equipment_id,
                topology,
                item.revision,
                item.grid_us,
                metadata,
            )
            assert put is not None
            key = put["equipment_key"]
            restored = put["deleted_at_before"] is not None
            await session.execute(named["add_sensors"], key, list(item.sensor_ids))
            if item.operating_hours is not None:
                counter = item.operating_hours
                await session.execute(
                    named["put_operating_counter"], key, counter.as_of, counter.value_h
                )
            if put["grid_us_before"] not in (None, item.grid_us):
                await session.execute(named["rebuild_grid"], key)
            if restored:
                await session.execute(
                    named["record_equipment_change"], item.equipment_id, "restored", actor, "{}"
                )
        return Put(created=put["grid_us_before"] is None, restored=restored)

    async def get_equipment(
        self, equipment_id: str, *, deleted: bool = False
    ) -> EquipmentRecord | None:
        """Return a registered equipment, or with `deleted` also a deleted one; else None."""
        return (await self.get_equipment_of([equipment_id], deleted=deleted)).get(equipment_id)

    async def get_equipment_of(
        self, equipment_ids: Sequence[str], *, deleted: bool = False
    ) -> dict[str, EquipmentRecord]:
        """Return those of these equipment that are registered, by id, in one statement.

        Args:
            equipment_ids: of the equipment.
            deleted: whether to return deleted ones too.
        """
        rows = await self._database.fetch("get_equipment", list(equipment_ids), deleted)
        return {row["equipment_id"]: _record(row) for row in rows}

    async def delete_equipment(self, equipment_id: str, actor: str) -> datetime | None:
        """Delete a registered equipment and return when; None when it is not registered.

        Its readings, diagnoses and labels stay, and `put_equipment` restores it with them.

        Args:
            equipment_id: of the equipment.
            actor: recorded.
        """
        deleted_at: datetime | None = first_value(
            await self._database.once("delete_equipment", equipment_id, actor)
        )
        return deleted_at

    async def purge_equipment(
        self, equipment_id: str, actor: str, within_s: float
    ) -> Purged | None:
        """Delete an equipment and all rows of it for good, in many short statements.

        Repeat the call while the purge is not complete. Diagnoses of equipment that is not
        registered are removed too.

        Args:
            equipment_id: of the equipment.
            actor: recorded, with the number of rows.
            within_s: begin no statement after so many seconds.

        Returns:
            What was removed, or None when there is nothing of it.
        """
        give_up = time.monotonic() + within_s
        fetch = self._database.fetch

        async def drain(remove: Callable[[], Awaitable[list[Row]]]) -> int:
            total = 0
            while time.monotonic() < give_up and (count := first_value(await remove())):
                total += count
            return total

        await self._database.once("delete_equipment", equipment_id, actor)
        key = first_value(await fetch("equipment_key", equipment_id))
        diagnoses = await drain(lambda: fetch("purge_diagnoses", equipment_id, PURGE_DIAGNOSES))
        readings = bins = labels = 0
        if key is not None:
            readings = await drain(lambda: fetch("purge_readings", key, PURGE_ROWS))
            bins = await drain(lambda: fetch("purge_grid", key, PURGE_ROWS))
            labels = await drain(lambda: fetch("purge_labels", key, PURGE_ROWS))
        purged = Purged(time.monotonic() < give_up, readings, bins, diagnoses, labels)
        if key is None and not diagnoses:
            return None
        named = queries()
        async with self._database.patient_session() as session:
            # in one piece, which may take longer than a statement has for years of hours
            await session.execute(named["remove_healths"], equipment_id)
        async with self._database.session() as session, session.transaction():
            if purged.complete and key is not None:
                # a replica that has not noticed the deletion may have written meanwhile
                await session.execute(named["lock_readings"], key)
                await session.execute(named["purge_readings"], key, PURGE_ROWS)
                await session.execute(named["purge_grid"], key, PURGE_ROWS)
                await session.execute(named["purge_labels"], key, PURGE_ROWS)
                await session.execute(named["purge_topologies"], key)
                await session.execute(named["purge_maintenance"], key)
                await session.execute(named["purge_operating_counters"], key)
                await session.execute(named["purge_baselines"], key)
                await session.execute(named["purge_sensors"], key)
                await session.execute(named["purge_equipment"], key)
            details = json.dumps(purged._asdict())
            await session.execute(
                named["record_equipment_change"], equipment_id, "purged", actor, details
            )
        return purged

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

    async def equipment_page(
        self,
        limit: int,
        after: str | None = None,
        *,
        design: str | None = None,
        site: str | None = None,
    ) -> list[EquipmentSummary]:
        """Return registered equipment in the order of ids, without topologies.

        Args:
            limit: most equipment to return.
            after: the id before the first; None for the start.
            design: of the equipment; None for all.
            site: likewise.
        """
        rows = await self._database.fetch("equipment_page", design, site, after, limit)
        return [_summary(**row) for row in rows]

    async def find_equipment(
        self, pattern: str | None = None, design: str | None = None
    ) -> list[str]:
        """Return the ids of registered equipment in order.

        Args:
            pattern: of the ids, `*` for any part; None for all.
            design: of the equipment; None for all.
        """
        if pattern is not None:
            pattern = pattern.translate(_ID_CHARACTERS)
        rows = await self._database.fetch("find_equipment", pattern, design)
        return [row["equipment_id"] for row in rows]


def _summary(metadata: str, **columns: Any) -> EquipmentSummary:
    known = dict(Metadata.model_validate_json(metadata))
    return EquipmentSummary.model_validate(columns | known)


def _record(row: Row) -> EquipmentRecord:
    equipment = Equipment.model_validate_json(row["topology"])
    if row["metadata"] != "{}":
        metadata = Metadata.model_validate_json(row["metadata"])
        equipment = equipment.model_copy(update=dict(metadata))
    vars(equipment)["revision"] = row["revision"]  # fills the cached property
    return EquipmentRecord(
        equipment=equipment,
        revision=row["revision"],
        registered_at=row["registered_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
        baseline_id=row["baseline_id"],
    )
