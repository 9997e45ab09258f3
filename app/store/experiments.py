"""Pairs of answers about one window: the diagnosis that was returned and what a shadow version told, with what labels say of it.

Labels that hold the whole window count, while the machine was at rest; a label that only says that a component ran to its failure says
neither a grade nor a health and is left out.
Invariant: what is in memory at once is bounded by the page, whatever the tables hold.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from app.store.pool import Database, Row

PAGE = 200
"""Pairs of one statement: so few that reading them does not hold up the answers of the process that reads."""
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Before every answer."""
_MICROSECOND = timedelta(microseconds=1)


class PredictedComponent(NamedTuple):
    """What an answer told of a component; None where it told nothing."""

    component_id: str
    health: float | None
    condition: str | None
    state: str


class KnownTruth(NamedTuple):
    """What a label says of a component: its grade, or its health."""

    component_id: str
    grade: str | None
    health: float | None


class PairRow(NamedTuple):
    """A window that two versions answered; what comes in twos is of the version compared with, then of the other.

    Args:
        diagnosis_id: of the answer that was returned.
        created_us: when that was, microseconds since 1970 (UTC).
        equipment_id: whose window it is.
        start_us: start of the window, microseconds since 1970 (UTC).
        end_us: its end.
        told: what each told.
        abstained: whether the answer as a whole was `insufficient_evidence`.
        latency_s: of building and scoring.
        truths: what is known of the components.
    """

    diagnosis_id: str
    created_us: int
    equipment_id: str
    start_us: int
    end_us: int
    told: tuple[tuple[PredictedComponent, ...], tuple[PredictedComponent, ...]]
    abstained: tuple[bool, bool]
    latency_s: tuple[float, float]
    truths: tuple[KnownTruth, ...]


class AnswerPairs:
    """The pairs of one database. Every method raises StoreUnavailable when it can't be reached.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def versions(self, start: datetime, end: datetime) -> list[tuple[str, str]]:
        """Return which versions have answers in common in [start, end): shadow version and returned version."""
        rows = await self._database.fetch("compared_versions", start, end)
        return [(row["version"], row["against"]) for row in rows]

    async def pages(
        self, a: str, b: str, start: datetime, end: datetime, most: int
    ) -> AsyncIterator[list[PairRow]]:
        """Read the pairs of two versions whose returned answer was made in [start, end), newest first, page by page.

        Args:
            a: the version compared with.
            b: the other.
            start: of the interval.
            end: of the interval.
            most: pairs altogether.
        """
        last, last_id = end, ""
        while most > 0:
            asked = min(PAGE, most)
            rows = await self._database.fetch("answer_pairs", a, b, start, last, last_id, asked)
            # a copy whose returned answer is not stored comes without it, so that the page still ends where it ends
            whole = [_pair_of(row) for row in rows if row["returned_status"] is not None]
            if whole:
                yield whole
            if len(rows) < asked:
                return
            last, last_id = rows[-1]["created_at"], rows[-1]["diagnosis_id"]
            most -= asked


def _pair_of(row: Row) -> PairRow:
    shadow, returned = _told(row, "shadow"), _told(row, "returned")
    abstained = (row["shadow_status"] != "ok", row["returned_status"] != "ok")
    latency_s = (row["latency_s"], row["against_latency_s"])
    by_shadow = row["a_is_shadow"]
    return PairRow(
        diagnosis_id=row["diagnosis_id"],
        created_us=_us(row["created_at"]),
        equipment_id=row["equipment_id"],
        start_us=_us(row["window_start"]),
        end_us=_us(row["window_end"]),
        told=(shadow, returned) if by_shadow else (returned, shadow),
        abstained=abstained if by_shadow else abstained[::-1],
        latency_s=latency_s if by_shadow else latency_s[::-1],
        truths=_known(row),
    )


def _told(row: Row, whose: str) -> tuple[PredictedComponent, ...]:
    columns = [
        row[f"{whose}_{name}"] or ()
        for name in ("component_ids", "healths", "conditions", "states")
    ]
    return tuple(PredictedComponent(*item) for item in zip(*columns, strict=True))


def _known(row: Row) -> tuple[KnownTruth, ...]:
    columns = [row[f"truth_{name}"] or () for name in ("component_ids", "grades", "healths")]
    return tuple(KnownTruth(*item) for item in zip(*columns, strict=True))


def _us(at: datetime) -> int:
    return (at - BEGINNING) // _MICROSECOND
