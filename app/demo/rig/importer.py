"""Imports a copy of the rig's data into a store: readings at their own times, grades as labels.

Every block is written completely before the next is read. The import can be repeated; repeating it
completes an interrupted one.
Invariant: cycle i of the original experiment begins i minutes after the start, for any subset of
cycles in the copy.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np

from app.core.errors import ReadingError
from app.demo.machine import Progress, microseconds_of
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
from app.store.readings import CHUNK, Readings
from app.store.store import Store

CYCLE_US = CYCLE_S * 1_000_000


async def import_rig(
    store: Store,
    equipment: Equipment,
    files: RigFiles,
    start: datetime,
    report: Callable[[Progress], None],
) -> Progress:
    """Register the rig and write all readings and labels of a copy of its data.

    Args:
        store: with or without a schema.
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
    minute = timedelta(seconds=CYCLE_S)
    begin_us = microseconds_of(start, minute, "a whole minute, since cycles begin on one")
    found = survey(files)
    cycles_per_block = max(1, CHUNK * found.cycles // found.readings)
    await store.migrate()
    await store.put_equipment(equipment)
    done = Progress(0, found.cycles)
    for block in read_blocks(files, cycles_per_block):
        labels = block_labels(block, equipment, begin_us, done.done)
        ingested = await store.ingest_many(
            [block_readings(equipment.equipment_id, block, begin_us)]
        )
        await store.put_labels(equipment.equipment_id, labels)
        done = done.after(len(block.cycle_index_C), ingested)
        report(done)
    return done


def block_readings(equipment_id: str, block: CycleBlock, start_us: int) -> Readings:
    """Return the readings of a block: cycle i of the original begins i minutes after the start.

    Value k of a second of a sensor with rate r has the time k / r seconds after its start.

    Args:
        equipment_id: of the machine.
        block: consecutive cycles.
        start_us: of the original's first cycle, microseconds since 1970-01-01T00:00Z.
    """
    cycle_start_C = start_us + block.cycle_index_C * CYCLE_US
    sensor_ids: list[str] = []
    times_us, values = [], []
    for sensor_id, values_CR in block.values_CR.items():
        readings = values_CR.shape[1]
        offset_R = np.arange(readings, dtype=np.int64) * CYCLE_US // readings
        sensor_ids += [sensor_id] * values_CR.size
        times_us.append((cycle_start_C[:, None] + offset_R).reshape(-1))
        values.append(values_CR.reshape(-1))
    return Readings(equipment_id, sensor_ids, np.concatenate(times_us), np.concatenate(values))


def block_labels(
    block: CycleBlock, equipment: Equipment, begin_us: int, first_row: int
) -> list[ConditionLabel]:
    """Return the labels of a block: the grade of each graded component in each cycle.

    Args:
        block: consecutive cycles.
        equipment: the machine.
        begin_us: of the original's first cycle, microseconds since 1970-01-01T00:00Z.
        first_row: rows of the copy before the block, for messages.

    Raises:
        ReadingError: a grade is not one of the equipment's.
    """
    known = {
        component.component_id: {grade.name for grade in component.grades}
        for component in equipment.components
    }
    columns = (block.cycle_index_C, block.grades_CG, block.stable_C)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    labels = []
    for row, (cycle, grades, stable) in enumerate(rows, first_row + 1):
        start_us = begin_us + cycle * CYCLE_US
        for component_id, grade in zip(GRADED_COMPONENTS, map(str, grades), strict=True):
            if grade not in known[component_id]:
                raise ReadingError(
                    f"{PROFILE_FILE} line {row}: expected a grade of '{component_id}' "
                    f"({', '.join(sorted(known[component_id]))}), found {grade}: correct the row "
                    "or add the grade to the topology",
                    f"{PROFILE_FILE}:{row}",
                )
            labels.append(
                ConditionLabel(component_id, start_us, start_us + CYCLE_US, grade, stable, cycle)
            )
    return labels
