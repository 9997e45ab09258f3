"""Stored diagnoses and answers of shadow versions: the whole answer as JSON, and columns to search.

Invariant: a stored answer never changes; storing it again has no effect.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from app.schemas.diagnosis import Diagnosis
from app.store.partitions import Repository, months_of_days
from app.store.statements import columns_of, first_value


class StoredDiagnosis(NamedTuple):
    """A diagnosis as a row: the parameters of `insert_diagnoses` in order; `body` is JSON.

    `tenant` may see it; None for that of the registered equipment.
    """

    diagnosis_id: str
    created_at: datetime
    equipment_id: str
    start: datetime
    end: datetime
    model_version: str
    status: str
    health: float | None
    body: str
    tenant: str | None = None


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
        self,
        equipment_id: str,
        start: datetime | None,
        end: datetime | None,
        limit: int,
        after: tuple[datetime, str] | None = None,
    ) -> list[bytes]:
        """Return diagnoses of an equipment as JSON, by window end and id, both falling.

        Args:
            equipment_id: need not be registered.
            start: windows that end at or after this time; None for all.
            end: windows that end before this time; None for all.
            limit: most diagnoses to return.
            after: window end and id of the diagnosis before the first; None for the start.
        """
        rows = await self._database.fetch(
            "diagnosis_history", equipment_id, start, end, limit, *(after or (None, None))
        )
        return [row["body"].encode() for row in rows]


class ShadowAnswer(NamedTuple):
    """The answer of a shadow version to a copy of a request.

    Args:
        diagnosis: of the shadow, with the id and time of the returned diagnosis.
        against: the version that was returned.
        latency_s: time to build and score in the shadow.
        against_latency_s: the same in the returned version.
        tenant: that may see it; None for that of the registered equipment.
    """

    diagnosis: Diagnosis
    against: str
    latency_s: float
    against_latency_s: float
    tenant: str | None = None

    @property
    def id(self) -> tuple[str, str]:
        """Unique key: the returned diagnosis and the shadow version."""
        return self.diagnosis.diagnosis_id, self.diagnosis.model_version


class ShadowAnswerRepository(Repository):
    """Answers of shadow versions."""

    async def insert_shadow_answers(self, items: Sequence[ShadowAnswer]) -> None:
        """Store answers in one statement; may be repeated."""
        if not items:
            return
        rows = [
            (
                item.diagnosis.diagnosis_id,
                item.diagnosis.created_at,
                item.diagnosis.equipment_id,
                item.diagnosis.window.start,
                item.diagnosis.window.end,
                item.diagnosis.model_version,
                item.against,
                item.latency_s,
                item.against_latency_s,
                item.diagnosis.to_json().decode(),
                item.tenant,
            )
            for item in items
        ]
        await self._partitions.write(
            months_of_days(item.diagnosis.created_at for item in items),
            lambda: self._database.fetch("insert_shadow_answers", *columns_of(rows)),
        )
