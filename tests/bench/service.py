"""Sections that measure the service alone, without peers.

`cold_start`, `cache`, `memory`, `scale` and `observability` of `make bench`: the time to the first
diagnosis, the gain of the response cache, memory growth, cost by the number and the size of
machines, and the cost of metrics, access lines and spans.
"""

import re
import statistics
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import numpy as np

from tests.bench import meter
from tests.bench.compare import Bench, LoadClient, Point
from tests.bench.database import Fleet, prepare
from tests.bench.systems import OURS, PLAIN, TRACED, Running, metrics_of, running
from tests.collector import collecting

CONCURRENCY = 32

_MARKS = {
    "ray up": r"Started a local Ray instance|Connected to Ray cluster",
    "controller": r"ServeController|Started Serve in namespace|Deploying app",
    "first replica starts": r"Starting Replica|Adding \d+ replicas? to",
    "model ready": r"model ready",
    "application ready": r"is ready at|Deployed app",
}
"""Stages of a start and the log lines that mark them."""
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)[,.](\d{3})")

CACHED_WINDOWS = 20
"""Few: a cached diagnosis expires with the second of the machine's grid in which it was made."""

MEMORY_READINGS = 10
DIAGNOSES_PER_LOAD_SECOND = 2_500
"""Diagnoses of the section `memory` per second of `Bench.seconds`; 20,000 with the default of 8."""

FEW = Fleet("fleet_few", machines=10, cycles=240)
MANY = Fleet("fleet_many", machines=10_000, cycles=1)
SIZES = Fleet("fleet_sizes", machines=1, cycles=60, synthetic=(20, 200))
RATE = 50.0


def cold_start(bench: Bench) -> dict[str, object]:
    """Start the service once in each round.

    Returns:
        `rows`: seconds from the start to each mark, to `/health/ready` and to the first diagnosis.
            A mark that is not in the log is left out.
    """
    rows = []
    for number in range(bench.rounds):
        with running(OURS, bench.dsn, bench.fresh_directory("start"), bench.peers_python) as system:
            LoadClient(bench, system, bench.fleet.pairs(number)).first_diagnosis()
            first_s = time.time() - system.started_at
            rows.append({**_marks(system), "ready": system.ready_s, "first diagnosis": first_s})
        print(
            "cold start: " + ", ".join(f"{name} {value:.1f} s" for name, value in rows[-1].items()),
            flush=True,
        )
    return {"rows": rows}


def _marks(system: Running) -> dict[str, float]:
    """Return seconds from the start to the first log line of each mark."""
    found: dict[str, float] = {}
    for line in Path(system.directory / "log").read_text(errors="replace").splitlines():
        stamp = _TIME.search(line)
        if stamp is None:
            continue
        # Ray's lines are in local time, the service's in UTC
        written = datetime.fromisoformat(
            f"{stamp[1]}T{stamp[2]}.{stamp[3]}" + ("+00:00" if line.startswith("{") else "")
        )
        for name, pattern in _MARKS.items():
            if name not in found and re.search(pattern, line):
                found[name] = written.timestamp() - system.started_at
    return dict(sorted(found.items(), key=lambda item: item[1]))


def cache(bench: Bench) -> dict[str, object]:
    """Request new windows, then a few windows repeatedly, at the same concurrency.

    Returns:
        `new` and `repeated`: a measurement each; `counters`: increase of the service's cache
            counters during the repeated load.
    """
    with running(OURS, bench.dsn, bench.fresh_directory("cache"), bench.peers_python) as system:
        client = LoadClient(bench, system, bench.fleet.pairs(seed=5))
        new = client.run(Point(CONCURRENCY), bench.seconds)
        few = LoadClient(bench, system, bench.fleet.pairs(seed=5)[-CACHED_WINDOWS:])
        few.run(Point(CONCURRENCY), bench.seconds, count=CACHED_WINDOWS)
        before = metrics_of(system)
        repeated = few.run(Point(CONCURRENCY), bench.seconds, repeat=True)
        after = metrics_of(system)
    counters = {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if "cache_total" in name
    }
    print(f"cache: {new.throughput:.0f}/s new, {repeated.throughput:.0f}/s repeated; {counters}")
    return {"new": asdict(new), "repeated": asdict(repeated), "counters": counters}


def memory(bench: Bench) -> dict[str, object]:
    """Run loads at concurrency 32 and read the service's memory after each.

    Returns:
        `rows`: diagnoses so far and MB of all processes; `slope_bytes`: bytes a diagnosis, of the
            least-squares line through all readings but the first, which includes the warm-up;
            `processes`: memory at the end.
    """
    wanted = int(bench.seconds * DIAGNOSES_PER_LOAD_SECOND)
    rows: list[dict[str, float]] = []
    with running(OURS, bench.dsn, bench.fresh_directory("memory"), bench.peers_python) as system:
        client = LoadClient(bench, system, bench.fleet.pairs(seed=7))
        done, errors = 0, 0
        for _ in range(MEMORY_READINGS + 1):
            result = client.run(Point(CONCURRENCY), seconds=300.0, count=wanted // MEMORY_READINGS)
            done += result.sent
            errors += sum(result.errors.values())
            pss_mb = sum(item.pss_mb for item in meter.memory_of(system.processes()))
            rows.append({"diagnoses": done, "pss_mb": pss_mb, "errors": errors})
            print(f"memory: {done:7d} diagnoses  {pss_mb:.0f} MB", flush=True)
        processes = [asdict(item) for item in meter.memory_of(system.processes())]
    diagnoses = [row["diagnoses"] for row in rows[1:]]
    slope = np.polyfit(diagnoses, [row["pss_mb"] for row in rows[1:]], 1)[0] * 1e6
    return {"rows": rows, "slope_bytes": float(slope), "processes": processes}


def scale(bench: Bench) -> dict[str, object]:
    """Compare few with many machines in the store, then a small with a large machine.

    Returns:
        `machines`: a measurement for each number of machines and round; `components`: one for each
            size of a machine and round.
    """
    by_machines, by_components = [], []
    for _ in range(bench.rounds):
        for fleet in (FEW, MANY):
            dsn = prepare(bench.server_dsn, fleet)
            with running(OURS, dsn, bench.fresh_directory("scale"), bench.peers_python) as system:
                client = LoadClient(bench, system, fleet.pairs(seed=1))
                client.run(Point(8), min(3.0, bench.seconds))
                row = client.run(Point(rate=RATE), bench.seconds)
            by_machines.append({"machines": fleet.machines, **asdict(row)})
            print(
                f"scale: {fleet.machines} machines  p50 {row.p50:.1f}  p95 {row.p95:.1f} ms",
                flush=True,
            )
    dsn = prepare(bench.server_dsn, SIZES)
    with running(OURS, dsn, bench.fresh_directory("scale"), bench.peers_python) as system:
        clients = {
            size: LoadClient(bench, system, SIZES.pairs_of_plant(size, seed=1))
            for size in SIZES.synthetic
        }
        for number in range(bench.rounds + 1):
            for size, client in clients.items():
                row = client.run(Point(4), bench.seconds / 2)
                if number:  # round 0 is the warm-up
                    by_components.append({"components": size, **asdict(row)})
                    print(
                        f"scale: {size} components  {row.throughput:.1f}/s  "
                        f"cpu {row.cpu_ms:.2f} ms",
                        flush=True,
                    )
    return {"machines": by_machines, "components": by_components}


def observability(bench: Bench) -> dict[str, object]:
    """Compare the service with a variant without metrics and access lines, and with one with spans.

    All are restarted in each round. Spans are those of one request in a hundred; a collector in
    this process receives and parses them. Ray's own metrics are off by default and not measured;
    `RAY_enable_metrics_collection=1` turns them on.

    Returns:
        `rows`: the measurements; `ratio` and `cpu_ratio`: median throughput and CPU a request of
            the service over those of the variant without metrics; `traced_ratio` and
            `traced_cpu_ratio`: likewise with spans; `spans`: number received.
    """
    rows = []
    with collecting() as collector:
        for number in range(bench.rounds):
            for name in (PLAIN, OURS, TRACED) if number % 2 == 0 else (TRACED, OURS, PLAIN):
                variables = (
                    {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint} if name == TRACED else {}
                )
                with running(
                    name, bench.dsn, bench.fresh_directory(name), bench.peers_python, **variables
                ) as system:
                    client = LoadClient(bench, system, bench.fleet.pairs(seed=100 + number))
                    client.run(Point(CONCURRENCY), 2.0)
                    row = client.run(Point(CONCURRENCY), bench.seconds)
                rows.append({"system": name} | asdict(row))

    def over_plain(name: str, figure: str) -> float:
        measured, baseline = (
            statistics.median(row[figure] for row in rows if row["system"] == each)
            for each in (name, PLAIN)
        )
        return measured / baseline

    found = {
        "ratio": over_plain(OURS, "throughput"),
        "cpu_ratio": over_plain(OURS, "cpu_ms"),
        "traced_ratio": over_plain(TRACED, "throughput"),
        "traced_cpu_ratio": over_plain(TRACED, "cpu_ms"),
        "spans": len(collector.spans),
    }
    print("observability:", ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return {"rows": rows} | found
