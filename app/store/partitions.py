"""The monthly partitions of what grows with time, made when the first row of a month comes.

Invariant: writing through `write` never fails for want of a partition, also when retention dropped it meanwhile.
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.store.pool import Database, PartitionMissing

Answer = TypeVar("Answer")
Months = frozenset[int]
"""Months since 1970-01, UTC."""

_DAY_US = 86_400_000_000


class Partitions:
    """What this process knows of the partitions.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made: set[int] = set()

    async def write(self, months: Months, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do work that writes rows of these months.

        Raises:
            StoreUnavailable: the database can't be reached.
            StoreError: it refused.
        """
        await self._make(months)
        try:
            return await work()
        except PartitionMissing:
            self._made.clear()
            await self._make(months)
            return await work()

    async def _make(self, months: Months) -> None:
        missing = sorted(months - self._made)
        if missing:
            firsts = [
                datetime(1970 + month // 12, 1 + month % 12, 1, tzinfo=UTC) for month in missing
            ]
            await self._database.fetch("prepare_months", firsts)
            self._made.update(missing)


def months_of(times_us: NDArray[np.int64]) -> Months:
    """Return the months of readings and of the bins that they may fall in.

    Args:
        times_us: [R] microseconds since 1970-01-01T00:00Z; a bin is at most a day wide.
    """
    both = np.concatenate([times_us, times_us - _DAY_US])
    return frozenset(
        np.unique(both.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)).tolist()
    )


def months_of_days(days: Iterable[datetime]) -> Months:
    """Return the months of some times, which are aware."""
    return frozenset(
        (day.year - 1970) * 12 + day.month - 1 for day in (day.astimezone(UTC) for day in days)
    )
