"""What replicas counted of rate limits, and how much is stored, for quotas."""

from collections.abc import Mapping
from typing import NamedTuple

from app.store.partitions import Repository
from app.store.statements import first_value


class OwnCount(NamedTuple):
    """What a replica counted in a window, and for how many seconds more it counts."""

    cost: int
    expires_s: float


class LimitRepository(Repository):
    """Counts of rate limits, and of what quotas bound."""

    async def exchange_rate_counts(
        self, replica: str, own: Mapping[str, OwnCount]
    ) -> dict[str, int]:
        """Write the counts of a replica by window, and return the sums of all others.

        Args:
            replica: name of the replica.
            own: its counts since the window began, as far as they have changed.
        """
        rows = await self._database.once(
            "exchange_rate_counts",
            replica,
            list(own),
            [each.cost for each in own.values()],
            [each.expires_s for each in own.values()],
        )
        return {row["window_key"]: row["cost"] for row in rows}

    async def drop_rate_counts(self) -> None:
        """Delete the counts of windows that have ended."""
        await self._database.once("drop_rate_counts")

    async def count_equipment(self) -> int:
        """Return how many machines are registered."""
        return int(first_value(await self._database.fetch("count_equipment")))

    async def count_keys(self) -> int:
        """Return how many keys are in force."""
        return int(first_value(await self._database.fetch("count_keys")))

    async def estimate_readings(self) -> int:
        """Return about how many readings are stored."""
        return int(first_value(await self._database.fetch("estimate_readings")))
