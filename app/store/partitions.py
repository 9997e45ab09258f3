"""Monthly partitions of the tables that grow with time, and the base class of the repositories.

Partitions are made when the first row of a month is written.
Invariant: `Partitions.write` never fails for a missing partition, even one dropped by retention.
"""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.store.pool import Database
from app.store.postgres_errors import PartitionMissing

Answer = TypeVar("Answer")
Months = frozenset[int]
"""Months since 1970-01, UTC."""

MONTHS_AT_ONCE = 12
"""Months of one statement, so that a history of many years stays below the statement timeout. A
write that is interrupted keeps the partitions made so far."""
_DAY_US = 86_400_000_000


class Partitions:
    """The partitions that this process knows to exist.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made: set[int] = set()

    async def write(self, months: Months, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Make the partitions of these months, then do the work that writes into them.

        Raises:
            StoreUnavailable: the database can't be reached.
            StoreError: the database refused a statement.
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
        for start in range(0, len(missing), MONTHS_AT_ONCE):
            some = missing[start : start + MONTHS_AT_ONCE]
            firsts = [datetime(1970 + month // 12, 1 + month % 12, 1, tzinfo=UTC) for month in some]
            await self._database.fetch("prepare_months", firsts)
            self._made.update(some)


class Repository:
    """Base of the repositories: the statements about one kind of record.

    Every method of a repository raises StoreUnavailable when the database can't be reached, and
    StoreError when it refuses a statement.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._partitions = Partitions(database)


def months_of(times_us: NDArray[np.int64]) -> Months:
    """Return the months of readings and of the bins that may hold them.

    Args:
        times_us: [R] microseconds since 1970-01-01T00:00Z; a bin is at most a day wide.
    """
    both = np.concatenate([times_us, times_us - _DAY_US])
    months = both.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    return frozenset(np.unique(months).tolist())


def months_of_days(days: Iterable[datetime]) -> Months:
    """Return the months of timezone-aware times."""
    return frozenset(
        (day.year - 1970) * 12 + day.month - 1 for day in (day.astimezone(UTC) for day in days)
    )
