"""`hydraulic train start`: prepares windows, makes every fit, and writes the checkpoint.

All fits run in one Ray session. Invariant: no Ray process that it started outlives it, and a
checkpoint is written whole or not at all.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from app.checkpoint import manifest as files
from app.core.settings import Settings
from app.core.shared_storage import StoragePath, storage_root
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.fleet_split import choose_splits
from train.data.prepare import prepare
from train.data.session import CPU_OF_A_WORKER, free_cpus, gpus, ray_session
from train.fitting.progress import Progress
from train.jobs.job import Job, check_free, run_job, storage_of
from train.jobs.metrics import TrainingMetrics
from train.jobs.options import StartOptions
from train.jobs.tracking import track


def train(options: StartOptions, config: TrainConfig, command: str) -> int:
    """Train, print where the checkpoint is, and return the exit status.

    Args:
        options: where the data and the checkpoint are.
        config: of the training.
        command: that the checkpoint records.
    """
    settings = Settings().at(options.dsn)
    place = storage_root(settings)
    if options.out:
        check_free(options.out)
    with (
        ray_session(config.max_workers),
        TrainingMetrics(settings.var_dir) as metrics,
        Progress(on_note=metrics.note) as progress,
        prepare(settings, place / "training", config) as fleet,
    ):
        machines = fleet.machines
        name = fleet.name if config.design or len(machines) > 1 else machines[0]
        train_on(fleet, config, name, options, command, place, progress)
    return 0


def train_on(
    fleet: Fleet,
    config: TrainConfig,
    name: str,
    options: StartOptions,
    command: str,
    place: StoragePath,
    progress: Progress,
) -> None:
    """Train on windows and write the checkpoint, inside a `train.data.session.ray_session`.

    Args:
        fleet: the windows.
        config: of the training.
        name: of the checkpoint's parent directory.
        options: where the checkpoint is written.
        command: that it records.
        place: below which fits and checkpoints are written.
        progress: shows the progress.
    """
    room = int(free_cpus() / CPU_OF_A_WORKER)
    config, notes = choose_splits(fleet, config.placed(gpus(), room))
    with _places(options.out, place / "checkpoints" / name) as (out, shared):
        for windows in fleet.designs:
            progress.say(
                f"{len(windows)} windows of {len(windows.machines)} machines of design "
                f"{windows.equipment.design}, {windows.group_W.max() + 1} groups, "
                f"{int(windows.warm_up_W.sum())} warm-up windows, split {config.split}, "
                f"{config.workers} workers on "
                f"{'GPUs' if gpus() >= config.min_workers else 'CPUs'}"
            )
        for note in notes:
            progress.say(note)
        storage = storage_of(place / "training" / "jobs", fleet, config)
        version = options.version or out.name
        job = Job(fleet, config, out, version, command, storage, notes, shared)
        outcome = run_job(job, progress)
        written = shared or out
        print(f"wrote {written}: see {written / files.REPORT} and {written / 'model_card.md'}")
        if not options.untracked:
            run = track(outcome, config, out, written)
            print(f"logged run {run.run_id} of experiment {run.experiment} to {run.store}")


@contextmanager
def _places(out: Path | None, parent: StoragePath) -> Iterator[tuple[Path, UPath | None]]:
    """Yield the directory of a checkpoint on this machine, and that of its copy, if any."""
    found = out or next_directory(parent)
    if isinstance(found, UPath):
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as directory:
            yield Path(directory) / found.name, found
    else:
        yield found, None


def next_directory(parent: StoragePath) -> StoragePath:
    """Return the directory in `parent` whose number follows the highest one there."""
    numbers = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return parent / str(max(numbers, default=0) + 1)
