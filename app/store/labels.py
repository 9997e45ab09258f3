"""Condition labels: what is known of a component in an interval.

A label is a grade, a health, or the statement that the component ran until it failed.
Invariant: a component has at most one label per start time; writing it again replaces it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from app.core.errors import UnknownEquipment
from app.store.partitions import Repository
from app.store.pool import columns_of

ALL_TIME_US = (-(10**15), 10**16)


class ConditionLabel(NamedTuple):
    """What is known of a component in [start_us, end_us).

    Exactly one of `grade`, `health` and `run_to_failure` is given.

    Args:
        component_id: of the equipment.
        start_us: microseconds since 1970-01-01T00:00Z.
        end_us: likewise; with `run_to_failure` it may lie after the last reading.
        grade: name of the condition.
        stable: False while the machine was settling.
        cycle: number of the cycle in its source, None without.
        health: in [0, 1].
        run_to_failure: the component ran from the start and failed at the end.
    """

    component_id: str
    start_us: int
    end_us: int
    grade: str | None = None
    stable: bool = True
    cycle: int | None = None
    health: float | None = None
    run_to_failure: bool = False


class LabelRepository(Repository):
    """Condition labels of equipment."""

    async def put_labels(self, equipment_id: str, items: Sequence[ConditionLabel]) -> int:
        """Write labels of an equipment and return how many.

        Raises:
            UnknownEquipment: the equipment is not registered.
            StoreError: a label ends before it starts, or has both a grade and a health.
        """
        if not items:
            return 0
        # The last of equal keys counts: one statement can't replace a row twice.
        unique = {(label.component_id, label.start_us): label for label in items}.values()
        written = await self._database.fetch("put_labels", equipment_id, *columns_of(unique))
        if not written:
            raise UnknownEquipment(equipment_id)
        return len(written)

    async def read_labels(
        self, equipment_id: str, start_us: int = ALL_TIME_US[0], end_us: int = ALL_TIME_US[1]
    ) -> list[ConditionLabel]:
        """Return the labels that overlap [start_us, end_us), by time, then component."""
        rows = await self._database.fetch("read_labels", equipment_id, start_us, end_us)
        return [ConditionLabel(*row) for row in rows]
