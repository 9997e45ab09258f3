"""Stored diagnoses: the whole answer as JSON, and the columns to search by.

Invariant: a stored diagnosis never changes; storing it again has no effect.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from app.store.partitions import Repository, months_of_days
from app.store.pool import columns_of, first_value


class StoredDiagnosis(NamedTuple):
    """A diagnosis as a row: the parameters of `insert_diagnoses` in order; `body` is JSON."""

    diagnosis_id: str
    created_at: datetime
    equipment_id: str
    start: datetime
    end: datetime
    model_version: str
    status: str
    health: float | None
    body: str


class DiagnosisRepository(Repository):
    """Diagnoses by id and by equipment."""

    async def insert_diagnoses(self, items: Sequence[StoredDiagnosis]) -> None:
        """Store diagnoses in one statement; may be repeated."""
        if items:
            await self._partitions.write(
                months_of_days(item.created_at for item in items),
                lambda: self._database.fetch("insert_diagnoses", *columns_of(items)),
            )

    async def get_diagnosis(self, diagnosis_id: str) -> bytes | None:
        """Return a diagnosis as JSON, or None."""
        body: str | None = first_value(await self._database.fetch("get_diagnosis", diagnosis_id))
        return None if body is None else body.encode()

    async def diagnosis_history(
        self, equipment_id: str, start: datetime | None, end: datetime | None, limit: int
    ) -> list[bytes]:
        """Return diagnoses of an equipment as JSON, newest first.

        Args:
            equipment_id: need not be registered.
            start: windows that end at or after this time; None for all.
            end: windows that end before this time; None for all.
            limit: most diagnoses to return.
        """
        rows = await self._database.fetch("diagnosis_history", equipment_id, start, end, limit)
        return [row["body"].encode() for row in rows]
