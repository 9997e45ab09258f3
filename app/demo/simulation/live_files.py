"""The shipped recordings of the live fleet: two machines of each simulated design, one of all worn.

A design has one Parquet file: windows of its machines at 1 Hz, one after the other, and in its
metadata the baseline of each machine from a first day as new. They are recorded once, by
`app.demo.simulation.live_recording`, so that the service needs no compiler to show a fleet.
Shapes: N windows, T seconds of a window, S sensors.
Invariant: everything is simulated and says so.
"""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from app.core.errors import ReadingError
from app.demo.simulation.machine import machine_files, read_machine
from app.features.baseline import Baseline
from app.features.binning import Floats
from app.schemas.equipment import Equipment, OperatingHours

LIVE_FILE = "live.parquet"
WORN_DESIGN, WORN_FAULT = "excavator", "pump.leakage"
"""What wears in the second machine of one design; the others are as new."""
WORN = "excavator-2"
"""Id of the machine that wears."""
LIVE_WINDOWS = 6
"""Windows of a machine that are replayed one after the other: an hour, recorded without a gap."""
PAST_WINDOWS = 24
"""Earlier windows of the worn machine, the last of them just before the present."""
PAST_STEP = timedelta(hours=40)
"""Time, and operating hours, between two of them."""
_MACHINES = b"machines"


class _Stated(BaseModel):
    """What the metadata say of one machine, in the order of its windows in the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment_id: str
    past: int
    live: int
    baseline: Baseline


class LiveMachine(NamedTuple):
    """A machine of the live fleet.

    Args:
        equipment: with its counter of operating hours.
        baseline: from its first day as new.
        past_NTS: earlier windows of a worn machine by time, float32; none for the others.
        live_NTS: windows that are replayed, float32.
    """

    equipment: Equipment
    baseline: Baseline
    past_NTS: Floats
    live_NTS: Floats


def past_ends(now: datetime) -> list[datetime]:
    """Return when the earlier windows of the worn machine end, as of a present.

    They end at the same times all day, so that a restart writes the same readings again.
    """
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return [midnight - PAST_STEP * back for back in range(PAST_WINDOWS - 1, -1, -1)]


def read_live_fleet() -> list[LiveMachine]:
    """Read the machines of all designs that have a recording, the worn machine first.

    Raises:
        ReadingError: a file is damaged.
    """
    found = [
        machine
        for path in machine_files().values()
        if (path.parent / LIVE_FILE).exists()
        for machine in read_live(path.parent / LIVE_FILE, path.parent.name)
    ]
    return sorted(found, key=lambda each: each.equipment.equipment_id != WORN)


def read_live(path: Path, machine: str) -> list[LiveMachine]:
    """Read the machines of one design.

    Args:
        path: of the file.
        machine: name of the design's folder.

    Raises:
        ReadingError: the file is damaged, or of another topology.
    """
    design = read_machine(machine)
    sensors = [sensor.sensor_id for _, sensor in design.sensors]
    seconds = round(design.window.window_s)
    try:
        table = pq.read_table(path)
        stated = [
            _Stated.model_validate(each)
            for each in json.loads((table.schema.metadata or {})[_MACHINES])
        ]
        values_RS = np.stack([table.column(name).to_numpy() for name in sensors], -1)
        values_NTS = values_RS.reshape(-1, seconds, len(sensors))
    except (KeyError, ValueError, OSError, pa.ArrowException) as error:
        raise ReadingError(
            f"expected the recording of '{machine}' in {path}, found it damaged "
            f"({type(error).__name__}: {error}): install the package again"
        ) from error
    machines = []
    first = 0
    for each in stated:
        between, end = first + each.past, first + each.past + each.live
        machines.append(
            LiveMachine(
                design.equipment(each.equipment_id),
                each.baseline,
                values_NTS[first:between],
                values_NTS[between:end],
            )
        )
        first = end
    return machines


def write_live(path: Path, sensors: list[str], machines: list[LiveMachine]) -> None:
    """Write the machines of one design; see `read_live`."""
    blocks = [block for each in machines for block in (each.past_NTS, each.live_NTS)]
    values_RS = np.concatenate([block.reshape(-1, len(sensors)) for block in blocks])
    stated = [
        _Stated(
            equipment_id=each.equipment.equipment_id,
            past=len(each.past_NTS),
            live=len(each.live_NTS),
            baseline=each.baseline,
        ).model_dump(mode="json")
        for each in machines
    ]
    schema = pa.schema(
        [(name, pa.float32()) for name in sensors],
        metadata={_MACHINES: json.dumps(stated).encode(), b"simulated": b"true"},
    )
    columns = [pa.array(np.ascontiguousarray(values_RS[:, s])) for s in range(len(sensors))]
    table = pa.Table.from_arrays(columns, schema=schema)
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=True)


def counted(equipment: Equipment, at: datetime, hours: float) -> Equipment:
    """Return a machine whose counter showed operating hours at a time."""
    return equipment.model_copy(update={"operating_hours": OperatingHours(value_h=hours, as_of=at)})


def cycles_of(live_NTS: Floats, cycle_s: int) -> NDArray[np.float64]:
    """Return the windows that are replayed as cycles of equal length, [C, K, S]."""
    return live_NTS.reshape(-1, cycle_s, live_NTS.shape[-1]).astype(np.float64)
