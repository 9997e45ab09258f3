"""Measures the service beside its peers: `make bench`.

Writes `var/bench/<time>.json` with all figures, `var/bench/summary.md` with the tables, and plots.
All systems use the same checkpoint, features, database and machine, and every figure is of one run.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from app.core.settings import Settings
from app.store.embedded.server import ensure_embedded, release_embedded
from tests.bench import (
    fleet,
    fresh_machines,
    overload,
    profile,
    releases,
    rig_transfer,
    sensors,
    service,
    shadow,
    simulation,
    store_read,
    stream,
    train,
    trend,
    verdict,
)
from tests.bench.compare import Bench, Point, compare
from tests.bench.comparison_report import plot_comparison
from tests.bench.database import Fleet, prepare
from tests.bench.peers.environment import peers_environment
from tests.bench.report import summary
from tests.bench.systems import OURS, PEERS

SECTIONS: dict[str, Callable[[Bench], dict[str, object]]] = {
    "compare": compare,
    "profile": profile.measure,
    "cold_start": service.cold_start,
    "fleet": fleet.measure,
    "cache": service.cache,
    "memory": service.memory,
    "scale": service.scale,
    "observability": service.observability,
    "overload": overload.measure,
    "shadow": shadow.measure,
    "stream": stream.measure,
    "store_read": store_read.measure_read,
    "train": train.measure,
    "verdict": verdict.measure,
    "releases": releases.measure,
    "simulation": simulation.measure,
    "sensors": sensors.measure,
    "fresh_machines": fresh_machines.measure,
    "trend": trend.measure,
    "rig": rig_transfer.measure_rig,
}


def facts() -> dict[str, object]:
    """Return the machine, its load before the run, and the command."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "cpu": model,
        "load_before": list(os.getloadavg()),
        "python": platform.python_version(),
        "command": " ".join(["python -m tests.bench", *sys.argv[1:]]),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="measure the service beside its peers"
    )
    parser.add_argument("--systems", nargs="+", default=[OURS, *PEERS], choices=[OURS, *PEERS])
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 8, 32, 128])
    parser.add_argument(
        "--rate", type=float, nargs="*", default=[50.0], help="requests a second of open loops"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--machines", type=int, default=200)
    parser.add_argument("--cycles", type=int, default=60)
    return parser


def main() -> None:
    """Run the sections and write their results."""
    given = _parser().parse_args()

    output = Settings().var_dir / "bench"
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    directory = output / "runs" / stamp
    directory.mkdir(parents=True)
    found: dict[str, object] = {"facts": facts()}
    postgres = (output / "postgres").resolve()
    dsn = ensure_embedded(postgres, grace_s=0.0)
    try:
        machines = Fleet("fleet", given.machines, given.cycles)
        began = time.monotonic()
        bench = Bench(
            directory=directory,
            server_dsn=dsn,
            dsn=prepare(dsn, machines),
            fleet=machines,
            postgres=postgres,
            peers_python=peers_environment(output),
            points=(
                *(Point(number) for number in given.concurrency),
                *(Point(rate=rate) for rate in given.rate),
            ),
            seconds=given.seconds,
            rounds=given.rounds,
            systems=tuple(given.systems),
        )
        print(
            f"{given.machines} machines with {given.cycles} cycles each: "
            f"ready in {time.monotonic() - began:.0f} s"
        )
        for name in given.sections:
            print(f"== {name}", flush=True)
            found[name] = SECTIONS[name](bench)
            (output / f"{stamp}.json").write_text(json.dumps(found, indent=1) + "\n")
    finally:
        release_embedded(postgres)
    shutil.rmtree(directory)
    text = summary(found)
    (output / "summary.md").write_text(text)
    if "compare" in found:
        plot_comparison(found["compare"], output)
    print(text)


if __name__ == "__main__":
    main()
