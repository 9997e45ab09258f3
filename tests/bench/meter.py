"""CPU time and memory of groups of processes.

CPU time is the difference between two readings of the kernel's counters. It includes child
processes that ended meanwhile, if their parents waited for them.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Memory:
    """Memory of one process in MB: proportional set size (PSS) and unique set size (USS)."""

    name: str
    pss_mb: float
    uss_mb: float


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU seconds used by processes and their ended children since they started."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def cpu_of_each(processes: Sequence[psutil.Process]) -> dict[psutil.Process, float]:
    """Return the CPU seconds of each process since it started."""
    return {process: cpu_s([process]) for process in processes}


def spent_since(before: Mapping[psutil.Process, float]) -> dict[str, float]:
    """Return the CPU seconds used since a reading, by process name.

    Replicas of one deployment have one name and are summed.
    """
    found: dict[str, float] = {}
    for process, earlier_s in before.items():
        with contextlib.suppress(psutil.Error):
            name = name_of(process)
            found[name] = found.get(name, 0.0) + cpu_s([process]) - earlier_s
    return found


def memory_of(processes: Sequence[psutil.Process]) -> list[Memory]:
    """Return the memory of each process, the largest first."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            full = process.memory_full_info()
            found.append(Memory(name_of(process), full.pss / 1e6, full.uss / 1e6))
    return sorted(found, key=lambda item: -item.pss_mb)


def name_of(process: psutil.Process) -> str:
    """Return the name of a process: its deployment, its Python module or its program."""
    command = process.cmdline() or [process.name()]
    joined = " ".join(command)
    replica = re.search(r"ray::(?:ServeReplica:)?([\w:.-]+)", joined)
    if replica:
        return replica[1].split(".")[0].rstrip(":")  # after the dot: the current call
    module = re.search(r"-m ([\w.]+)", joined)
    if module:
        return module[1]
    for known in (
        "gcs_server",
        "raylet",
        "haproxy",
        "dashboard",
        "runtime_env",
        "log_monitor",
        "postgres",
    ):
        if known in joined:
            return known
    return command[0].rsplit("/", 1)[-1][:40]
