"""Trains a network on an equipment's history and writes a checkpoint: `python -m train --equipment ID`.

Reads windows and labels from the store, runs every fold and the last fit in one start of Ray Train's workers, and writes the
checkpoint's directory with its figures.
Invariant: however it ends, no process of Ray is left, and a directory is written whole or not at all.
"""

import argparse
import asyncio
import contextlib
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast, get_args

import numpy as np
import ray
import ray.exceptions
import torch
from pydantic import ValidationError
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue
from safetensors.torch import load as load_tensors

from app import card as files
from app.bins import Statistic
from app.calibration import Calibration
from app.card import DataInterval
from app.checkpoint import Origin, save
from app.errors import CheckpointError, HydraulicDiagnosticsError, InputError
from app.feature_spec import FeatureSpec
from app.model import UniversalTemporalGNN
from app.settings import PROJECT_DIR, Settings
from app.store.open import open_store
from train.config import TrainConfig
from train.dataset import WindowSet
from train.evaluate import HeldOut, baselines, calibrate, cross_calibrated, score_components
from train.fit import network
from train.labels import EPOCH, MICROSECOND
from train.loop import FEATURE_SPEC, HELD_OUT, WEIGHTS, LoopInput, train_loop
from train.reference import fit_limits
from train.report import Heading, Metrics, write_report
from train.source import read_windows

API_SERVER = "RAY_API_SERVER_ADDRESS"
CPU_OF_A_WORKER = 0.5
"""What a worker asks of Ray: less than it uses, so that two workers start on one processor too."""


def main(arguments: list[str]) -> int:
    """Run a training and return the exit status: 0 done, 1 failed with a message, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        config = _config(options)
        out = cast("Path", options.out or next_directory(Settings().var_dir / "checkpoints" / config.equipment))
        if (out / files.CARD).exists():
            raise CheckpointError(
                f"'{out}' already holds a checkpoint, and checkpoints never change: give another --out"
            )
        settings = Settings().at(options.dsn)
        windows = asyncio.run(_read(settings, config))
        command = shlex.join(["python", "-m", "train", *_without_dsn(arguments)])
        train(windows, config, out, options.version or out.name, command)
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def train(windows: WindowSet, config: TrainConfig, out: Path, version: str, command: str) -> Metrics:
    """Fit, evaluate and write one checkpoint.

    Args:
        windows: labelled windows of one equipment.
        config: of the training.
        out: directory of the checkpoint; must hold none.
        version: name of the checkpoint.
        command: that makes it again, for the card and the report.

    Returns:
        The figures that were written.

    Raises:
        CheckpointError: the directory already holds a checkpoint, or training failed.
    """
    equipment = windows.equipment
    print(
        f"{len(windows.labels)} windows of {equipment.equipment_id}, {windows.configuration_W.max() + 1} configurations, "
        f"{int(windows.warm_up_W.sum())} windows of a warm-up, {config.folds} folds, {config.workers} workers",
        flush=True,
    )
    started = time.monotonic()
    held_out, weights, spec = _fit(windows, config)
    training_s = time.monotonic() - started
    joined_WVK, alone_WVK = cross_calibrated(held_out, windows, config)
    limits = fit_limits(held_out.excess_WS[~windows.warm_up_W], equipment)
    spec = spec.model_copy(update={"limits": {equipment.design: limits}})
    calibration = calibrate(held_out, joined_WVK, windows, config)
    model = UniversalTemporalGNN(network(spec, config, equipment.steps))
    model.load_state_dict(weights)
    for number, (_, component_id) in enumerate(spec.grade_sets()):
        if component_id in calibration:
            model.grade.temperature_G[number] = calibration[component_id].temperature
            model.opinion.temperature_G[number] = calibration[component_id].opinion_temperature
    metrics = Metrics(
        windows=len(windows.labels),
        warm_up_windows=int(windows.warm_up_W.sum()),
        configurations=int(windows.configuration_W.max()) + 1,
        folds=config.folds,
        weights=sum(parameter.numel() for parameter in model.parameters()),
        training_s=training_s,
        scores=score_components(joined_WVK.argmax(-1), windows, config.folds),
        network_alone=score_components(alone_WVK.argmax(-1), windows, config.folds),
        baselines={
            name: score_components(grade_WV, windows, config.folds)
            for name, grade_WV in baselines(windows, config).items()
        },
        calibration=calibration,
        limits=limits,
    )
    _write(windows, config, out, model, spec, metrics, version, command)
    for component, scores in metrics.scores.items():
        rivals = ", ".join(
            f"{name} {found[component].pooled.macro_f1:.3f}" for name, found in metrics.baselines.items()
        )
        print(f"{component}: held-out macro-F1 {scores.pooled.macro_f1:.3f} (linear discriminant: {rivals})")
    print(f"wrote {out}; the figures of every fold stand in {out / files.REPORT}")
    return metrics


def _fit(windows: WindowSet, config: TrainConfig) -> tuple[HeldOut, dict[str, torch.Tensor], FeatureSpec]:
    """Run the training on Ray's workers and take back rank 0's results."""
    started_here, on_interrupt = _start_ray(config.workers), signal.getsignal(signal.SIGINT)
    progress, done = Queue(), threading.Event()
    printer = threading.Thread(target=_print_progress, args=(progress, done), daemon=True)
    printer.start()
    try:
        with tempfile.TemporaryDirectory() as storage:
            given: LoopInput = {"config": config, "windows": ray.put(windows), "progress": progress}
            result = TorchTrainer(
                cast("Callable[[dict[str, object]], None]", train_loop),
                train_loop_config=cast("dict[str, object]", given),
                scaling_config=ScalingConfig(
                    num_workers=config.workers,
                    use_gpu=torch.cuda.is_available(),
                    resources_per_worker={"CPU": CPU_OF_A_WORKER},
                ),
                run_config=RunConfig(name="train", storage_path=storage),
            ).fit()
            if result.checkpoint is None:
                raise CheckpointError(f"expected the workers to hand back their weights, found none: {result.error}")
            with result.checkpoint.as_directory() as name:
                directory = Path(name)
                with np.load(directory / HELD_OUT, allow_pickle=False) as arrays:
                    held_out = HeldOut(arrays["logit"], arrays["opinion"], arrays["excess"])
                weights = load_tensors((directory / WEIGHTS).read_bytes())
                spec = FeatureSpec.model_validate_json((directory / FEATURE_SPEC).read_bytes())
    except SystemExit as stopped:  # how Train's own handler of Ctrl-C ends, after it ended the workers
        raise KeyboardInterrupt from stopped
    except TrainingFailedError as error:
        raise CheckpointError(f"the training failed, nothing was written: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)
        done.set()
        printer.join(timeout=5)
        if started_here:
            ray.shutdown()
            os.environ.pop(API_SERVER, None)
    return held_out, weights, spec


def _start_ray(workers: int) -> bool:
    """Connect to the cluster of RAY_ADDRESS, or start one for this run; tell whether it was started, so must be ended, here."""
    if ray.is_initialized():
        return False
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
        return True
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Train's watchdog asks the newest local cluster that it finds whether its controller lives. Beside a running service that
    # is another cluster, which says no, and the watchdog ends the training; with no server to ask it lets it go on.
    os.environ[API_SERVER] = "http://127.0.0.1:9"
    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=max(os.cpu_count() or 1, math.ceil(workers * CPU_OF_A_WORKER) + 1),
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    return True


def _print_progress(progress: Queue, done: threading.Event) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        while not (done.is_set() and progress.empty()):
            with contextlib.suppress(Empty):
                print(progress.get(timeout=0.5), flush=True)


def _write(
    windows: WindowSet,
    config: TrainConfig,
    out: Path,
    model: UniversalTemporalGNN,
    spec: FeatureSpec,
    metrics: Metrics,
    version: str,
    command: str,
) -> None:
    equipment = windows.equipment
    window = timedelta(microseconds=equipment.bins * equipment.grid_us)
    start = EPOCH + int(windows.labels.start_us_W[0]) * MICROSECOND
    end = EPOCH + int(windows.labels.start_us_W[-1]) * MICROSECOND + window
    revision, created = _git_revision(), datetime.now(UTC).replace(microsecond=0)
    labelled = np.any(windows.labels.grade_WV >= 0, axis=0)
    types = tuple(
        dict.fromkeys(
            component.type for component, has in zip(equipment.components, labelled.tolist(), strict=True) if has
        )
    )
    heading = Heading(version=version, command=command, git_revision=revision, created=created, start=start, end=end)
    origin = Origin(
        version=version,
        created=created,
        git_revision=revision,
        seed=config.seed,
        command=command,
        data=DataInterval(start=start, end=end, windows=len(windows.labels)),
        trained_heads={"grade": types, "health": types if config.health_weight > 0 else (), "rate": (), "rul": ()},
    )
    documents = {
        files.METRICS: metrics.model_dump_json(indent=1) + "\n",
        files.TRAIN_CONFIG: config.model_dump_json(indent=1) + "\n",
        files.REPORT: write_report(heading, metrics, config),
    }
    save(out, model, spec, Calibration(), origin, documents)


async def _read(settings: Settings, config: TrainConfig) -> WindowSet:
    store = open_store(settings)
    try:
        await store.migrate()
        return await read_windows(store, config)
    finally:
        await store.close()


def _git_revision() -> str:
    """Return the revision of the sources, with `-dirty` when `app` or `train` were changed since; `unknown` outside a clone."""
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "train", "app", ":!app/checkpoints"],
            cwd=PROJECT_DIR, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def next_directory(parent: Path) -> Path:
    """Return the directory under a parent whose number follows the highest there."""
    numbers = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return parent / str(max(numbers, default=0) + 1)


def _without_dsn(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument.startswith("--dsn="):
            skip = False
        elif argument == "--dsn":
            skip = True
        else:
            kept.append(argument)
    return kept


def _config(options: argparse.Namespace) -> TrainConfig:
    given = {
        name: value for name, value in vars(options).items() if name in TrainConfig.model_fields and value is not None
    }
    try:
        return TrainConfig(**given)
    except ValidationError as error:
        found = "; ".join(f"--{'.'.join(map(str, item['loc'])) or 'options'}: {item['msg']}" for item in error.errors())
        raise InputError(f"the training can't run so: {found}") from error


def _parser() -> argparse.ArgumentParser:
    # abbreviations are off: `--ds` would carry a password past `_without_dsn` into the card
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m train", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument(
        "--equipment", required=True, metavar="ID", help="equipment whose readings and labels are in the store"
    )
    parser.add_argument(
        "--out", type=Path, help="directory of the checkpoint; without it the next number under var/checkpoints/ID"
    )
    parser.add_argument("--version", help="name of the checkpoint; without it the last part of --out")
    parser.add_argument(
        "--dsn", help="database; without it HYDRAULIC_DSN, which no other user can see, or the local one"
    )
    numbers = TrainConfig.model_fields
    for name in (
        "workers",
        "epochs",
        "folds",
        "seed",
        "batch",
        "members",
        "hidden",
        "heads",
        "attention_layers",
        "lstm_layers",
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help=f"default {numbers[name].default}")
    for name in (
        "learning_rate",
        "weight_decay",
        "dropout",
        "sensor_dropout",
        "feature_noise",
        "mixup",
        "opinion_weight",
        "spread_floor",
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=f"default {numbers[name].default}")
    parser.add_argument(
        "--statistics",
        nargs="+",
        choices=get_args(Statistic),
        help=f"default {' '.join(numbers['statistics'].default)}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
