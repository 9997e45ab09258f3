"""Make windows of the rig's measured cycles directly from a copy of the data, without a store.

Invariant: windows and labels equal those prepared after an import of the same copy.
"""

from collections.abc import Iterator

import numpy as np

from app.core.errors import ReadingError
from app.core.shared_storage import StoragePath
from app.demo.machine import DEFAULT_START
from app.demo.rig.importer import CYCLE_US, block_labels
from app.demo.rig.measurements import CYCLE_S, RigFiles, read_blocks, survey
from app.features.binning import Floats
from app.schemas.equipment import Equipment
from app.store.labels import ConditionLabel
from train.data.labels import EPOCH, MICROSECOND, label_windows
from train.data.windows import Windows, write_windows

BLOCK = 64
"""Cycles that are read at once."""


def rig_windows(directory: StoragePath, equipment: Equipment, files: RigFiles) -> Windows:
    """Write a window for each cycle to a new directory.

    Args:
        directory: for the shards.
        equipment: the rig.
        files: a copy of the data at 1 Hz, such as the shipped one.

    Raises:
        ReadingError: the data are not in the layout, or not at 1 Hz.
    """
    if fast := [name for name, rate_hz in survey(files).rates_hz.items() if rate_hz != 1]:
        raise ReadingError(
            f"{files.where}: expected every sensor at 1 Hz, found {fast[0]} at more: use the "
            "shipped copy, or import this one and train with --equipment"
        )
    begin_us = (DEFAULT_START - EPOCH) // MICROSECOND
    labels: list[ConditionLabel] = []
    for block in read_blocks(files, BLOCK):
        labels += block_labels(block, equipment, begin_us, len(labels))
    return write_windows(
        directory,
        equipment,
        [equipment.equipment_id],
        label_windows(equipment, labels),
        _values(equipment, files),
    )


def _values(equipment: Equipment, files: RigFiles) -> Iterator[Floats]:
    assert CYCLE_S * equipment.grid_us == CYCLE_US  # a cycle is a window, and a second a bin
    for block in read_blocks(files, BLOCK):
        values = [block.values_CR[sensor_id] for sensor_id in equipment.sensor_ids]
        yield np.stack(values, 1).astype(np.float32)
