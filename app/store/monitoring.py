"""Figures of the database server and of the fleet, for monitoring."""

from collections.abc import Mapping
from typing import NamedTuple

from app.store.partitions import Repository


class DatabaseFigures(NamedTuple):
    """Figures of the server and of this database; counters since the statistics were reset.

    Args:
        size_bytes: of the database.
        connections: to the database by state.
        max_connections: of the server.
        oldest_transaction_s: age of the oldest open transaction.
        committed: transactions.
        rolled_back: transactions.
        blocks_hit: read from the server's memory.
        blocks_read: read from the system.
        deadlocks: found.
        next_key_expiry_s: of the keys in force, seconds since 1970; None if none expires.
    """

    size_bytes: float
    connections: Mapping[str, int]
    max_connections: int
    oldest_transaction_s: float
    committed: int
    rolled_back: int
    blocks_hit: int
    blocks_read: int
    deadlocks: int
    next_key_expiry_s: float | None


class FleetAges(NamedTuple):
    """Registered machines by the age of their newest reading.

    Args:
        fresh: less than five minutes.
        late: less than a day.
        silent: older.
        never: without a reading.
    """

    fresh: int
    late: int
    silent: int
    never: int


class MonitoringRepository(Repository):
    """What monitoring reads."""

    async def database_figures(self) -> DatabaseFigures:
        """Return the figures of the database server."""
        (row,) = await self._database.once("database_figures")
        states = await self._database.once("connection_states")
        return DatabaseFigures(
            connections={each["state"]: each["connections"] for each in states}, **dict(row)
        )

    async def fleet_ages(self) -> FleetAges:
        """Return the registered machines by the age of their newest reading.

        It looks up one index entry a machine: about 20 us.
        """
        (row,) = await self._database.once("fleet_ages")
        return FleetAges(**dict(row))
