"""Hourly health of components: of one machine, and of a tenant's whole fleet.

On TimescaleDB continuous aggregates hold it, on plain PostgreSQL tables that a trigger keeps; both
have the same names. It counts diagnoses of stored readings, in the hour in which their window ends.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from app.core.errors import StoreUnavailable
from app.store.partitions import Repository
from app.store.statements import first_value, queries

Resolution = Literal["hour", "day"]

REFRESH_LIMIT_S = 120.0
REFRESH_PAUSE_S = 0.5


class ComponentHours(NamedTuple):
    """Health of a component in hours or days; arrays of one length, by time.

    Args:
        component_id: of the component.
        times: beginnings of the hours or days (UTC) that have diagnoses.
        diagnoses: that count.
        health: mean of them.
        lowest: health; empty for a fleet.
        highest: health; empty for a fleet.
        watch: diagnoses in this state.
        degraded: likewise.
        critical: likewise.
    """

    component_id: str
    times: Sequence[datetime]
    diagnoses: Sequence[int]
    health: Sequence[float]
    watch: Sequence[int]
    degraded: Sequence[int]
    critical: Sequence[int]
    lowest: Sequence[float] = ()
    highest: Sequence[float] = ()


class HealthRepository(Repository):
    """Hourly health."""

    async def health_of(
        self, equipment_id: str, start: datetime, end: datetime, resolution: Resolution = "hour"
    ) -> list[ComponentHours]:
        """Return the health of each component of a machine that has any, by id in byte order.

        Args:
            equipment_id: need not be registered.
            start: of the interval [start, end) in which hours begin.
            end: of the interval.
            resolution: whether hours are put together to days.
        """
        rows = await self._database.fetch(
            "health_of_equipment", equipment_id, start, end, resolution
        )
        return [ComponentHours(**row) for row in rows]

    async def health_of_fleet(
        self, start: datetime, end: datetime, resolution: Resolution = "hour"
    ) -> list[ComponentHours]:
        """Return the health of components over all machines of the caller, by id in byte order.

        Args:
            start: of the interval [start, end) in which hours begin.
            end: of the interval.
            resolution: whether hours are put together to days.
        """
        rows = await self._database.fetch("health_of_fleet", start, end, resolution)
        return [ComponentHours(**row) for row in rows]

    async def reading_counts(
        self, equipment_id: str, start: datetime, end: datetime
    ) -> list[tuple[datetime, int]]:
        """Return the minutes of [start, end) with readings of a machine, and how many these are."""
        rows = await self._database.fetch("reading_counts", equipment_id, start, end)
        return [(row["minute"], row["readings"]) for row in rows]

    async def add_up_pending(self) -> bool:
        """Add up the healths of a machine from before there were hourly ones.

        It is one transaction without a time limit; other replicas take other machines meanwhile.

        Returns:
            Whether there was one.
        """
        async with self._database.patient_session() as session:
            return bool(await session.fetchval(queries()["add_up_pending"]))

    async def refresh_aggregates(self) -> None:
        """Bring continuous aggregates up to date now; their policies do so within half an hour.

        Raises:
            StoreUnavailable: the policies have been at it for `REFRESH_LIMIT_S`.
        """
        give_up = time.monotonic() + REFRESH_LIMIT_S
        while True:
            try:
                async with self._database.patient_session(as_owner=True) as session:
                    await session.execute(queries()["refresh_aggregates"])
            except StoreUnavailable:
                # two refreshes of one aggregate do not wait for each other
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(REFRESH_PAUSE_S)
            else:
                return

    async def set_retention(self, keep: timedelta | None) -> bool:
        """Have the database drop older data itself, where it can; return whether it does."""
        return bool(first_value(await self._database.fetch("set_retention", keep)))
