"""A long run under load with a fault now and then: `python -m tests.chaos.soak`, `make soak`.

It samples every process of the system: memory, open files, connections, and the sessions of the
database. A slope is a least-squares line through the samples of one process after its first
minute; of a process that a fault replaced, each life is a line of its own. The report is written
to `docs/reference/measured/soak.json`.
"""

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import tests.chaos.faults  # noqa: F401 - registers the faults
from tests.chaos.harness import (
    FAULTS,
    MOST_ERRORS,
    RECOVERY_S,
    STORED_S,
    Arena,
    arena,
    lost_readings,
)
from tests.chaos.load import Load, loading
from tests.system import PROJECT_DIR

OUT = PROJECT_DIR / "docs/reference/measured/soak.json"
ROUND = (
    "kill_model",
    "reset_connections",
    "kill_builder",
    "freeze_database_shortly",
    "kill_haproxy",
    "kill_backend",
    "kill_ingress",
    "restart_database",
)
"""The faults that follow each other; each heals by itself."""
SAMPLE_S = 5.0
WARM_UP_S = 60.0
"""Of a process, before its samples count: it loads what it needs."""
SHORTEST_S = 120.0
"""A shorter life of a process has no slope."""


@dataclass
class Life:
    """The samples of one process."""

    kind: str
    times: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)

    def settled(self) -> "Life | None":
        """Return the samples after the warm-up, if they are of long enough."""
        since = self.times[0] + WARM_UP_S
        first = next((at for at, when in enumerate(self.times) if when >= since), len(self.times))
        if first >= len(self.times) or self.times[-1] - self.times[first] < SHORTEST_S:
            return None
        parts = (self.times, self.rss_mb, self.files, self.connections)
        times, rss, files, connections = (part[first:] for part in parts)
        return Life(self.kind, times, rss, files, connections)


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of a least-squares line, in units an hour."""
    return float(np.polyfit(np.asarray(times) / 3600, np.asarray(values, dtype=float), 1)[0])


class Sampler:
    """Samples all processes of an arena."""

    def __init__(self, current: Arena) -> None:
        self._arena = current
        self.lives: dict[tuple[int, float], Life] = {}
        self.sessions: list[int] = []

    def sample(self) -> None:
        """Take one sample of each process."""
        now = time.monotonic()
        for process in self._arena.system.processes():
            with contextlib.suppress(psutil.Error, OSError):
                life = self.lives.setdefault(
                    (process.pid, process.create_time()), Life(_kind_of(process))
                )
                rss, files = process.memory_info().rss / 2**20, process.num_fds()
                connections = len(process.net_connections("tcp"))
                life.times.append(now)
                life.rss_mb.append(rss)
                life.files.append(files)
                life.connections.append(connections)
        with contextlib.suppress(AssertionError):
            text = self._arena.database.sql("select count(*) from pg_stat_activity")
            self.sessions.append(int(text))

    def report(self) -> list[dict[str, Any]]:
        """Return for each kind of process its worst slopes, and its largest figures."""
        settled: dict[str, list[Life]] = {}
        for life in self.lives.values():
            if (rest := life.settled()) is not None:
                settled.setdefault(rest.kind, []).append(rest)
        return [
            {
                "process": kind,
                "lives": len(lives),
                "seconds": round(sum(each.times[-1] - each.times[0] for each in lives)),
                "rss_mb": round(max(max(each.rss_mb) for each in lives)),
                "rss_mb_per_h": round(max(slope(each.times, each.rss_mb) for each in lives), 1),
                "files": max(max(each.files) for each in lives),
                "files_per_h": round(max(slope(each.times, each.files) for each in lives), 1),
                "connections": max(max(each.connections) for each in lives),
                "connections_per_h": round(
                    max(slope(each.times, each.connections) for each in lives), 1
                ),
            }
            for kind, lives in sorted(settled.items())
        ]


def _kind_of(process: psutil.Process) -> str:
    line = process.cmdline()
    title = line[0] if line else process.name()
    if title.startswith("ray::"):
        return re.sub(r"[.(].*", "", title.removeprefix("ray::"))
    scripts = [Path(part).name for part in line[:3] if not part.startswith("-")]
    return " ".join(scripts)[:40]


def soak(minutes: float, period_s: float) -> dict[str, Any]:
    """Run for so long with a fault each period; return the report."""
    faults: list[dict[str, Any]] = []
    with arena() as current:
        sampler = Sampler(current)
        with loading(current.system.url, current.system.key) as load:
            current.load = load
            began = time.monotonic()
            while time.monotonic() < began + minutes * 60:
                _sample_for(sampler, period_s, began + minutes * 60)
                if time.monotonic() >= began + minutes * 60:
                    break
                name = ROUND[len(faults) % len(ROUND)]
                at = time.monotonic()
                evidence = FAULTS[name].make(current)
                faults.append({"name": name, "at": at, "end": time.monotonic(), "how": evidence})
        give_up = time.monotonic() + STORED_S
        while (
            lost := lost_readings(current.database, current.load)
        ) and time.monotonic() < give_up:
            time.sleep(1)
        return _report(load, faults, sampler, lost) | {"minutes": minutes, "period_s": period_s}


def _sample_for(sampler: Sampler, seconds: float, end: float) -> None:
    until = min(time.monotonic() + seconds, end)
    while time.monotonic() < until:
        sampler.sample()
        time.sleep(min(SAMPLE_S, max(0.0, until - time.monotonic())))


def _report(
    load: Load, faults: list[dict[str, Any]], sampler: Sampler, lost: int
) -> dict[str, Any]:
    outside = [
        each
        for each in load.answers
        if not any(
            each.answered > fault["at"] and each.sent < fault["end"] + RECOVERY_S
            for fault in faults
        )
    ]
    recoveries = []
    for fault in faults:
        failed = [
            each.answered
            for each in load.answers
            if not each.ok and fault["at"] < each.answered < fault["end"] + 3 * RECOVERY_S
        ]
        recoveries.append(round(max(0.0, max(failed, default=fault["end"]) - fault["end"]), 1))
    failed_outside = sum(not each.ok for each in outside)
    return {
        "requests": len(load.answers),
        "failed": sum(not each.ok for each in load.answers),
        "outside": len(outside),
        "failed_outside": failed_outside,
        "acknowledged": sum(map(len, load.acknowledged.values())),
        "lost": lost,
        "faults": [
            {"name": fault["name"], "how": fault["how"], "recovery_s": recovery}
            for fault, recovery in zip(faults, recoveries, strict=True)
        ],
        "database_sessions": max(sampler.sessions, default=0),
        "load_average": round(os.getloadavg()[0], 1),
        "processes": sampler.report(),
        "held": not lost and failed_outside <= MOST_ERRORS * max(1, len(outside)),
    }


def main() -> None:
    """Parse the command line, run, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--period", type=float, default=120.0, help="seconds between faults")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    report = soak(options.minutes, options.period)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    sys.exit(0 if report["held"] else 1)


if __name__ == "__main__":
    main()
