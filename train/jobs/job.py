"""A training as a job: the fits that hold windows out, the studies, the last fit that holds out nothing, and the checkpoint they give.

Finished fits are kept in the job's directory until the checkpoint is written: the same command, run again after it was killed, repeats
none of them and goes on in the interrupted one.
Invariant: the checkpoint's directory is written whole or not at all, and its figures are of fits that never saw what they are scored on.
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
from app.checkpoint.files import Origin, save
from app.checkpoint.manifest import DataInterval, Head
from app.core.errors import CheckpointError
from app.core.file_locks import attempt
from app.core.settings import PROJECT_DIR
from train.config import NO_MESSAGES, TrainConfig
from train.data.artifact_locks import USES, lock_of
from train.data.labels import EPOCH, MICROSECOND, Booleans
from train.data.split import Part, SplitPlan, set_apart, split, whole
from train.data.windows import Windows
from train.evaluation.evaluate import evaluate_parts
from train.evaluation.holdout import HoldoutPart, hold_out
from train.evaluation.record import Evaluation, Heading, LearningPoint
from train.fitting.fit import Fitted, run_fit
from train.fitting.progress import EpochRecord, Progress
from train.reporting.report import documents

PATIENCE_S = 1.0
"""Time for which a job that seems to be at work is asked again: `train.jobs.prune` holds it for an instant to see whether it is."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training: what it learns from, how, and where it puts what came of it.

    Args:
        windows: labelled windows of machines of one topology.
        config: of the training.
        out: directory of the checkpoint; must hold none.
        version: name of the checkpoint.
        command: that makes it again, for the manifest and the report.
        storage: directory of the job's fits, which all nodes see; it is removed when the checkpoint is written, unless they are to be kept.
    """

    windows: Windows
    config: TrainConfig
    out: Path
    version: str
    command: str
    storage: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training gave: the heading of its report, the evaluation of its split, that of each study by name, and every epoch."""

    heading: Heading
    evaluation: Evaluation
    studies: Mapping[str, Evaluation]
    history: Mapping[str, Sequence[EpochRecord]]


def check_free(out: Path) -> None:
    """Check that a checkpoint can be put into a place.

    Raises:
        CheckpointError: something is there already.
    """
    if (out / files.MANIFEST).exists():
        raise CheckpointError(
            f"'{out}' already holds a checkpoint, and checkpoints never change: give another --out"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(
            f"expected '{out}' to be free for a checkpoint, found something else there: give another --out"
        )


def storage_of(parent: Path, windows: Windows, config: TrainConfig) -> Path:
    """Return the directory in which a job keeps its fits: the same for the same windows, choices and sources."""
    return (
        parent
        / hashlib.sha256(
            f"{windows.directory.name}\0{config.of_fits()}\0{git_revision()}".encode()
        ).hexdigest()[:16]
    )


def run_job(job: Job, progress: Progress) -> Outcome:
    """Fit, evaluate and write one checkpoint, inside a `train.data.session.ray_session`.

    Args:
        job: what to do.
        progress: shows how it goes.

    Returns:
        What was written.

    Raises:
        CheckpointError: the directory already holds a checkpoint, or training failed.
        InputError: the windows can't be split as asked.
        KeyboardInterrupt: it was interrupted; run again, it goes on.
    """
    check_free(job.out)
    job.storage.parent.mkdir(parents=True, exist_ok=True)
    with attempt(lock_of(job.storage), patience_s=PATIENCE_S) as is_ours:
        if not is_ours:
            raise CheckpointError(
                f"expected to be alone with this training, found another process at the same one in '{job.storage}': wait for it, "
                "or change a setting"
            )
        return _run(job, progress)


def _run(job: Job, progress: Progress) -> Outcome:
    started, windows, config = time.monotonic(), job.windows, job.config
    # all splits are made before the first fit, so that one that can't be made costs nothing
    parts = split(windows, _plan(config, config.split))
    studies = {
        kind: split(windows, _plan(config, kind)) for kind in config.studies if kind != NO_MESSAGES
    }
    history: dict[str, Sequence[EpochRecord]] = {}
    job.storage.mkdir(exist_ok=True)
    (job.storage / USES).write_text(windows.directory.name, encoding="utf-8")

    def fit(part: Part, chosen: TrainConfig, name: str) -> Fitted:
        seen_W, watched_W = set_apart(windows, part.train_W, chosen.validation_share, chosen.seed)
        fitted = run_fit(windows, seen_W, watched_W, chosen, name, job.storage, progress)
        history[name] = fitted.history
        return fitted

    def held(part: Part, chosen: TrainConfig, study: str) -> HoldoutPart:
        fitted = fit(part, chosen, f"{study} {part.name}".strip())
        seen_W, _ = set_apart(windows, part.train_W, chosen.validation_share, chosen.seed)
        return hold_out(
            fitted.model(), fitted.spec, windows, part.name, seen_W, part.holdout_W, seed=chosen.seed,
            # what missing and broken sensors cost is asked of the training's own split alone
            **({"probes": 0, "removal_probes": 0} if study else {}),
        )  # fmt: skip

    of_split = [held(part, config, "") for part in parts]
    silent = config.model_copy(update={"attention_layers": 0})
    without = (
        [held(part, silent, NO_MESSAGES) for part in parts]
        if NO_MESSAGES in config.studies
        else None
    )
    of_studies = {
        kind: [held(part, config, kind) for part in of_kind] for kind, of_kind in studies.items()
    }
    last = fit(whole(windows, _plan(config, config.split)), config, "all")

    progress.say("evaluating what the fits say of windows they never saw")
    learning = {name: _points(records) for name, records in history.items()}
    evaluation = evaluate_parts(
        windows,
        of_split,
        config,
        split=config.split,
        without_messages=without,
        learning=learning,
        cap_h=config.rul_cap_h,
    )
    evaluations = {
        kind: evaluate_parts(windows, of_kind, config, split=kind, cap_h=config.rul_cap_h)
        for kind, of_kind in of_studies.items()
    }
    outcome = Outcome(
        _heading(job, last, time.monotonic() - started), evaluation, evaluations, history
    )
    _write(job, last, outcome)
    if config.keep_fits:
        progress.say(f"the fits stay in {job.storage}")
    else:
        shutil.rmtree(job.storage, ignore_errors=True)
    return outcome


def _plan(config: TrainConfig, kind: str) -> SplitPlan:
    return SplitPlan(kind, config.folds, config.holdout_share, config.warm_up_windows, config.seed)


def _points(history: Sequence[EpochRecord]) -> tuple[LearningPoint, ...]:
    return tuple(
        LearningPoint(epoch=each.epoch, loss=each.loss, score=each.score) for each in history
    )


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
        weights=sum(parameter.numel() for parameter in last.model().parameters()),
        training_s=training_s,
        shape=f"hidden {config.hidden}, {config.attention_layers} attention layers, {config.members} members"
        + (
            f", second opinion with weight {config.linear_weight:g}" if config.linear_weight else ""
        ),
    )


def _write(job: Job, last: Fitted, outcome: Outcome) -> None:
    """Write the checkpoint beside its place and move it there."""
    evaluation, heading, windows = outcome.evaluation, outcome.heading, job.windows
    model, design = last.model(), windows.equipment.design
    for number, name in enumerate(last.spec.grade_sets()):
        found = evaluation.certainty.get(name[1])
        if found is not None and found.temperature is not None:
            model.grade.temperature_G[number] = found.temperature
        if found is not None and found.opinion_temperature is not None:
            model.opinion.temperature_G[number] = found.opinion_temperature
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
    """Return the revision of the sources, with `-dirty` when `app` or `train` were changed since; `unknown` outside a clone."""
    if told := os.environ.get(
        "HYDRAULIC_GIT_REVISION"
    ):  # a job on a cluster has the sources without their history
        return told
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=PROJECT_DIR,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "train", "app", ":!app/weights"],
            cwd=PROJECT_DIR, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}-dirty" if changed else head
