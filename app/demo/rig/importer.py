"""Imports a copy of the rig's data into a store: readings at their own times, and the grades as condition labels.

Every block is written whole before the next is read, and writing one again changes nothing, so an import that was
interrupted is completed by running it again.
Invariant: cycle i of the original experiment begins i minutes after the start, whichever cycles the copy holds.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from app.core.errors import ReadingError
from app.demo.rig.columns import CYCLE_US, block_columns
from app.demo.rig.equipment import check_fits_layout
from app.demo.rig.measurements import (
    CYCLE_S,
    GRADED_COMPONENTS,
    PROFILE_FILE,
    CycleBlock,
    RigFiles,
    read_blocks,
    survey,
)
from app.schemas.equipment import Equipment
from app.store.labels import ConditionLabel
from app.store.readings import CHUNK
from app.store.store import Store

DEFAULT_START = datetime(2025, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Progress(NamedTuple):
    """What an import has done so far.

    Args:
        cycles: written.
        cycles_total: in the copy.
        readings: written, new or not.
        accepted: readings that were new.
    """

    cycles: int
    cycles_total: int
    readings: int
    accepted: int


async def import_rig(
    store: Store,
    equipment: Equipment,
    files: RigFiles,
    start: datetime,
    report: Callable[[Progress], None],
) -> Progress:
    """Register the rig and write all readings and labels of a copy of its data.

    Args:
        store: where to write.
        equipment: the machine to write as; its topology is registered, or replaced.
        files: a copy of the data.
        start: when the original's first cycle begins; aware, on a whole minute.
        report: told after every block.

    Returns:
        The whole import.

    Raises:
        TopologyError: the equipment does not fit the rig's layout.
        ReadingError: the data are not in the layout, hold a grade that the equipment does not know, or the start is not
            on a whole minute. Blocks before the faulty one are written.
        StoreError: the store refused or can't be reached.
    """
    check_fits_layout(equipment)
    start_us = _start_us(start)
    found = survey(files)
    cycles_per_block = max(1, CHUNK * found.cycles // found.readings)
    await store.migrate()
    await store.put_equipment(equipment)
    done = Progress(0, found.cycles, 0, 0)
    for block in read_blocks(files, cycles_per_block):
        labels = _labels(block, equipment, start_us, done.cycles)
        columns = block_columns(block, start_us)
        result = await store.ingest(equipment.equipment_id, *columns)
        await store.put_labels(equipment.equipment_id, labels)
        done = done._replace(
            cycles=done.cycles + len(block.cycle_index_C),
            readings=done.readings + len(columns.times_us),
            accepted=done.accepted + result.accepted,
        )
        report(done)
    return done


def _start_us(start: datetime) -> int:
    if start.tzinfo is None:
        raise ReadingError(
            f"expected a start with a time zone, found {start.isoformat()}: add Z for UTC", "start"
        )
    since_epoch = start - _EPOCH
    if since_epoch % timedelta(seconds=CYCLE_S):
        raise ReadingError(
            f"expected a start on a whole minute, since cycles begin on one, found {start.isoformat()}: round it",
            "start",
        )
    return since_epoch // timedelta(microseconds=1)


def _labels(
    block: CycleBlock, equipment: Equipment, start_us: int, first_row: int
) -> list[ConditionLabel]:
    known = {
        component.component_id: {grade.name for grade in component.grades}
        for component in equipment.components
    }
    labels = []
    for row, (cycle, grades, stable) in enumerate(
        zip(
            block.cycle_index_C.tolist(),
            block.grades_CG.tolist(),
            block.stable_C.tolist(),
            strict=True,
        ),
        first_row + 1,
    ):
        for component_id, grade in zip(GRADED_COMPONENTS, map(str, grades), strict=True):
            if grade not in known[component_id]:
                raise ReadingError(
                    f"{PROFILE_FILE} line {row}: expected a grade of '{component_id}' ({', '.join(sorted(known[component_id]))}), "
                    f"found {grade}: correct the row or add the grade to the topology",
                    f"{PROFILE_FILE}:{row}",
                )
            begin_us = start_us + cycle * CYCLE_US
            labels.append(
                ConditionLabel(component_id, begin_us, begin_us + CYCLE_US, grade, stable, cycle)
            )
    return labels
