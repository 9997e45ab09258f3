"""Condition labels: what is known of a component in an interval.

A label is a grade, a health, a remaining useful life, or the statement that the component ran until
it failed.
Invariant: a component has at most one label per start time; writing it again replaces it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from app.core.errors import UnknownEquipment
from app.schemas.labels import Label
from app.store.partitions import Repository
from app.store.statements import columns_of, first_value, queries

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

ALL_TIME_US = (-(10**15), 10**16)


class ConditionLabel(NamedTuple):
    """What is known of a component in [start_us, end_us).

    Exactly one of `grade`, `health`, `run_to_failure` and `rul_h` is given.

    Args:
        component_id: of the equipment.
        start_us: microseconds since 1970-01-01T00:00Z.
        end_us: likewise; with `run_to_failure` it may lie after the last reading.
        grade: name of the condition.
        stable: False while the machine was settling.
        cycle: number of the cycle in its source, None without.
        health: in [0, 1].
        run_to_failure: the component ran from the start and failed at the end.
        rul_h: remaining useful life at the end, in operating hours.
    """

    component_id: str
    start_us: int
    end_us: int
    grade: str | None = None
    stable: bool = True
    cycle: int | None = None
    health: float | None = None
    run_to_failure: bool = False
    rul_h: float | None = None

    @classmethod
    def of(cls, label: Label) -> Self:
        """Return the row of a label."""
        return cls(
            label.component_id,
            (label.start - EPOCH) // MICROSECOND,
            (label.end - EPOCH) // MICROSECOND,
            label.grade,
            label.stable,
            label.cycle,
            label.health,
            label.run_to_failure,
            label.rul_h,
        )

    def label(self, equipment_id: str) -> Label:
        """Return the label of this row of an equipment."""
        fields = self._asdict()
        start, end = (EPOCH + fields.pop(name) * MICROSECOND for name in ("start_us", "end_us"))
        return Label.model_construct(equipment_id=equipment_id, start=start, end=end, **fields)


class Written(NamedTuple):
    """Result of `add_labels`.

    Args:
        accepted: labels that were written.
        replaced: of these, how many replaced another one of the same component and start.
        duplicates: labels that were stored already.
        clashes: by position, the stored label that a given one overlaps; these were not written.
    """

    accepted: int
    replaced: int
    duplicates: int
    clashes: Mapping[int, ConditionLabel]


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

    async def add_labels(
        self, equipment_id: str, items: Sequence[ConditionLabel], *, whole: bool = False
    ) -> Written:
        """Write labels of an equipment that overlap no stored one but of the same start.

        Args:
            equipment_id: of the equipment.
            items: labels; those of one component must not overlap each other.
            whole: write all or, when one overlaps, nothing.

        Raises:
            UnknownEquipment: the equipment is not registered.
        """
        named = queries()
        around: dict[int, list[ConditionLabel]] = defaultdict(list)
        intervals = columns_of((each[:3] for each in items), 3)
        async with self._database.session() as session, session.transaction():
            await session.execute(named["lock_labels"], equipment_id)
            for position, *row in await session.fetch(
                named["labels_around"], equipment_id, *intervals
            ):
                around[position].append(ConditionLabel(*row))
            clashes, kept = _clashes(items, around)
            new = [items[at] for at in kept if items[at] not in around[at]]
            if clashes and whole:
                return Written(0, 0, 0, clashes)
            if new and not await session.fetch(named["put_labels"], equipment_id, *columns_of(new)):
                raise UnknownEquipment(equipment_id)
        replaced = sum(
            any(each.start_us == items[at].start_us for each in around[at])
            for at in kept
            if items[at] not in around[at]
        )
        return Written(len(new), replaced, len(kept) - len(new), clashes)

    async def read_labels(
        self,
        equipment_id: str,
        start_us: int = ALL_TIME_US[0],
        end_us: int = ALL_TIME_US[1],
        *,
        component_id: str | None = None,
        after: tuple[int, str] | None = None,
        limit: int | None = None,
    ) -> list[ConditionLabel]:
        """Return the labels that overlap [start_us, end_us), by start, then component.

        Args:
            equipment_id: of the equipment, which may be deleted.
            start_us: microseconds since 1970-01-01T00:00Z.
            end_us: likewise.
            component_id: of the labels; None for all.
            after: start and component of the label before the first; None for the start.
            limit: most labels to return; None for all.
        """
        rows = await self._database.fetch(
            "read_labels",
            equipment_id,
            start_us,
            end_us,
            component_id,
            *(after or (None, None)),
            limit,
        )
        return [ConditionLabel(*row) for row in rows]

    async def delete_labels(
        self, equipment_id: str, start: datetime, end: datetime, component_id: str | None = None
    ) -> int:
        """Remove the labels that begin in [start, end) and return how many.

        Args:
            equipment_id: of the equipment.
            start: of the interval.
            end: likewise.
            component_id: of the labels; None for all.
        """
        removed: int = first_value(
            await self._database.fetch("delete_labels", equipment_id, component_id, start, end)
        )
        return removed


def _clashes(
    items: Sequence[ConditionLabel], around: Mapping[int, Sequence[ConditionLabel]]
) -> tuple[dict[int, ConditionLabel], list[int]]:
    """Return by position the stored label that a given one overlaps, and the other positions.

    A stored label that is replaced is no obstacle. One whose replacement clashes stays, and then
    may be an obstacle itself.
    """
    clashes: dict[int, ConditionLabel] = {}
    while True:
        kept = [at for at in range(len(items)) if at not in clashes]
        replaced = {items[at][:2] for at in kept}
        found = {
            at: stored for at in kept for stored in around.get(at, ()) if stored[:2] not in replaced
        }
        if not found:
            return clashes, kept
        clashes |= found
