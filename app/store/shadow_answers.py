"""Answers of shadow versions, each beside the diagnosis that was returned.

Invariant: an answer never changes; storing it again has no effect.
"""

from collections.abc import Sequence
from typing import NamedTuple

from app.schemas.diagnosis import Diagnosis
from app.store.partitions import Repository, months_of_days
from app.store.pool import columns_of


class ShadowAnswer(NamedTuple):
    """The answer of a shadow version to a copy of a request.

    Args:
        diagnosis: of the shadow, with the id and time of the returned diagnosis.
        against: the version that was returned.
        latency_s: time to build and score in the shadow.
        against_latency_s: the same in the returned version.
    """

    diagnosis: Diagnosis
    against: str
    latency_s: float
    against_latency_s: float

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
            )
            for item in items
        ]
        await self._partitions.write(
            months_of_days(item.diagnosis.created_at for item in items),
            lambda: self._database.fetch("insert_shadow_answers", *columns_of(rows)),
        )
