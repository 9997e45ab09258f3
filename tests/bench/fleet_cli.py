"""Offline scoring of a fleet beside the network alone: `python -m tests.bench.fleet_cli`.

The command `python -m app.fleet score` scores machines of the rig's topology, each with one
measured cycle as its window, in a database created for the run. The network alone, as serving runs
it, scores prepared graphs of the same windows in batches of the same size, before and after the
command, with one thread and with all processors. The measurement fails unless every machine was
scored and stored.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np

from app.checkpoint.files import load
from app.checkpoint.predictor import open_predictor
from app.core.settings import PROJECT_DIR
from app.demo.rig.equipment import rig_equipment
from app.diagnosis.window_plan import build_windows, plan_windows
from app.store.embedded.server import ensure_embedded, release_embedded
from app.store.store import Store
from tests.rig import rig_block

T0 = datetime(2025, 1, 1, tzinfo=UTC)
CHECKPOINT = PROJECT_DIR / "app" / "weights" / "1"

REGISTER = """
insert into equipment (equipment_id, topology, revision, grid_us)
select id, jsonb_set($1::jsonb, '{equipment_id}', to_jsonb(id)), md5(id), $2::bigint
from (
    select 'rig-' || lpad(n::text, 6, '0') as id from generate_series(1, $3::integer) n
) machine"""
SENSORS = """
insert into equipment_sensors (equipment_key, slot, sensor_id)
select equipment_key, sensor.position - 1, sensor.sensor_id
from equipment, unnest($1::text[]) with ordinality as sensor (sensor_id, position)"""
GRID = """
insert into sensor_grid (equipment_key, time, vals)
select
    equipment.equipment_key, $1::timestamptz + bin.position * interval '1 second',
    bin.vals::real[]
from equipment
join unnest($2::integer[], $3::integer[], $4::text[]) as bin (cycle, position, vals)
    on bin.cycle = equipment.equipment_key % $5::integer"""
READINGS = """
insert into sensor_readings (equipment_key, time, slot, value)
select equipment_key, $1::timestamptz + interval '59 seconds', 0, 1 from equipment"""


async def fill(dsn: str, machines: int, cycles: int = 64) -> None:
    """Register machines and write a minute of the rig's measured values of each, from `T0` on."""
    store = Store(dsn)
    await store.migrate()
    rig = rig_equipment()
    # creates the partitions of the month
    await store.put_equipment(rig)
    await store.ingest(
        rig.equipment_id, [rig.sensor_ids[0]], [int(T0.timestamp()) * 1_000_000], [0.0]
    )
    await store.close()
    values_CSN = window_values(cycles)
    session = await asyncpg.connect(dsn)
    await session.execute(
        "truncate equipment, equipment_sensors, sensor_grid, sensor_readings cascade"
    )
    await session.execute(REGISTER, rig.model_dump_json(), rig.grid_us, machines)
    await session.execute(SENSORS, list(rig.sensor_ids))
    rows = [(cycle, bin_) for cycle in range(cycles) for bin_ in range(rig.bins)]
    vals = [
        "{" + ",".join(map(str, values_CSN[cycle, :, bin_].tolist())) + "}" for cycle, bin_ in rows
    ]
    await session.execute(
        GRID, T0, [row[0] for row in rows], [row[1] for row in rows], vals, cycles
    )
    await session.execute(READINGS, T0)
    # autovacuum does this within minutes of live ingest
    await session.execute("vacuum analyze")
    await session.close()


def window_values(cycles: int) -> Any:
    """Return measured windows of the rig, evenly spaced over the data, [W, S, N]."""
    block = rig_block()
    rows = np.linspace(0, len(block.grades_CG) - 1, cycles).astype(int)
    return np.stack(
        [block.values_CR[name][rows] for name in rig_equipment().sensor_ids], axis=1
    ).astype(np.float32)


def network_alone(batch: int, threads: int, seconds: float) -> float:
    """Return graphs a second of the network in this process, from the median of its batches."""
    checkpoint, rig = load(CHECKPOINT), rig_equipment()
    predictor = open_predictor(checkpoint, threads=threads).predictor
    group, _ = build_windows(window_values(batch), plan_windows(rig, checkpoint.feature_spec))
    took: list[float] = []
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(took) < 3:
        began = time.perf_counter()
        predictor.predict([group])
        took.append(time.perf_counter() - began)
    return batch / float(np.median(took))


def fleet(dsn: str, run: str, batch: int, workers: int | None) -> dict[str, Any]:
    """Run the command on every machine and return its summary, with its whole run time."""
    command = [
        *(sys.executable, "-m", "app.fleet", "score", "--json", "--run", run),
        *("--at", T0.replace(minute=1).isoformat(), "--batch", str(batch)),
        *("--address", "local", "--checkpoint", str(CHECKPOINT)),
    ]
    if workers is not None:
        command += ["--workers", str(workers)]
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=PROJECT_DIR,
        env=os.environ | {"HYDRAULIC_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary | {"process_s": time.perf_counter() - began}


def run(
    machines: int = 10_000, batch: int = 32, workers: int | None = None, raw_s: float = 5.0
) -> dict[str, Any]:
    """Measure the command and the network alone; rates are in machines a second.

    Args:
        machines: of the fleet.
        batch: graphs of a forward pass at most, in both.
        workers: of the command; None for its default.
        raw_s: seconds for each measurement of the network alone.

    Returns:
        Rates of the network alone, of the command while it scored, and of the command with its
        start (of Python, Ray, weights and connections), their ratios, and the command's summary.
    """
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(
        prefix="hydraulic-bench-", ignore_cleanup_errors=True
    ) as parent:
        dsn = ensure_embedded(Path(parent) / "postgres", grace_s=0.0)
        asyncio.run(fill(dsn, machines))
        alone = {count: [network_alone(batch, count, raw_s)] for count in sorted({1, threads})}
        summary = fleet(dsn, "bench", batch, workers)
        for count, rates in alone.items():
            rates.append(network_alone(batch, count, raw_s))
        stored = asyncio.run(stored_diagnoses(dsn))
        release_embedded(Path(parent) / "postgres")
    assert (summary["machines"], stored) == (machines, machines), summary
    raw = {count: sum(rates) / len(rates) for count, rates in alone.items()}
    return {
        "machines": machines,
        "batch": batch,
        "workers": summary["workers"],
        "network_one_thread_per_s": raw[1],
        "network_all_threads_per_s": raw[threads],
        "fleet_per_s": summary["machines_per_s"],
        "fleet_with_start_per_s": machines / summary["process_s"],
        "ratio_to_one_thread": summary["machines_per_s"] / raw[1],
        "ratio_to_all_threads": summary["machines_per_s"] / raw[threads],
        "summary": summary,
        "cores": threads,
        "load": os.getloadavg()[0],
    }


async def stored_diagnoses(dsn: str) -> int:
    """Count the stored diagnoses."""
    session = await asyncpg.connect(dsn)
    try:
        count: int = await session.fetchval("select count(*) from diagnoses")
        return count
    finally:
        await session.close()


def main() -> None:
    """Print the measurement as JSON."""
    parser = argparse.ArgumentParser(
        description="offline scoring of a fleet beside the network alone"
    )
    parser.add_argument("--machines", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    print(json.dumps(run(options.machines, options.batch, options.workers), indent=1))


if __name__ == "__main__":
    main()
