"""Memory of a training by length of history: `python -m tests.bench.train_memory DIRECTORY`.

The history is the rig's windows repeated 1, 10 and 100 times, shifted in time, on disk. Each pass
runs in processes of its own: the streaming fit of the feature references, and one epoch of a small
network by Ray Train with windows streamed to two workers. A figure is the highest sample of that
pass. Private memory excludes memory shared by processes, such as Ray's object store, whose size is
fixed here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import ray

from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import GRADED_COMPONENTS, read_blocks
from app.features.binning import Floats
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.labels import WindowLabels, join_labels
from train.data.reference import fit_spec
from train.data.windows import Windows, open_windows, write_windows
from train.fitting.fit import run_fit

TIMES = (1, 10, 100)
PASSES = ("references", "epoch")
OBJECT_STORE_BYTES = 200_000_000
SAMPLE_S = 0.1
START_US = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
CYCLE_US = 60_000_000


def measure(
    directory: Path, times: tuple[int, ...] = TIMES, timeout_s: float = 3_000
) -> list[dict[str, object]]:
    """Measure every pass at every size.

    Args:
        directory: where windows are written, some 5 MB for each time.
        times: how often the rig's history is repeated.
        timeout_s: longest time of a pass.

    Returns:
        Rows of `times`, `windows`, `values_mb`, `pass`, `seconds` and `peaks`: the highest private
            and resident MB of any process of a kind: `driver`, `worker` (Ray Train), `task` (reads
            windows) and `other`.
    """
    rows: list[dict[str, object]] = []
    first = _rig(directory / "1")
    for count in times:
        windows = first if count == 1 else _repeated(first, directory / str(count), count)
        size = 4e-6 * len(windows) * len(windows.equipment.sensors) * windows.equipment.bins
        for name in PASSES:
            command = [
                sys.executable,
                "-m",
                "tests.bench.train_memory",
                "--one",
                name,
                str(windows.directory),
            ]
            started = time.monotonic()
            peaks = _sampled_peaks(command, timeout_s)
            rows.append(
                {
                    "times": count,
                    "windows": len(windows),
                    "values_mb": round(size),
                    "pass": name,
                    "seconds": round(time.monotonic() - started),
                    "peaks": peaks,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _rig(directory: Path) -> Windows:
    """Write the windows of the rig's shipped data, with one reading a second."""
    equipment = rig_equipment()
    places = {each.component_id: place for place, each in enumerate(equipment.components)}
    values: list[Floats] = []
    parts: list[WindowLabels] = []
    for block in read_blocks(open_archive(SHIPPED_ARCHIVE), 200):
        values.append(
            np.stack(
                [block.values_CR[name].astype(np.float32) for name in equipment.sensor_ids], axis=1
            )
        )
        C, V = len(block.cycle_index_C), len(equipment.components)
        grade_CV, health_CV = np.full((C, V), -1, np.int64), np.full((C, V), np.nan, np.float32)
        for column, name in enumerate(GRADED_COMPONENTS):
            grades = {
                grade.name: place
                for place, grade in enumerate(equipment.components[places[name]].grades)
            }
            grade_CV[:, places[name]] = [
                grades[str(grade)] for grade in block.grades_CG[:, column].tolist()
            ]
            healths = np.array(
                [grade.health for grade in equipment.components[places[name]].grades], np.float32
            )
            health_CV[:, places[name]] = healths[grade_CV[:, places[name]]]
        unknown_CV = np.full((C, V), np.nan, np.float32)
        parts.append(
            WindowLabels(
                machine_W=np.zeros(C, np.int64),
                start_us_W=START_US + block.cycle_index_C * CYCLE_US,
                grade_WV=grade_CV,
                health_WV=health_CV,
                rate_WV=unknown_CV,
                rul_WV=unknown_CV,
                stable_W=block.stable_C,
            )
        )
    return write_windows(
        directory, equipment, (equipment.equipment_id,), join_labels(parts), values
    )


def _repeated(first: Windows, directory: Path, count: int) -> Windows:
    """Write a history `count` times, each repetition after the previous one."""
    labels = first.labels
    span_us = int(labels.start_us_W[-1] - labels.start_us_W[0]) + CYCLE_US

    def values() -> Iterator[Floats]:
        for _ in range(count):
            for _, values_BSN in first.batches(np.arange(len(first))):
                yield values_BSN

    shifted = [
        replace(labels, start_us_W=labels.start_us_W + number * span_us) for number in range(count)
    ]
    return write_windows(directory, first.equipment, first.machines, join_labels(shifted), values())


def _sampled_peaks(command: list[str], timeout_s: float) -> dict[str, dict[str, float]]:
    """Run a pass and sample the memory of its processes, by kind."""
    peaks: dict[str, dict[str, float]] = {}
    environment = os.environ | {"RAY_TRAIN_V2_ENABLED": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        deadline = time.monotonic() + timeout_s
        while child.poll() is None:
            for process in _process_tree(child.pid):
                _sample(process, child.pid, peaks)
            if time.monotonic() > deadline:
                child.terminate()
            time.sleep(SAMPLE_S)
        if child.returncode != 0:
            output.seek(0)
            raise RuntimeError(
                f"expected the pass to succeed, found exit status {child.returncode}:\n"
                f"{output.read()[-3000:]}"
            )
    return peaks


def _process_tree(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _sample(process: psutil.Process, driver: int, peaks: dict[str, dict[str, float]]) -> None:
    try:
        memory = process.memory_info()
        title = " ".join(process.cmdline()[:1])
    except psutil.Error:
        return
    kind = "other"
    if process.pid == driver:
        kind = "driver"
    elif title.startswith(("ray::RayTrainWorker", "ray::execute")):
        kind = "worker"
    elif title.startswith(("ray::MapBatches", "ray::IDLE")):
        kind = "task"
    peak = peaks.setdefault(kind, {"private_mb": 0.0, "resident_mb": 0.0})
    peak["private_mb"] = max(peak["private_mb"], round((memory.rss - memory.shared) / 1e6, 1))
    peak["resident_mb"] = max(peak["resident_mb"], round(memory.rss / 1e6, 1))


def _run_pass(name: str, directory: Path) -> None:
    """Run one pass in this process."""
    windows = open_windows(directory)
    every_W = np.arange(len(windows))
    if name == "references":
        fit_spec(windows, every_W, TrainConfig(equipment=windows.machines[0]))
        return
    config = TrainConfig(
        equipment=windows.machines[0],
        epochs=1,
        batch=256,
        hidden=8,
        heads=2,
        members=1,
        attention_layers=1,
        memory_limit_mb=16,
        validation_windows=1,
    )
    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=3,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
    )
    try:
        with tempfile.TemporaryDirectory() as storage:
            run_fit(
                Fleet((windows,)),
                [every_W],
                [np.empty(0, np.int64)],
                config,
                "memory",
                Path(storage),
            )
    finally:
        ray.shutdown()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.train_memory")
    parser.add_argument("--one", choices=PASSES, help="run this pass on a directory of windows")
    parser.add_argument("--times", type=int, nargs="+", default=TIMES)
    parser.add_argument("directory", type=Path)
    return parser


def main() -> None:
    """Measure and print one line of JSON for each pass, or run one pass."""
    options = _parser().parse_args()
    if options.one:
        _run_pass(options.one, options.directory)
    else:
        options.directory.mkdir(parents=True, exist_ok=True)
        measure(options.directory, tuple(options.times))


if __name__ == "__main__":
    main()
