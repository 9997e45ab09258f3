"""Offline scoring of a fleet beside the network alone: `python -m tests.bench.fleet_cli`.

The command `hydraulic fleet score` scores machines of the rig's topology, each with one
measured cycle as its window, in a database created for the run. The network alone, as serving runs
it, scores prepared graphs of measured windows in batches of the same size, before and after the
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
from tests.bench.database import Fleet, prepare
from tests.rig import rig_block

CHECKPOINT = PROJECT_DIR / "app" / "weights" / "1"


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


def score(dsn: str, fleet: Fleet, batch: int, workers: int | None) -> dict[str, Any]:
    """Run the command on every machine and return its summary, with its whole run time."""
    command = [
        *(sys.executable, "-m", "app.cli.main", "fleet", "score", "--json", "--run", "bench"),
        *("--at", fleet.cycle_ends()[0].isoformat(), "--batch", str(batch)),
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
        fleet = Fleet("bench_fleet", machines, cycles=1, has_all_readings=False)
        dsn = prepare(ensure_embedded(Path(parent) / "postgres", grace_s=0.0), fleet)
        alone = {count: [network_alone(batch, count, raw_s)] for count in sorted({1, threads})}
        summary = score(dsn, fleet, batch, workers)
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
    session = await asyncpg.connect(dsn, server_settings={"hydraulic.tenant": "*"})
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
