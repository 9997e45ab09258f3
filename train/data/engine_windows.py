"""Make windows of C-MAPSS engines directly from their files, for evaluation without a store.

Invariant: windows and labels equal those prepared after an import of the same files. One window
ends at each cycle; bins before an engine's first cycle are missing.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import numpy as np

from app.core.shared_storage import StoragePath
from app.demo.cmapss.files import SENSOR_IDS, Engine
from app.features.binning import Floats
from app.schemas.equipment import Equipment
from app.store.labels import ConditionLabel
from train.data.labels import (
    HOUR_US,
    History,
    Integers,
    WindowLabels,
    join_labels,
    label_windows,
)
from train.data.windows import Windows, write_windows


def engine_windows(
    directory: StoragePath,
    topology: Equipment,
    engines: Sequence[Engine],
    remaining: Sequence[float],
    component_id: str,
    cap_h: float,
    names: Sequence[str],
) -> Windows:
    """Write the windows of engines to a new directory.

    Args:
        directory: for the shards.
        topology: of all engines, with a sensor for each column and bins of one hour, which is a
            cycle.
        engines: their histories.
        remaining: cycles that each engine ran after its last recorded one.
        component_id: the component that fails.
        cap_h: largest remaining life of a label, in operating hours.
        names: of the engines.

    Returns:
        The windows; an engine shorter than a fifth of a window has none.
    """
    parts = [
        _labels(topology, engine, left, component_id, cap_h, machine)
        for machine, (engine, left) in enumerate(zip(engines, remaining, strict=True))
    ]
    return write_windows(
        directory, topology, names, join_labels(parts), _values(topology, engines, parts)
    )


def last_of_each(windows: Windows) -> Integers:
    """Return the position of each machine's last window, rising."""
    machine_W = windows.labels.machine_W
    return np.flatnonzero(np.append(machine_W[1:] != machine_W[:-1], values=True)).astype(np.int64)


def _labels(
    topology: Equipment, engine: Engine, left: float, component_id: str, cap_h: float, machine: int
) -> WindowLabels:
    end_us = len(engine.values_CR) * HOUR_US
    failure_us = end_us + round(left * HOUR_US)
    ran = ConditionLabel(component_id, 0, failure_us, run_to_failure=True)
    return label_windows(
        topology,
        [ran],
        machine=machine,
        rul_cap_h=cap_h,
        stride_s=timedelta(hours=1).total_seconds(),
        history=History(0, end_us),
    )


def _values(
    topology: Equipment, engines: Sequence[Engine], parts: Sequence[WindowLabels]
) -> Iterator[Floats]:
    column_S = [SENSOR_IDS.index(sensor_id) for sensor_id in topology.sensor_ids]
    for engine, labels in zip(engines, parts, strict=True):
        before_SN = np.full((len(column_S), topology.bins), np.nan, np.float32)
        history_SC = np.concatenate(
            (before_SN, engine.values_CR[:, column_S].T.astype(np.float32)), axis=1
        )
        end_W = labels.start_us_W // HOUR_US + 2 * topology.bins  # counted with the bins in front
        if len(end_W):
            yield np.stack([history_SC[:, end - topology.bins : end] for end in end_W.tolist()])
