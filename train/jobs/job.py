"""Run a training: the fits of the split and of the studies, the final fit, and the checkpoint.

Finished fits stay in the job's directory until the checkpoint is written, so the same command
resumes a training that was killed. Invariant: the checkpoint is written whole or not at all, and
its figures are of windows that the scored fit did not train on.
"""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import numpy as np

from app.checkpoint import manifest as files
from app.checkpoint.manifest import DataInterval, Head
from app.checkpoint.torch_model import Origin, save
from app.core.errors import CheckpointError
from app.core.file_locks import attempt
from app.core.settings import PROJECT_DIR
from train.config import NO_MESSAGES, TrainConfig
from train.data.artifact_locks import WINDOWS_NAME, job_lock
from train.data.labels import EPOCH, MICROSECOND, Booleans
from train.data.split import Part, set_apart, split, whole
from train.data.windows import Windows
from train.evaluation.evaluate import evaluate_parts
from train.evaluation.holdout import HoldoutPart, predict_holdout
from train.evaluation.record import Evaluation, Heading, LearningPoint
from train.fitting.fit import Fitted, run_fit
from train.fitting.progress import EpochRecord, Progress
from train.reporting.report import documents, network_sizes

PATIENCE_S = 1.0
"""Time to wait for the lock of a job, which `train.jobs.prune` takes for an instant to test it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training: its windows, its config and where its results are written.

    Args:
        windows: labelled windows of machines of one topology.
        config: of the training.
        out: directory of the checkpoint; must be free.
        version: name of the checkpoint.
        command: that repeats the training, for the manifest and the report.
        storage: directory of the job's fits, shared by all nodes; it is removed when the checkpoint
            is written, unless `keep_fits` is set.
        notes: what was decided for it by itself, for the manifest and the report.
    """

    windows: Windows
    config: TrainConfig
    out: Path
    version: str
    command: str
    storage: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a training: heading of the report, evaluations of split and studies, epochs."""

    heading: Heading
    evaluation: Evaluation
    studies: Mapping[str, Evaluation]
    history: Mapping[str, Sequence[EpochRecord]]


def check_free(out: Path) -> None:
    """Check that a checkpoint can be written to a directory.

    Raises:
        CheckpointError: the directory is in use.
    """
    if (out / files.MANIFEST).exists():
        raise CheckpointError(
            f"'{out}' already holds a checkpoint, and checkpoints never change: give another --out"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(
            f"expected '{out}' to be empty or missing, found other files: give another --out"
        )


def storage_of(parent: Path, windows: Windows, config: TrainConfig) -> Path:
    """Return the directory of a job's fits: equal for equal windows, settings and sources."""
    key = f"{windows.directory.name}\0{config.of_fits()}\0{git_revision()}"
    return parent / hashlib.sha256(key.encode()).hexdigest()[:16]


def run_job(job: Job, progress: Progress) -> Outcome:
    """Fit, evaluate and write one checkpoint, inside a `train.data.session.ray_session`.

    Args:
        job: the training.
        progress: shows the progress.

    Returns:
        The result, as written.

    Raises:
        CheckpointError: the directory already holds a checkpoint, or training failed.
        InputError: the windows can't be split as configured.
        KeyboardInterrupt: it was interrupted; the same job resumes it.
    """
    check_free(job.out)
    job.storage.parent.mkdir(parents=True, exist_ok=True)
    with attempt(job_lock(job.storage), patience_s=PATIENCE_S) as is_locked:
        if not is_locked:
            raise CheckpointError(
                "expected no other process with the same training, found one that uses "
                f"'{job.storage}': wait for it, or change a setting"
            )
        return _run(job, progress)


def _run(job: Job, progress: Progress) -> Outcome:
    started, windows, config = time.monotonic(), job.windows, job.config
    # all splits are made before the first fit, so that an impossible one costs no fit
    parts = split(windows, config)
    studies = {
        kind: split(windows, config.model_copy(update={"split": kind}))
        for kind in config.studies
        if kind != NO_MESSAGES
    }
    history: dict[str, Sequence[EpochRecord]] = {}
    job.storage.mkdir(exist_ok=True)
    (job.storage / WINDOWS_NAME).write_text(windows.directory.name, encoding="utf-8")

    def fit(part: Part, chosen: TrainConfig, name: str) -> Fitted:
        train_W, validation_W = set_apart(
            windows, part.train_W, chosen.validation_share, chosen.seed
        )
        fitted = run_fit(windows, train_W, validation_W, chosen, name, job.storage, progress)
        history[name] = fitted.history
        return fitted

    def scored(part: Part, chosen: TrainConfig, study: str) -> HoldoutPart:
        fitted = fit(part, chosen, f"{study} {part.name}".strip())
        train_W, _ = set_apart(windows, part.train_W, chosen.validation_share, chosen.seed)
        return predict_holdout(
            fitted.model(), fitted.spec, windows, part.name, train_W, part.holdout_W,
            seed=chosen.seed,
            # missing and faulty sensors are scored on the training's own split only
            **({"probes": 0, "removal_probes": 0} if study else {}),
        )  # fmt: skip

    of_split = [scored(part, config, "") for part in parts]
    ablated = config.model_copy(update={"attention_layers": 0})
    without = (
        [scored(part, ablated, NO_MESSAGES) for part in parts]
        if NO_MESSAGES in config.studies
        else None
    )
    of_studies = {
        kind: [scored(part, config, kind) for part in of_kind] for kind, of_kind in studies.items()
    }
    last = fit(whole(windows, config), config, "all")

    progress.say("evaluating the fits on their held-out windows")
    learning = {
        name: [LearningPoint(epoch=each.epoch, loss=each.loss, score=each.score) for each in fits]
        for name, fits in history.items()
    }
    evaluation = evaluate_parts(
        windows,
        of_split,
        config,
        split=config.split,
        without_messages=without,
        learning=learning,
        cap_h=config.rul_cap_h,
    )
    evaluation = evaluation.model_copy(update={"notes": (*job.notes, *evaluation.notes)})
    evaluations = {
        kind: evaluate_parts(windows, of_kind, config, split=kind, cap_h=config.rul_cap_h)
        for kind, of_kind in of_studies.items()
    }
    outcome = Outcome(
        _heading(job, last, time.monotonic() - started), evaluation, evaluations, history
    )
    _write(job, last, outcome)
    if config.keep_fits:
        progress.say(f"kept the fits in {job.storage}")
    else:
        shutil.rmtree(job.storage, ignore_errors=True)
    return outcome


def _heading(job: Job, last: Fitted, training_s: float) -> Heading:
    config = job.config
    start_us_W, equipment = job.windows.labels.start_us_W, job.windows.equipment
    window = timedelta(microseconds=equipment.bins * equipment.grid_us)
    return Heading(
        version=job.version,
        command=job.command,
        git_revision=git_revision(),
        created=datetime.now(UTC).replace(microsecond=0),
        start=EPOCH + int(start_us_W.min()) * MICROSECOND,
        end=EPOCH + int(start_us_W.max()) * MICROSECOND + window,
        weights=last.model().ensemble.parameter_count,
        training_s=training_s,
        shape=network_sizes(config)
        + (
            f", linear classifier with weight {config.linear_weight:g}"
            if config.linear_weight
            else ""
        ),
    )


def _write(job: Job, last: Fitted, outcome: Outcome) -> None:
    """Write the checkpoint to a temporary directory and rename it."""
    evaluation, heading, windows = outcome.evaluation, outcome.heading, job.windows
    model, design = last.model(), windows.equipment.design
    linear_G = None if model.classifier is None else model.classifier.tables.temperature_G
    for number, name in enumerate(last.spec.grade_sets()):
        found = evaluation.uncertainty.get(name[1])
        if found is not None and found.temperature is not None:
            model.ensemble.temperature_G[number] = found.temperature
        if linear_G is not None and found is not None and found.linear_temperature is not None:
            linear_G[number] = found.linear_temperature
    spec = last.spec
    if evaluation.limits is not None:
        spec = spec.model_copy(update={"limits": {design: evaluation.limits}})
    origin = Origin(
        version=job.version,
        created=heading.created,
        git_revision=heading.git_revision,
        seed=job.config.seed,
        command=job.command,
        data=DataInterval(start=heading.start, end=heading.end, windows=len(windows)),
        trained_heads=_trained_heads(windows, job.config),
        notes=job.notes,
    )
    texts = {
        **documents(evaluation, heading, outcome.studies),
        files.TRAIN_CONFIG: job.config.model_dump_json(indent=1) + "\n",
    }
    job.out.parent.mkdir(parents=True, exist_ok=True)
    partial = job.out.with_name(f"{job.out.name}.{uuid4().hex[:8]}.partial")
    try:
        save(partial, model, spec, evaluation.calibration, origin, texts)
        check_free(job.out)
        partial.replace(job.out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _trained_heads(windows: Windows, config: TrainConfig) -> dict[Head, dict[str, tuple[str, ...]]]:
    labels, equipment = windows.labels, windows.equipment

    def labelled(known_WV: Booleans, weight: float = 1.0) -> dict[str, tuple[str, ...]]:
        known_V: list[bool] = np.asarray(known_WV.any(axis=0)).tolist()
        known = [
            each.component_id
            for each, has in zip(equipment.components, known_V, strict=True)
            if has
        ]
        return {equipment.design: tuple(known)} if known and weight else {}

    return {
        "grade": labelled(labels.grade_WV >= 0),
        "health": labelled(np.isfinite(labels.health_WV), config.health_weight),
        "rate": labelled(np.isfinite(labels.rate_WV), config.rate_weight),
        "rul": labelled(np.isfinite(labels.rul_WV), config.rul_weight),
    }


def git_revision() -> str:
    """Return the Git revision of the sources.

    It ends in `-dirty` if `app` or `train` have uncommitted changes and is `unknown` outside a
    clone. A job on a cluster has no history; HYDRAULIC_GIT_REVISION gives it the revision.
    """
    if revision := os.environ.get("HYDRAULIC_GIT_REVISION"):
        return revision
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", "train", "app", ":!app/weights")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=PROJECT_DIR, capture_output=True, text=True, check=True
    ).stdout.strip()
