"""Condition labels: what is known of a component in an interval: its grade, its health, or that it ran until it failed.

Invariant: a component has at most one label that starts at a time, and a label says one thing; writing it again replaces it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from app.core.errors import UnknownEquipment
from app.store.pool import Database

ALL_TIME_US = (-(10**15), 10**16)


class ConditionLabel(NamedTuple):
    """What is known of a component in [start_us, end_us), microseconds since 1970-01-01T00:00Z; one of the three that follow.

    `grade` is the name of its condition; `health` in [0, 1]; `run_to_failure` says that it ran from the start until it failed at the
    end, which may lie after the last reading. `stable` is False while the machine was settling; `cycle` is the number of the cycle in
    its source, None without.
    """

    component_id: str
    start_us: int
    end_us: int
    grade: str | None = None
    stable: bool = True
    cycle: int | None = None
    health: float | None = None
    run_to_failure: bool = False


async def put_labels(
    database: Database, equipment_id: str, labels: Sequence[ConditionLabel]
) -> int:
    """Write labels of an equipment; returns how many.

    Raises:
        UnknownEquipment: it is not registered.
        StoreUnavailable: the database can't be reached.
        StoreError: it refused, such as a label that ends before it starts or that says both a grade and a health.
    """
    if not labels:
        return 0
    # The last of equal keys counts; one statement can't replace a row twice.
    unique = {(label.component_id, label.start_us): label for label in labels}.values()
    columns = [list(column) for column in zip(*unique, strict=True)]
    written = await database.fetch("put_labels", equipment_id, *columns)
    if not written:
        raise UnknownEquipment(equipment_id)
    return len(written)


async def read_labels(
    database: Database,
    equipment_id: str,
    start_us: int = ALL_TIME_US[0],
    end_us: int = ALL_TIME_US[1],
) -> list[ConditionLabel]:
    """Return an equipment's labels that overlap [start_us, end_us), by time, then component.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    rows = await database.fetch("read_labels", equipment_id, start_us, end_us)
    return [ConditionLabel(*row) for row in rows]
