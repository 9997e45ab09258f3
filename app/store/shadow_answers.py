"""What shadow versions told, each beside the diagnosis that was returned.

Invariant: an answer never changes; storing it again is without effect.
"""

from collections.abc import Sequence
from typing import NamedTuple

from app.schemas.diagnosis import Diagnosis
from app.store.partitions import Partitions, months_of_days
from app.store.pool import Database


class ShadowAnswer(NamedTuple):
    """What a shadow told on a copy.

    Args:
        diagnosis: as the shadow would have told it, with the id and time of the one that was returned.
        against: the version that was returned.
        latency_s: how long building and scoring took in the shadow.
        against_latency_s: the same of the version that was returned.
    """

    diagnosis: Diagnosis
    against: str
    latency_s: float
    against_latency_s: float

    @property
    def id(self) -> tuple[str, str]:
        """What no other answer has: the returned diagnosis and the shadow."""
        return self.diagnosis.diagnosis_id, self.diagnosis.model_version


async def insert_shadow_answers(
    database: Database, partitions: Partitions, answers: Sequence[ShadowAnswer]
) -> None:
    """Store answers of shadows in one statement; may be repeated.

    Raises:
        StoreUnavailable: the database can't be reached.
        StoreError: it refused.
    """
    if not answers:
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
            item.diagnosis.model_dump_json(),
        )
        for item in answers
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    months = months_of_days(item.diagnosis.created_at for item in answers)
    await partitions.write(months, lambda: database.fetch("insert_shadow_answers", *columns))
