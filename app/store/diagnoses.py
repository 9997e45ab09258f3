"""Diagnoses as they were answered: the whole body, and the columns worth searching by.

Invariant: a stored diagnosis never changes; storing it again is without effect.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from app.store.partitions import Partitions, months_of_days
from app.store.pool import Database, first_value


class StoredDiagnosis(NamedTuple):
    """A diagnosis as a row: the columns of `insert_diagnoses` in their order, the last one the answer itself as JSON."""

    diagnosis_id: str
    created_at: datetime
    equipment_id: str
    start: datetime
    end: datetime
    model_version: str
    status: str
    health: float | None
    body: str


async def insert_diagnoses(
    database: Database, partitions: Partitions, diagnoses: Sequence[StoredDiagnosis]
) -> None:
    """Store diagnoses in one statement; may be repeated.

    Raises:
        StoreUnavailable: the database can't be reached.
        StoreError: it refused.
    """
    if not diagnoses:
        return
    columns = [list(column) for column in zip(*diagnoses, strict=True)]
    await partitions.write(
        months_of_days(item.created_at for item in diagnoses),
        lambda: database.fetch("insert_diagnoses", *columns),
    )


async def get_diagnosis(database: Database, diagnosis_id: str) -> bytes | None:
    """Return a diagnosis as JSON; None when there is none of this id.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    body: str | None = first_value(await database.fetch("get_diagnosis", diagnosis_id))
    return None if body is None else body.encode()


async def diagnosis_history(
    database: Database, equipment_id: str, start: datetime | None, end: datetime | None, limit: int
) -> list[bytes]:
    """Return an equipment's diagnoses whose window ends in [start, end), as JSON, newest first.

    Args:
        database: migrated.
        equipment_id: need not be registered.
        start: None for the beginning.
        end: None for no end.
        limit: most to return.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    rows = await database.fetch("diagnosis_history", equipment_id, start, end, limit)
    return [row["body"].encode() for row in rows]
