"""Pairs of answers to one window: the returned diagnosis and that of a shadow version, with labels.

A label counts when it covers the whole window of a machine at rest and gives a grade or a health;
run-to-failure labels give neither.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from app.store.partitions import Repository
from app.store.statements import Row

PAGE = 200
"""Pairs per statement: reading them does not delay other requests of the process."""
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Before every answer."""
_MICROSECOND = timedelta(microseconds=1)


class PredictedComponent(NamedTuple):
    """The answer about one component; None where there is none."""

    component_id: str
    health: float | None
    condition: str | None
    state: str


class KnownTruth(NamedTuple):
    """The label of a component: its grade or its health."""

    component_id: str
    grade: str | None
    health: float | None


class PairRow(NamedTuple):
    """A window that two versions answered; pairs of values are of the first version, the second.

    Args:
        diagnosis_id: of the returned answer.
        created_us: time of the returned answer, microseconds since 1970 (UTC).
        equipment_id: of the machine.
        start_us: start of the window, microseconds since 1970 (UTC).
        end_us: end of the window.
        predictions: of each version, by component.
        abstained: whether the status of each answer is `insufficient_evidence`.
        latency_s: time to build and score.
        truths: labels of the components.
    """

    diagnosis_id: str
    created_us: int
    equipment_id: str
    start_us: int
    end_us: int
    predictions: tuple[tuple[PredictedComponent, ...], tuple[PredictedComponent, ...]]
    abstained: tuple[bool, bool]
    latency_s: tuple[float, float]
    truths: tuple[KnownTruth, ...]


class AnswerPairs(Repository):
    """Pairs of answers of two versions."""

    async def versions(self, start: datetime, end: datetime) -> list[tuple[str, str]]:
        """Return the (shadow version, returned version) that share answers in [start, end)."""
        rows = await self._database.fetch("compared_versions", start, end)
        return [(row["version"], row["against"]) for row in rows]

    async def pages(
        self, a: str, b: str, start: datetime, end: datetime, most: int
    ) -> AsyncIterator[list[PairRow]]:
        """Read the pairs of two versions, newest first, page by page.

        Args:
            a: the first version.
            b: the second version.
            start: returned answers made at or after this time.
            end: returned answers made before this time.
            most: largest number of pairs.
        """
        last, last_id = end, ""
        while most > 0:
            limit = min(PAGE, most)
            rows = await self._database.fetch("answer_pairs", a, b, start, last, last_id, limit)
            # the page counts shadow answers; those whose returned answer is not stored are dropped
            pairs = [_pair_of(row) for row in rows if row["returned_status"] is not None]
            if pairs:
                yield pairs
            if len(rows) < limit:
                return
            last, last_id = rows[-1]["created_at"], rows[-1]["diagnosis_id"]
            most -= limit


def _pair_of(row: Row) -> PairRow:
    shadow, returned = _predictions(row, "shadow"), _predictions(row, "returned")
    abstained = (row["shadow_status"] != "ok", row["returned_status"] != "ok")
    latency_s = (row["latency_s"], row["against_latency_s"])
    shadow_first = row["a_is_shadow"]
    return PairRow(
        diagnosis_id=row["diagnosis_id"],
        created_us=_us(row["created_at"]),
        equipment_id=row["equipment_id"],
        start_us=_us(row["window_start"]),
        end_us=_us(row["window_end"]),
        predictions=(shadow, returned) if shadow_first else (returned, shadow),
        abstained=abstained if shadow_first else abstained[::-1],
        latency_s=latency_s if shadow_first else latency_s[::-1],
        truths=tuple(
            KnownTruth(*item)
            for item in _arrays(row, "truth", "component_ids", "grades", "healths")
        ),
    )


def _predictions(row: Row, whose: str) -> tuple[PredictedComponent, ...]:
    items = _arrays(row, whose, "component_ids", "healths", "conditions", "states")
    return tuple(PredictedComponent(*item) for item in items)


def _arrays(row: Row, prefix: str, *names: str) -> "zip[tuple[Any, ...]]":
    """Iterate over parallel array columns of a row; a null array is empty."""
    return zip(*(row[f"{prefix}_{name}"] or () for name in names), strict=True)


def _us(at: datetime) -> int:
    return (at - BEGINNING) // _MICROSECOND
