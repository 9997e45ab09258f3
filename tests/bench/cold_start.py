"""How long `serve run` takes to its first diagnosis, and what passes on the way.

The marks are read from what the processes log: Ray's own lines and the service's JSON lines.
Invariant: a mark is the time of the first line that tells of it; one that nobody logged is left
out.
"""

import re
import time
from datetime import datetime
from pathlib import Path

from tests.bench.compare import Asker, Bench
from tests.bench.systems import OURS, Running, running

_MARKS = {
    "ray up": r"Started a local Ray instance|Connected to Ray cluster",
    "controller": r"ServeController|Started Serve in namespace|Deploying app",
    "first replica starts": r"Starting Replica|Adding \d+ replicas? to",
    "model ready": r"model ready",
    "application ready": r"is ready at|Deployed app",
}
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)[,.](\d{3})")


def measure(bench: Bench) -> dict[str, object]:
    """Start the service once for each round.

    Returns:
        `rows`: seconds from the start to each mark, to `/health/ready` and to the first diagnosis.
    """
    rows = []
    for number in range(bench.rounds):
        with running(OURS, bench.dsn, bench.fresh_directory("start"), bench.peers_python) as system:
            Asker(bench, system, bench.fleet.pairs(number)).first_diagnosis()
            first_s = time.time() - system.started_at
            rows.append({**marks(system), "ready": system.ready_s, "first diagnosis": first_s})
        print(
            "cold start: " + ", ".join(f"{name} {value:.1f} s" for name, value in rows[-1].items()),
            flush=True,
        )
    return {"rows": rows}


def marks(system: Running) -> dict[str, float]:
    """Return seconds from the start to each mark in the log."""
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
