"""Writes simulated histories: Parquet of readings and labels, topologies, and a manifest.

A folder has `readings/<equipment>.parquet` (a column per sensor, a row per second), `labels`,
`faults`, `sensor_faults` and `maintenance` of all machines, `topologies/<equipment>.yaml`, and
`manifest.json`, which says that everything is simulated and is written last.
Invariant: equal arguments write equal values; time t is the start plus t operating hours.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from app.demo.simulation.history import Recording, Unit
from app.demo.simulation.layout import Floats
from app.demo.simulation.wear import Condition

VERSION = 1
"""Of the layout of these files and of the simulated values; raise it when either changes."""
_TIME = pa.timestamp("us", tz="UTC")
LABELS = pa.schema(
    [
        ("equipment_id", pa.string()),
        ("component_id", pa.string()),
        ("start", _TIME),
        ("end", _TIME),
        ("operating_h", pa.float64()),
        ("health", pa.float32()),
        ("degradation_rate", pa.float32()),
        ("rul_h", pa.float64()),
        ("fault", pa.string()),
    ]
)
FAULTS = pa.schema(
    [
        ("equipment_id", pa.string()),
        ("component_id", pa.string()),
        ("fault", pa.string()),
        ("onset", _TIME),
        ("failure", _TIME),
        ("repaired", _TIME),
        ("onset_h", pa.float64()),
        ("life_h", pa.float64()),
        ("shape", pa.float64()),
    ]
)
SENSOR_FAULTS = pa.schema(
    [
        ("equipment_id", pa.string()),
        ("sensor_id", pa.string()),
        ("kind", pa.string()),
        ("start", _TIME),
        ("end", _TIME),
        ("size", pa.float64()),
    ]
)
MAINTENANCE = pa.schema(
    [
        ("equipment_id", pa.string()),
        ("component_id", pa.string()),
        ("time", _TIME),
        ("operating_h", pa.float64()),
    ]
)


class Label(NamedTuple):
    """Truth about a component over [start_h, end_h) operating hours, taken in the middle."""

    component_id: str
    start_h: float
    end_h: float
    truth: Condition


class Manifest(TypedDict):
    """What `manifest.json` says."""

    version: int
    simulated: bool
    machine: str
    design: str
    name: str
    seed: int
    machines: list[str]
    hours: float
    start: str
    windows: int
    seconds: int
    wearing: float
    sensor_faults: float
    faults: dict[str, float]
    readings: int


def labels_of(unit: Unit, recording: Recording) -> Iterator[Label]:
    """Yield the truth about every component during a recording."""
    end_h = recording.hour + len(recording.values_TS) / 3_600
    for component in unit.design.components:
        truth = unit.plan.condition(component.component_id, (recording.hour + end_h) / 2)
        yield Label(component.component_id, recording.hour, end_h, truth)


def joined(recordings: Iterable[Recording], seconds: int) -> Iterator[Recording]:
    """Yield recordings of up to `seconds` from parts that follow each other without a gap."""
    parts: list[Recording] = []
    length = 0
    for each in recordings:
        parts.append(each)
        length += len(each.values_TS)
        if length >= seconds:
            yield Recording(parts[0].hour, np.concatenate([part.values_TS for part in parts]))
            parts, length = [], 0
    if parts:
        yield Recording(parts[0].hour, np.concatenate([part.values_TS for part in parts]))


def clock(start: datetime, hour: float) -> datetime:
    """Return the time of an operating hour, on a whole second."""
    return start + timedelta(seconds=round(hour * 3_600))


def write_readings(
    path: Path, unit: Unit, recordings: Iterable[Recording], start: datetime
) -> tuple[int, list[Label]]:
    """Write the readings of one machine; return how many, and the labels.

    Args:
        path: of the Parquet file.
        unit: the machine.
        recordings: in the order of time; each is a row group.
        start: time of operating hour 0.
    """
    sensors = [sensor.sensor_id for _, sensor in unit.design.sensors]
    schema = pa.schema(
        [("time", _TIME), ("operating_h", pa.float64()), *((s, pa.float32()) for s in sensors)],
        metadata={"equipment_id": unit.equipment_id, "simulated": "true"},
    )
    count = 0
    labels: list[Label] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for recording in recordings:
            values_TS = recording.values_TS
            second_T = np.arange(len(values_TS))
            begin = np.datetime64(clock(start, recording.hour).replace(tzinfo=None), "us")
            columns: list[Floats | np.ndarray] = [
                begin + second_T.astype("timedelta64[s]"),
                recording.hour + second_T / 3_600,
                *(values_TS[:, s].astype(np.float32) for s in range(len(sensors))),
            ]
            arrays = [
                pa.array(column, field.type, from_pandas=True)
                for column, field in zip(columns, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            count += int(np.isfinite(values_TS).sum())
            labels += labels_of(unit, recording)
    return count, labels


def write_truth(
    out: Path,
    units: Sequence[Unit],
    labels: Sequence[Sequence[Label]],
    hours: float,
    start: datetime,
) -> None:
    """Write labels, fault intervals, sensor faults, maintenance and topologies of all machines."""

    def at(hour: float) -> datetime | None:
        return clock(start, hour) if -1e6 < hour < 1e6 else None

    tables: dict[str, tuple[pa.Schema, list[tuple[object, ...]]]] = {
        "labels": (
            LABELS,
            [
                (
                    unit.equipment_id,
                    each.component_id,
                    at(each.start_h),
                    at(each.end_h),
                    each.start_h,
                    each.truth.health,
                    each.truth.degradation_rate,
                    each.truth.rul_h if math.isfinite(each.truth.rul_h) else None,
                    each.truth.fault or None,
                )
                for unit, own in zip(units, labels, strict=True)
                for each in own
            ],
        ),
        "faults": (
            FAULTS,
            [
                (
                    unit.equipment_id,
                    unit.plan.modes[each.mode].component,
                    unit.plan.modes[each.mode].fault,
                    at(each.onset_h),
                    at(each.failure_h),
                    at(each.repaired_h),
                    each.onset_h,
                    each.life_h,
                    each.shape,
                )
                for unit in units
                for each in unit.plan.trajectories
                if each.onset_h < hours
            ],
        ),
        "sensor_faults": (
            SENSOR_FAULTS,
            [
                (
                    unit.equipment_id,
                    unit.design.sensors[each.sensor][1].sensor_id,
                    each.kind,
                    at(each.start_h),
                    at(each.end_h),
                    each.size,
                )
                for unit in units
                for each in unit.sensor_faults
            ],
        ),
        "maintenance": (
            MAINTENANCE,
            [
                (unit.equipment_id, each.component, at(each.hour), each.hour)
                for unit in units
                for each in unit.plan.repairs
            ],
        ),
    }
    for name, (schema, rows) in tables.items():
        columns = zip(*rows, strict=True) if rows else [()] * len(schema)
        arrays = [
            pa.array(list(column), field.type)
            for column, field in zip(columns, schema, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=schema)
        pq.write_table(table, out / f"{name}.parquet", compression="zstd")
    for unit in units:
        topology = unit.design.equipment(unit.equipment_id).model_dump(mode="json")
        text = "# Simulated.\n" + yaml.safe_dump(topology, sort_keys=False, width=100)
        (out / "topologies" / f"{unit.equipment_id}.yaml").write_text(text, encoding="utf-8")


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, which marks the folder as simulated and complete."""
    text = json.dumps(manifest, indent=2) + "\n"
    (out / "manifest.json").write_text(text, encoding="utf-8")
