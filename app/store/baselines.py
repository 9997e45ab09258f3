"""Baselines of machines: each is kept for good, and at most one of a machine is in force.

Invariant: the moments of a baseline id never change.
"""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from app.store.partitions import Repository
from app.store.statements import first_value, queries


class NewBaseline(NamedTuple):
    """A baseline to store.

    Args:
        baseline_id: hash of the machine, the interval and the moments.
        start: of the interval [start, end).
        end: of the interval.
        windows: complete windows that were measured.
        missing_sensors: sensors that it lacks.
        stuck_sensors: sensors that look stuck.
        moments: `app.features.baseline.Baseline` as JSON.
    """

    baseline_id: str
    start: datetime
    end: datetime
    windows: int
    missing_sensors: tuple[str, ...]
    stuck_sensors: tuple[str, ...]
    moments: str


class StoredBaseline(NamedTuple):
    """A stored baseline, see `NewBaseline`; `deleted_at` is None while it is in force."""

    baseline_id: str
    equipment_id: str
    start: datetime
    end: datetime
    windows: int
    missing_sensors: tuple[str, ...]
    stuck_sensors: tuple[str, ...]
    moments: str
    recorded_at: datetime
    recorded_by: str
    deleted_at: datetime | None


class BaselineRepository(Repository):
    """Baselines of machines."""

    async def put_baseline(
        self, equipment_id: str, revision: str, new: NewBaseline, actor: str
    ) -> bool:
        """Put a baseline in force in place of another one.

        Args:
            equipment_id: of the machine.
            revision: of the topology that it was measured with.
            new: the baseline; one that is in force already is kept as it is.
            actor: recorded.

        Returns:
            Whether the machine is registered with this revision; else nothing has changed.
        """
        named = queries()
        async with self._database.session() as session, session.transaction():
            await session.execute(named["lock_equipment"], equipment_id)
            known = await session.fetchrow(named["baseline_in_force"], equipment_id)
            if known is None or known["revision"] != revision:
                return False
            if known["baseline_id"] != new.baseline_id:
                columns = [list(each) if isinstance(each, tuple) else each for each in new]
                await session.execute(named["delete_baseline"], equipment_id, actor)
                await session.execute(named["insert_baseline"], equipment_id, *columns, actor)
        return True

    async def delete_baseline(self, equipment_id: str, actor: str) -> str | None:
        """End the baseline in force and return its id; None without one.

        Args:
            equipment_id: of the machine.
            actor: recorded.
        """
        found: str | None = first_value(
            await self._database.once("delete_baseline", equipment_id, actor)
        )
        return found

    async def baselines(self, baseline_ids: Collection[str]) -> dict[str, StoredBaseline]:
        """Return the baselines that are stored, by id, also deleted ones, in one statement."""
        rows = await self._database.fetch("baselines", list(baseline_ids))
        return {
            row["baseline_id"]: StoredBaseline(
                baseline_id=row["baseline_id"],
                equipment_id=row["equipment_id"],
                start=row["start_time"],
                end=row["end_time"],
                windows=row["windows"],
                missing_sensors=tuple(row["missing_sensors"]),
                stuck_sensors=tuple(row["stuck_sensors"]),
                moments=row["moments"],
                recorded_at=row["recorded_at"],
                recorded_by=row["recorded_by"],
                deleted_at=row["deleted_at"],
            )
            for row in rows
        }
