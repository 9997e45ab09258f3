"""Reads labelled windows of an equipment from the store.

Invariant: a window's values are the grid's, bit for bit, in the order of `Equipment.sensors`.
"""

from datetime import timedelta

import numpy as np

from app.bins import Floats
from app.errors import StoreError
from app.schemas.equipment import Equipment
from app.store.store import Store
from app.store.windows import decode_window
from train.config import TrainConfig
from train.dataset import WindowSet, make_window_set
from train.labels import EPOCH, MICROSECOND, Booleans, Label, label_windows

READ_AT_ONCE = 64
"""Windows of one statement."""

IMPORT_HINT = "import it with its labels (the shipped rig: `python -m app.demo import-rig`) and train again"


async def read_windows(store: Store, config: TrainConfig) -> WindowSet:
    """Read every labelled window of the equipment that a training is about.

    Args:
        store: open.
        config: names the equipment; says how windows are split.

    Returns:
        The windows that hold any reading.

    Raises:
        StoreError: the equipment is not registered, or has no labels, or no readings in the labelled time, or too few
            configurations for the folds.
        InputError: a label does not fit the topology.
    """
    record = await store.get_equipment(config.equipment)
    if record is None:
        known = [item.equipment.equipment_id for item in await store.list_equipment()]
        raise StoreError(
            f"expected '{config.equipment}' in the store, found {', '.join(known) or 'no equipment at all'}: {IMPORT_HINT}"
        )
    equipment = record.equipment
    rows = await store.read_labels(config.equipment)
    if not rows:
        raise StoreError(f"expected condition labels of '{config.equipment}' in the store, found none: {IMPORT_HINT}")
    labels = label_windows(
        equipment,
        [
            Label(
                row.component_id,
                EPOCH + row.start_us * MICROSECOND,
                EPOCH + row.end_us * MICROSECOND,
                row.grade,
                row.stable,
            )
            for row in rows
        ],
    )
    values_WSN = await _read_values(store, equipment, labels.start_us_W.tolist())
    there_W: Booleans = np.asarray(np.isfinite(values_WSN).any(axis=(1, 2)))
    if not there_W.any():
        raise StoreError(
            f"expected readings of '{config.equipment}' in its {len(labels)} labelled windows of "
            f"{timedelta(seconds=equipment.window_s)}, found none: {IMPORT_HINT}"
        )
    try:
        return make_window_set(equipment, values_WSN[there_W], labels.only(there_W), config)
    except ValueError as error:
        raise StoreError(f"'{config.equipment}' can't be split: {error}") from error


async def _read_values(store: Store, equipment: Equipment, starts_us: list[int]) -> Floats:
    parts: list[Floats] = []
    for begin in range(0, len(starts_us), READ_AT_ONCE):
        asked = [
            (equipment.equipment_id, start_us // equipment.grid_us, equipment.bins)
            for start_us in starts_us[begin : begin + READ_AT_ONCE]
        ]
        parts += [decode_window(window, equipment) for window in await store.read_windows(asked)]
    return np.stack(parts) if parts else np.empty((0, len(equipment.sensors), equipment.bins), np.float32)
