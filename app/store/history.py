"""Reads what the trends of machines are fitted on: a bounded sample of their stored diagnoses.

Invariant: the cost of one machine does not grow with the number of its diagnoses or readings.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.schemas.maintenance import KEEPS_WEAR
from app.store.partitions import Repository

PARTS = 56
"""Parts of the year, and of its last twelfth, from each of which one diagnosis is taken."""
MAX_HOURS = 300
"""Most hours that are probed for readings."""


class HealthSample(NamedTuple):
    """The healths by labels of one stored diagnosis of stored readings.

    Args:
        time_us: end of the window, microseconds since 1970.
        version: that answered.
        health: by component id.
    """

    time_us: int
    version: str
    health: Mapping[str, float]


class HealthHistory(NamedTuple):
    """What the trends of one machine are fitted on.

    Args:
        samples: by time.
        counters: what its counter of operating hours showed: microseconds since 1970 and hours, by
            time.
        maintenance: microseconds since 1970 and component id, empty for the whole machine.
        first_us: time of the first sample.
        last_us: time of the last.
        has_readings: whether hours from `first_us` on have readings, evenly spaced up to
            `last_us`; empty where the counter was read twice.
    """

    samples: Sequence[HealthSample] = ()
    counters: Sequence[tuple[int, float]] = ()
    maintenance: Sequence[tuple[int, str]] = ()
    first_us: int = 0
    last_us: int = 0
    has_readings: Sequence[bool] = ()


NO_HISTORY = HealthHistory()


class HealthHistoryRepository(Repository):
    """Histories of the healths of registered machines."""

    async def health_histories(self, equipment_ids: Sequence[str]) -> dict[str, HealthHistory]:
        """Return the histories of machines in one statement; `NO_HISTORY` without diagnoses."""
        rows = await self._database.fetch(
            "health_histories", list(equipment_ids), PARTS, MAX_HOURS, KEEPS_WEAR
        )
        found = dict.fromkeys(equipment_ids, NO_HISTORY)
        for row in rows:
            samples = {
                time_us: HealthSample(time_us, version, health or {})
                for time_us, version, health in json.loads(row["samples"] or "[]")
            }
            found[row["equipment_id"]] = HealthHistory(
                [samples[time_us] for time_us in sorted(samples)],
                sorted(map(tuple, json.loads(row["counters"] or "[]"))),
                sorted(map(tuple, json.loads(row["maintenance"] or "[]"))),
                row["first_us"],
                row["last_us"],
                row["has_readings"] or (),
            )
        return found
