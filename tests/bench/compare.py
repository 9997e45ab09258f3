"""The section `compare`: every system under the same loads, in turn, for several rounds.

A started system gets each (machine, time) pair once, until all pairs were sent; repeats are
counted.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from tests.bench import meter
from tests.bench.database import Fleet, write_bodies
from tests.bench.peers.common import ROUTE
from tests.bench.systems import OURS, Running, metrics_of, request_diagnosis, running
from tests.system import PROJECT_DIR, processes_of

WARM_UP_CONCURRENCY = 16


@dataclass(frozen=True)
class Point:
    """A load level: the connections of a closed loop or the rate of an open loop."""

    concurrency: int | None = None
    rate: float | None = None

    @property
    def label(self) -> str:
        """Name in tables and JSON."""
        return f"c{self.concurrency}" if self.concurrency is not None else f"{self.rate:g}/s"


@dataclass(frozen=True)
class Bench:
    """Settings of a run that all sections share.

    Args:
        directory: of this run's files.
        server_dsn: of the server's first database.
        dsn: of the fleet's database.
        fleet: its machines.
        postgres: resolved directory of the server, to find its processes.
        peers_python: interpreter of the peers' environment.
        points: load levels of the comparison.
        seconds: duration of each load.
        rounds: of every section.
        systems: names, in the order in which they take turns.
    """

    directory: Path
    server_dsn: str
    dsn: str
    fleet: Fleet
    postgres: Path
    peers_python: Path
    points: tuple[Point, ...]
    seconds: float
    rounds: int
    systems: tuple[str, ...]

    def fresh_directory(self, name: str) -> Path:
        """Return the path of a new directory for one start of a system."""
        return self.directory / f"{name}-{len(list(self.directory.glob(f'{name}-*')))}"


@dataclass
class Measurement:
    """One load on one system in one round; times in ms.

    `refused` counts refusals that say when to try again. `cpu_ms` is CPU time of the system per
    answered request, and `cpu_ms_of` the same by process name.
    """

    system: str
    point: str
    round: int
    seconds: float
    throughput: float
    p50: float
    p95: float
    p99: float
    sent: int
    errors: dict[str, int]
    cpu_ms: float
    cpu_ms_of: dict[str, float]
    postgres_cpu_ms: float
    load_cpu_ms: float
    late_ms: float
    batch_sizes: dict[int, int]
    mean_batch: float | None
    repeats: int
    refused: int = 0
    refused_p95: float = 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the quantile of some values at a share in [0, 1], NaN if there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class LoadClient:
    """Runs loads against one started system and measures it.

    Args:
        bench: the run.
        system: started.
        pairs: machine and time of each request, in order.
    """

    def __init__(
        self, bench: Bench, system: Running, pairs: Sequence[tuple[str, datetime]]
    ) -> None:
        self._bench = bench
        self._system = system
        self._pairs = pairs
        number = len(list(system.directory.glob("*.bodies")))
        self._bodies = write_bodies(
            system.directory / f"{number}.bodies", pairs, as_list=system.as_list
        )
        self._sent = 0

    def first_diagnosis(self) -> bytes:
        """Request the diagnosis of the last pair and return the response body."""
        body = json.loads(self._bodies.read_text().splitlines()[-1])
        return request_diagnosis(self._system, body[0] if isinstance(body, list) else body)

    def run(
        self,
        point: Point,
        seconds: float,
        round_number: int = 0,
        count: int | None = None,
        *,
        repeat: bool = False,
    ) -> Measurement:
        """Run one load and return its measurement.

        Args:
            point: load level.
            seconds: duration.
            round_number: stored in the measurement.
            count: number of requests after which the load ends early.
            repeat: start with the first pair again; such repeats are not counted.
        """
        first = 0 if repeat else self._sent
        plan = {
            "host": "127.0.0.1",
            "port": self._system.port,
            "path": ROUTE,
            "headers": self._system.headers,
            "bodies": str(self._bodies),
            "first": first,
            "seconds": seconds,
            "concurrency": point.concurrency,
            "rate": point.rate,
            "count": count,
        }
        processes, postgres = self._system.processes(), processes_of(self._bench.postgres)
        before = metrics_of(self._system) if self._system.name == OURS else {}
        self._system.batch_sizes()
        environment = os.environ | {"PYTHONPATH": str(PROJECT_DIR)}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.bench.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT_DIR,
            env=environment,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(plan))
            process.stdin.close()
            _expect(process.stdout.readline(), "begin")
            before_s, postgres_s = meter.cpu_of_each(processes), meter.cpu_s(postgres)
            _expect(process.stdout.readline(), "end")
            cpu_s, postgres_s = meter.spent_since(before_s), meter.cpu_s(postgres) - postgres_s
            result = json.loads(process.stdout.readline())
        self._sent += result["sent"]
        latencies, done = result["latencies_ms"], max(1, result["in_time"])
        sizes, mean_batch = self._system.batch_sizes(), None
        if self._system.name == OURS:
            sizes, mean_batch = batches_between(before, metrics_of(self._system))
        elif sizes:
            mean_batch = sum(size * number for size, number in sizes.items()) / sum(sizes.values())
        return Measurement(
            system=self._system.name,
            point=point.label,
            round=round_number,
            seconds=seconds,
            throughput=result["throughput"],
            p50=percentile(latencies, 0.5),
            p95=percentile(latencies, 0.95),
            p99=percentile(latencies, 0.99),
            sent=result["sent"],
            errors=result["errors"],
            cpu_ms=1000.0 * sum(cpu_s.values()) / done,
            cpu_ms_of={name: 1000.0 * spent / done for name, spent in cpu_s.items()},
            postgres_cpu_ms=1000.0 * postgres_s / done,
            load_cpu_ms=result["cpu_ms"] / done,
            late_ms=result["late_ms"],
            batch_sizes=dict(sorted(sizes.items())),
            mean_batch=mean_batch,
            refused=len(result["refused_ms"]),
            refused_p95=percentile(result["refused_ms"], 0.95) if result["refused_ms"] else 0.0,
            repeats=0
            if repeat
            else max(0, min(result["sent"], first + result["sent"] - len(self._pairs))),
        )


def batches_between(
    before: dict[str, float], after: dict[str, float]
) -> tuple[Counter[int], float | None]:
    """Return the service's batches between two readings of its metrics.

    Returns:
        Number of batches by the upper bound of their histogram bucket, and their mean size.
    """
    name = "hydraulic_diagnosis_batch_windows"
    increase = {
        key: value - before.get(key, 0.0) for key, value in after.items() if key.startswith(name)
    }
    sizes: Counter[int] = Counter()
    below = 0.0
    for key, value in increase.items():  # Prometheus writes buckets in ascending order
        bound = key.removeprefix(f'{name}_bucket{{le="').removesuffix('"}')
        if bound not in (key, "+Inf"):
            sizes[int(float(bound))] += round(value - below)
            below = value
    batches = increase.get(f"{name}_count", 0.0)
    return +sizes, increase[f"{name}_sum"] / batches if batches else None


def _expect(line: str, word: str) -> None:
    if line.strip() != word:
        raise RuntimeError(
            f"expected '{word}' from the load generator, found '{line.strip()}': "
            "read its error above"
        )


def compare(bench: Bench) -> dict[str, object]:
    """Run all rounds.

    Returns:
        `measured`: a row for each load; `raw`: rows of the network alone; `starts`: seconds until
            ready, and memory at the end.
    """
    measured: list[Measurement] = []
    raw: list[dict[str, float]] = []
    starts: list[dict[str, object]] = []
    for round_number in range(bench.rounds):
        raw += measure_raw_model(bench, round_number)
        for name in bench.systems:
            directory = bench.fresh_directory(name)
            with running(name, bench.dsn, directory, bench.peers_python) as system:
                client = LoadClient(bench, system, bench.fleet.pairs(round_number))
                client.first_diagnosis()
                client.run(Point(WARM_UP_CONCURRENCY), min(3.0, bench.seconds))
                for point in bench.points:
                    row = client.run(point, bench.seconds, round_number)
                    measured.append(row)
                    print(
                        f"round {round_number} {name:15} {row.point:>5} {row.throughput:8.1f}/s  "
                        f"p50 {row.p50:7.1f}  p95 {row.p95:7.1f}  p99 {row.p99:7.1f} ms  "
                        f"cpu {row.cpu_ms:6.2f} ms  errors {sum(row.errors.values())}",
                        flush=True,
                    )
                memory = [asdict(item) for item in meter.memory_of(system.processes())]
                starts.append(
                    {
                        "system": name,
                        "round": round_number,
                        "ready_s": system.ready_s,
                        "memory": memory,
                    }
                )
            if name != OURS:
                shutil.rmtree(directory)
    return {"measured": [asdict(row) for row in measured], "raw": raw, "starts": starts}


def measure_raw_model(bench: Bench, round_number: int) -> list[dict[str, float]]:
    """Measure the network without serving, in its own process."""
    bodies = write_bodies(bench.directory / "raw.bodies", bench.fleet.pairs(round_number))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.bench.peers.raw_model", "--dsn", bench.dsn),
            *("--bodies", str(bodies), "--seconds", str(min(1.0, bench.seconds / 4))),
        ],
        cwd=PROJECT_DIR,
        env=os.environ | {"PYTHONPATH": str(PROJECT_DIR)},
        check=True,
        stdout=subprocess.PIPE,
    )
    rows: list[dict[str, float]] = json.loads(done.stdout)
    best = max(rows, key=lambda row: row["graphs_a_second"])
    print(
        f"round {round_number} raw network   {best['graphs_a_second']:8.1f} graphs/s at {best}",
        flush=True,
    )
    return [{**row, "round": round_number} for row in rows]
