"""Imports a copy of the rig's data into a store: readings at their own times, grades as labels.

Every block is written completely before the next is read. The import can be repeated; repeating it
completes an interrupted one.
Invariant: cycle i of the original experiment begins i minutes after the start, for any subset of
cycles in the copy.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from app.core.errors import ReadingError
from app.demo.machine import Progress, start_us
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


async def import_rig(
    store: Store,
    equipment: Equipment,
    files: RigFiles,
    start: datetime,
    report: Callable[[Progress], None],
) -> Progress:
    """Register the rig and write all readings and labels of a copy of its data.

    Args:
        store: to write to.
        equipment: the machine; its topology is registered or replaced.
        files: a copy of the data.
        start: of the original's first cycle; with a time zone, on a whole minute.
        report: called after every block.

    Returns:
        The progress at the end.

    Raises:
        TopologyError: the equipment does not fit the rig's layout.
        ReadingError: the data are not in the layout or have a grade that the equipment lacks, or
            the start is not on a whole minute; blocks before the error are written.
        StoreError: the store refused or can't be reached.
    """
    check_fits_layout(equipment)
    period = timedelta(seconds=CYCLE_S)
    begin_us = start_us(start, period, "a whole minute, since cycles begin on one")
    found = survey(files)
    cycles_per_block = max(1, CHUNK * found.cycles // found.readings)
    await store.migrate()
    await store.put_equipment(equipment)
    done = Progress(0, found.cycles, 0, 0)
    for block in read_blocks(files, cycles_per_block):
        labels = _labels(block, equipment, begin_us, done.done)
        columns = block_columns(block, begin_us)
        result = await store.ingest(equipment.equipment_id, *columns)
        await store.put_labels(equipment.equipment_id, labels)
        done = done._replace(
            done=done.done + len(block.cycle_index_C),
            readings=done.readings + len(columns.times_us),
            accepted=done.accepted + result.accepted,
        )
        report(done)
    return done


def _labels(
    block: CycleBlock, equipment: Equipment, begin_us: int, first_row: int
) -> list[ConditionLabel]:
    known = {
        component.component_id: {grade.name for grade in component.grades}
        for component in equipment.components
    }
    columns = (block.cycle_index_C, block.grades_CG, block.stable_C)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    labels = []
    for row, (cycle, grades, stable) in enumerate(rows, first_row + 1):
        start_of_cycle_us = begin_us + cycle * CYCLE_US
        end_us = start_of_cycle_us + CYCLE_US
        for component_id, grade in zip(GRADED_COMPONENTS, map(str, grades), strict=True):
            if grade not in known[component_id]:
                raise ReadingError(
                    f"{PROFILE_FILE} line {row}: expected a grade of '{component_id}' "
                    f"({', '.join(sorted(known[component_id]))}), found {grade}: correct the row "
                    "or add the grade to the topology",
                    f"{PROFILE_FILE}:{row}",
                )
            label = ConditionLabel(component_id, start_of_cycle_us, end_us, grade, stable, cycle)
            labels.append(label)
    return labels
