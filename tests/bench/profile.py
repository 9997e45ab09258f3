"""The section `profile`: CPU time under load by process, and samples of the replicas by library.

Each load runs without the sampler for the CPU figures, then once with py-spy, which samples the
replicas a hundred times a second. A sample counts for the library of the innermost Python function
of the thread that holds the GIL. Code that runs without the GIL (gRPC's threads, matrix products)
is in the CPU by process only.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from app.core.settings import PROJECT_DIR
from tests.bench import meter
from tests.bench.compare import Bench, LoadClient, Point
from tests.bench.systems import OURS, Running, running

CONCURRENCIES = (1, 32, 128)
SETTLE_S = 1.5
"""Time from the start of a load until it is steady."""
LEAST_SHARE = 0.005
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^()]*?)(?::\d+)?\)$")


def measure(bench: Bench) -> dict[str, object]:
    """Run each load without and with the sampler.

    Returns:
        `cpu`: by load, median CPU milliseconds a request by process, with `load` (the load
            generator) and `postgres`; `idle`: CPU seconds a second by process without requests;
            `samples`: by load and replica, the share of samples by library.
    """
    cpu: dict[str, dict[str, float]] = {}
    samples: dict[str, dict[str, dict[str, float]]] = {}
    with running(OURS, bench.dsn, bench.fresh_directory("profile"), bench.peers_python) as system:
        client = LoadClient(bench, system, bench.fleet.pairs(seed=11))
        for concurrency in CONCURRENCIES:
            client.run(Point(concurrency), min(3.0, bench.seconds))
        idle = _idle(system, bench.seconds)
        for concurrency in CONCURRENCIES:
            point = Point(concurrency)
            rows = [client.run(point, bench.seconds) for _ in range(bench.rounds)]
            by_round = [
                row.cpu_ms_of | {"load": row.load_cpu_ms, "postgres": row.postgres_cpu_ms}
                for row in rows
            ]
            names = {name for round_ in by_round for name in round_}
            cpu[point.label] = {
                name: statistics.median(round_.get(name, 0.0) for round_ in by_round)
                for name in names
            }
            samples[point.label] = _sampled(client, system, point, bench.seconds)
    for label, by_process in cpu.items():
        largest = sorted(by_process.items(), key=lambda item: -item[1])[:6]
        print(
            f"profile {label}: " + "  ".join(f"{name} {spent:.2f} ms" for name, spent in largest),
            flush=True,
        )
    return {"cpu": cpu, "idle": idle, "samples": samples}


def _idle(system: Running, seconds: float) -> dict[str, float]:
    before, began = meter.cpu_of_each(system.processes()), time.perf_counter()
    time.sleep(seconds)
    took_s = time.perf_counter() - began
    return {name: spent / took_s for name, spent in meter.spent_since(before).items()}


def _sampled(
    client: LoadClient, system: Running, point: Point, seconds: float
) -> dict[str, dict[str, float]]:
    replicas = [item for item in system.processes() if _is_replica(item)]
    with tempfile.TemporaryDirectory() as directory:
        spies = [_spy(item, Path(directory), seconds) for item in replicas]
        try:
            client.run(point, seconds + 2 * SETTLE_S)
            failed = [spy.args for spy in spies if spy.wait(timeout=60)]
        finally:
            for spy in spies:
                spy.kill()
        if failed:
            raise RuntimeError(
                "expected samples of the replicas by py-spy, found that it failed: "
                f"run {failed[0]} to see why"
            )
        found: dict[str, dict[str, float]] = {}
        for item in replicas:
            path = Path(directory) / str(item.pid)
            shares = libraries(path.read_text().splitlines()) if path.exists() else {}
            if shares:
                found[f"{meter.name_of(item)} ({item.pid})"] = shares
    return found


def _is_replica(process: psutil.Process) -> bool:
    try:
        return any(name in meter.name_of(process) for name in ("Ingress", "GraphBuilder", "Model"))
    except psutil.Error:
        return False


def _spy(process: psutil.Process, directory: Path, seconds: float) -> "subprocess.Popen[bytes]":
    spy = Path(sys.executable).with_name("py-spy")
    return subprocess.Popen(
        [
            *("sh", "-c", f'sleep {SETTLE_S}; exec "$@"', "sh"),
            *(
                str(spy),
                "record",
                "--pid",
                str(process.pid),
                "--duration",
                str(round(seconds)),
                "--rate",
                "100",
            ),
            *(
                "--gil",
                "--format",
                "raw",
                "--full-filenames",
                "--output",
                str(directory / str(process.pid)),
            ),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def libraries(stacks: Sequence[str]) -> dict[str, float]:
    """Return the share of samples by library of the innermost function, the largest first.

    Libraries with less than `LEAST_SHARE` are summed as `other`.

    Args:
        stacks: lines of py-spy's raw format, `outer (file:line);...;inner (file:line) count`.
    """
    counts: Counter[str] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        counts[library_of(stack.rsplit(";", 1)[-1])] += int(count)
    total = counts.total()
    shares = {
        name: count / total for name, count in counts.most_common() if count / total >= LEAST_SHARE
    }
    return shares | (
        {"other": 1.0 - sum(shares.values())} if shares and sum(shares.values()) < 1.0 else {}
    )


def library_of(frame: str) -> str:
    """Return the library of a frame such as `read (/project/app/store/pool.py:12)`.

    It is a module of this project, an installed package, `asyncio` or `python`.
    """
    match = _FRAME.match(frame)
    if match is None:
        return "python"
    file = match["file"]
    if "site-packages/" in file:
        parts = file.split("site-packages/", 1)[1].split("/")
        return (
            ".".join(parts[:2])
            if parts[0] == "ray" and len(parts) > 2
            else parts[0].removesuffix(".py")
        )
    if file.startswith(f"{PROJECT_DIR}/"):
        return ".".join(Path(file).relative_to(PROJECT_DIR).with_suffix("").parts[:3])
    if "asyncio" in file or "selectors" in file:
        return "asyncio"
    return "python"
