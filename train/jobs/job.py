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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
from upath import UPath

from app.checkpoint import manifest as files
from app.checkpoint.calibration import Calibration
from app.checkpoint.manifest import DataInterval, Head
from app.checkpoint.torch_model import Origin, save
from app.core.errors import CheckpointError, InputError
from app.core.file_locks import attempt
from app.core.settings import PROJECT_DIR
from app.core.shared_storage import StoragePath, copy_to, make_directory, remove_tree, write_whole
from train.config import NO_MESSAGES, TrainConfig
from train.data.artifact_locks import WINDOWS_NAME, job_lock
from train.data.fleet import Fleet
from train.data.fleet_split import FleetPart, set_apart_in, split_fleet, whole_fleet
from train.data.labels import EPOCH, MICROSECOND, Booleans, WindowLabels
from train.evaluation.fleet import DesignParts, FleetEvaluation, evaluate_fleet, metrics_of
from train.evaluation.holdout import HoldoutPart, predict_holdout
from train.evaluation.record import Evaluation, Heading, LearningPoint, Metrics
from train.fitting.fit import Fitted, run_fit
from train.fitting.progress import EpochRecord, Progress
from train.linear.ood_detector import absent_distances
from train.reporting.report import documents, network_sizes

PATIENCE_S = 1.0
"""Time to wait for the lock of a job, which `train.jobs.prune` takes for an instant to test it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training: its windows, its config and where its results are written.

    Args:
        fleet: labelled windows of the machines of one or several designs.
        config: of the training.
        out: directory of the checkpoint; must be free.
        version: name of the checkpoint.
        command: that repeats the training, for the manifest and the report.
        storage: directory of the job's fits, which all nodes reach; it is removed when the
            checkpoint is written, unless `keep_fits` is set. On this machine it is locked.
        notes: what was decided for it by itself, for the manifest and the report.
        shared: where the finished checkpoint is copied, if anywhere.
    """

    fleet: Fleet
    config: TrainConfig
    out: Path
    version: str
    command: str
    storage: StoragePath
    notes: tuple[str, ...] = ()
    shared: UPath | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a training.

    Args:
        heading: of the report.
        designs: evaluations of the split by design, at least one.
        studies: evaluations of further splits by name.
        history: epochs of each fit.
    """

    heading: Heading
    designs: Mapping[str, Evaluation]
    studies: Mapping[str, Evaluation]
    history: Mapping[str, Sequence[EpochRecord]]

    @property
    def metrics(self) -> Metrics:
        """Return the content of `metrics.json`."""
        return metrics_of(self.heading, self.designs, self.studies)


def check_free(out: StoragePath) -> None:
    """Check that a checkpoint can be written to a directory.

    Raises:
        CheckpointError: the directory is in use.
    """
    if (out / files.MANIFEST).exists():
        raise CheckpointError(
            f"'{out}' already holds a checkpoint, and checkpoints never change: give another "
            "--out, or leave it out and run the command again, which takes the next number"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(
            f"expected '{out}' to be empty or missing, found other files: give another --out"
        )


def storage_of(parent: StoragePath, fleet: Fleet, config: TrainConfig) -> StoragePath:
    """Return the directory of a job's fits: equal for equal windows, settings and sources."""
    key = f"{_directories(fleet)}\0{config.of_fits()}\0{git_revision()}"
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
    if isinstance(job.storage, UPath):
        return _run(job, progress)
    job.storage.parent.mkdir(parents=True, exist_ok=True)
    with attempt(job_lock(job.storage), patience_s=PATIENCE_S) as is_locked:
        if not is_locked:
            raise CheckpointError(
                "expected no other process with the same training, found one that uses "
                f"'{job.storage}': wait for it, or change a setting"
            )
        return _run(job, progress)


def _run(job: Job, progress: Progress) -> Outcome:
    started, fleet, config = time.monotonic(), job.fleet, job.config
    # all splits are made before the first fit, so that an impossible one costs no fit
    parts = split_fleet(fleet, config)
    if config.single_fit and len(parts) > 1:
        raise InputError(
            "expected a split with one part, such as holdout, for a single fit, found "
            f"{len(parts)} parts of {config.split}: change --split, or leave --single-fit out",
            "split",
        )
    studies = {
        kind: split_fleet(fleet, config.model_copy(update={"split": kind}))
        for kind in config.studies
        if kind != NO_MESSAGES
    }
    history: dict[str, Sequence[EpochRecord]] = {}
    make_directory(job.storage)
    write_whole(job.storage / WINDOWS_NAME, _directories(fleet).encode())

    def fit(part: FleetPart, chosen: TrainConfig, name: str) -> Fitted:
        train, validation = set_apart_in(fleet, part.train, chosen.validation_share, chosen.seed)
        fitted = run_fit(fleet, train, validation, chosen, name, job.storage, progress)
        history[name] = fitted.history
        return fitted

    def scored(part: FleetPart, chosen: TrainConfig, study: str) -> list[HoldoutPart]:
        fitted = fit(part, chosen, f"{study} {part.name}".strip())
        train, _ = set_apart_in(fleet, part.train, chosen.validation_share, chosen.seed)
        model = fitted.model()
        return [
            predict_holdout(
                model, fitted.spec, windows, own.name, train_W, own.holdout_W, seed=chosen.seed,
                # missing and faulty sensors are scored on the training's own split only, and
                # only where the design is in the training
                **({} if len(train_W) and not study else {"probes": 0, "removal_probes": 0}),
            )
            for windows, own, train_W in zip(fleet.designs, part.designs, train, strict=True)
        ]  # fmt: skip

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
    # a single fit is read back: it is the last of the split
    last = fit(
        parts[0] if config.single_fit else whole_fleet(fleet, config),
        config,
        parts[0].name if config.single_fit else "all",
    )

    progress.say("evaluating the fits on their held-out windows")
    learning = {
        name: [LearningPoint(epoch=each.epoch, loss=each.loss, score=each.score) for each in fits]
        for name, fits in history.items()
    }
    found = evaluate_fleet(
        fleet,
        _by_design(of_split, without),
        config,
        learning=learning,
    )
    notes = (*job.notes, *_notes(last, fleet, found))
    evaluations = {
        design: each.model_copy(update={"notes": (*notes, *each.notes)})
        for design, each in found.designs.items()
    }
    of_kinds = {
        kind: evaluate_fleet(
            fleet, _by_design(of_kind), config, split=kind, temperatures=_temperatures(found)
        )
        for kind, of_kind in of_studies.items()
    }
    further = {
        kind if len(of_kind.designs) == 1 else f"{kind}, {design}": evaluation
        for kind, of_kind in of_kinds.items()
        for design, evaluation in of_kind.designs.items()
    }
    heading = _heading(job, last, time.monotonic() - started)
    outcome = Outcome(heading, evaluations, further, history)
    _write(job, last, outcome, found.calibration, notes)
    if job.shared is not None:
        check_free(job.shared)  # another training may have taken its number meanwhile
        copy_to(job.out, job.shared, files.MANIFEST)
    if config.keep_fits:
        progress.say(f"kept the fits in {job.storage}")
    else:
        remove_tree(job.storage)
    return outcome


def _temperatures(found: FleetEvaluation) -> dict[str, dict[str, float]]:
    """Return the temperatures that are shipped, by design and component id."""
    return {
        design: {
            component_id: each.temperature
            for component_id, each in evaluation.uncertainty.items()
            if each.temperature is not None
        }
        for design, evaluation in found.designs.items()
    }


def _directories(fleet: Fleet) -> str:
    return " ".join(windows.directory.name for windows in fleet.designs)


def _by_design(
    parts: Sequence[Sequence[HoldoutPart]], without: Sequence[Sequence[HoldoutPart]] | None = None
) -> list[DesignParts]:
    """Return the predictions of each design from those of each part."""
    found = [list(each) for each in zip(*parts, strict=True)]
    if without is None:
        return [DesignParts(each) for each in found]
    plain = (list(each) for each in zip(*without, strict=True))
    return [DesignParts(*each) for each in zip(found, plain, strict=True)]


def _notes(last: Fitted, fleet: Fleet, found: FleetEvaluation) -> tuple[str, ...]:
    """Name what designs of a training on several lack, and why."""
    unscored = [name for name in fleet.names if name not in found.designs]
    pooled = [
        f"{component_id} of {design}"
        for design, evaluation in found.designs.items()
        for component_id, each in evaluation.uncertainty.items()
        if (each.health and each.health.pooled) or (each.rul and each.rul.pooled)
    ]
    notes = [*absent_distances(last.config, fleet)]
    if unscored:
        notes.append(
            f"No window of {', '.join(unscored)} was held out by the split: there are no figures, "
            "and the intervals have the reach of the other designs."
        )
    if pooled:
        notes.append(
            "Too few windows were held out for intervals of their own, so they have the reach of "
            f"the other designs: {', '.join(pooled)}."
        )
    return tuple(notes)


def _heading(job: Job, last: Fitted, training_s: float) -> Heading:
    config = job.config
    spans = [
        (labels.start_us_W.min(), labels.start_us_W.max() + each.bins * each.grid_us)
        for labels, each in ((of.labels, of.equipment) for of in job.fleet.designs)
    ]
    return Heading(
        version=job.version,
        command=job.command,
        git_revision=git_revision(),
        created=datetime.now(UTC).replace(microsecond=0),
        start=EPOCH + int(min(start_us for start_us, _ in spans)) * MICROSECOND,
        end=EPOCH + int(max(end_us for _, end_us in spans)) * MICROSECOND,
        weights=last.model().ensemble.parameter_count,
        training_s=training_s,
        shape=network_sizes(config)
        + (
            f", beside a linear skip with {1 - config.deep_share:.0%} of the score"
            if config.deep_share < 1
            else ""
        ),
    )


def _write(
    job: Job, last: Fitted, outcome: Outcome, calibration: Calibration, notes: tuple[str, ...]
) -> None:
    """Write the checkpoint to a temporary directory and rename it."""
    heading, model = outcome.heading, last.model()
    for number, (design, component_id) in enumerate(last.spec.grade_sets()):
        evaluation = outcome.designs.get(design)
        found = None if evaluation is None else evaluation.uncertainty.get(component_id)
        if found is not None and found.temperature is not None:
            model.ensemble.temperature_G[number] = found.temperature
    limits = {
        design: evaluation.limits
        for design, evaluation in outcome.designs.items()
        if evaluation.limits is not None
    }
    spec = last.spec.model_copy(update={"limits": limits})
    origin = Origin(
        version=job.version,
        created=heading.created,
        git_revision=heading.git_revision,
        seed=job.config.seed,
        command=job.command,
        data=DataInterval(start=heading.start, end=heading.end, windows=len(job.fleet)),
        trained_heads=_trained_heads(job.fleet, job.config),
        notes=notes,
    )
    texts = {
        **documents(outcome.metrics),
        files.TRAIN_CONFIG: job.config.model_dump_json(indent=1) + "\n",
    }
    job.out.parent.mkdir(parents=True, exist_ok=True)
    partial = job.out.with_name(f"{job.out.name}.{uuid4().hex[:8]}.partial")
    try:
        save(partial, model, spec, calibration, origin, texts)
        check_free(job.out)
        partial.replace(job.out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _trained_heads(fleet: Fleet, config: TrainConfig) -> dict[Head, dict[str, tuple[str, ...]]]:
    def labelled(
        known: Callable[[WindowLabels], Booleans], weight: float = 1.0
    ) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for windows in fleet.designs:
            known_V: list[bool] = np.asarray(known(windows.labels).any(axis=0)).tolist()
            components = zip(windows.equipment.components, known_V, strict=True)
            if weight and any(known_V):
                found[windows.equipment.design] = tuple(
                    each.component_id for each, has in components if has
                )
        return found

    return {
        "grade": labelled(lambda labels: labels.grade_WV >= 0),
        "health": labelled(lambda labels: np.isfinite(labels.health_WV), config.health_weight),
        "rate": labelled(lambda labels: np.isfinite(labels.rate_WV), config.rate_weight),
        "rul": labelled(lambda labels: np.isfinite(labels.rul_WV), config.rul_weight),
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
