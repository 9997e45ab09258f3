"""Writes a file of made readings: `python -m tests.bench.readings_file FILE ROWS`.

The machine is one of 16 pressure sensors at 1 Hz, so that 10 million readings are a week; its
topology is written beside the file. The ending of the name chooses the format.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

SENSORS = 16
START = datetime(2025, 1, 1, tzinfo=UTC)
SECONDS_AT_ONCE = 20_000


def topology(equipment_id: str) -> dict[str, object]:
    """Return the machine of the file."""
    sensors = [
        {"sensor_id": f"P{index}", "quantity": "pressure", "unit": "bar", "range": [0, 400]}
        for index in range(SENSORS)
    ]
    return {
        "equipment_id": equipment_id,
        "design": "bench-press",
        "grid_s": 1,
        "window_s": 60,
        "steps": 12,
        "components": [{"component_id": "press", "type": "cylinder", "sensors": sensors}],
    }


def write(path: Path, rows: int, *, equipment_id: str = "bench-press", wide: bool = False) -> int:
    """Write about that many readings, CSV or Parquet, long or wide; return how many."""
    random = np.random.default_rng(0)
    seconds, writer = rows // SENSORS, None
    for first in range(0, seconds, SECONDS_AT_ONCE):
        count = min(SECONDS_AT_ONCE, seconds - first)
        start = np.datetime64(START.replace(tzinfo=None), "us")
        times = start + np.arange(first, first + count).astype("timedelta64[s]")
        values = np.round(200 + 5 * random.standard_normal((count, SENSORS)), 3)
        times_column = pa.array(times, pa.timestamp("us", "UTC"))
        if wide:
            columns = {"time": times_column} | {
                f"P{index}": pa.array(values[:, index]) for index in range(SENSORS)
            }
        else:
            names = pa.array([f"P{index}" for index in range(SENSORS)])
            columns = {
                "equipment_id": pa.array([equipment_id] * (count * SENSORS)),
                "sensor_id": names.take(pa.array(np.tile(np.arange(SENSORS), count))),
                "time": times_column.take(pa.array(np.repeat(np.arange(count), SENSORS))),
                "value": pa.array(values.ravel()),
            }
        table = pa.table(columns)
        if path.suffix == ".csv":
            place = table.schema.get_field_index("time")
            text = pa.compute.strftime(table["time"], "%Y-%m-%dT%H:%M:%SZ")
            table = table.set_column(place, "time", text)
        if writer is None:
            writer = (
                pa.csv.CSVWriter(path, table.schema)
                if path.suffix == ".csv"
                else pa.parquet.ParquetWriter(path, table.schema)
            )
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return seconds * SENSORS


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.readings_file")
    parser.add_argument("file", type=Path, help="ends in .csv or .parquet")
    parser.add_argument("rows", type=int)
    parser.add_argument("--wide", action="store_true", help="a column for each sensor")
    options = parser.parse_args()
    beside = options.file.with_suffix(".json")
    beside.write_text(json.dumps(topology("bench-press")))
    print(f"wrote {write(options.file, options.rows, wide=options.wide)} readings, and {beside}")
