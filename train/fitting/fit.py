"""Fits one network with Ray Train, resuming a run that was killed.

Invariant: a fit's weights and references depend only on its own training windows, and a finished
fit is not run again.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from ray.data.extensions import ArrowTensorArray
from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2.api.config import ScalingConfig  # the class of ray.train at run time
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from app.core.errors import CheckpointError
from app.core.shared_storage import StoragePath, arrow_filesystem, make_directory, write_whole
from app.features.spec import FeatureSpec
from app.model.config import CircuitSize, ModelConfig
from app.model.trained import TrainedModel
from train.config import TrainConfig
from train.data.fleet import Chosen, Fleet
from train.data.labels import Integers
from train.data.session import (
    CPU_OF_A_WORKER,
    free_cpus,
    gpus,
    interrupts_kept,
    ray_session,
)
from train.data.windows import Windows
from train.fitting.batches import plan_batches
from train.fitting.loop import TRAIN, VALIDATION_SCORE, LoopInput, memory_bytes, train_loop
from train.fitting.notes import following, open_queue
from train.fitting.progress import EpochRecord, Progress
from train.fitting.start import network, ood_steps, start_of
from train.fitting.state import Saved, best_of, newest_of, states
from train.fitting.wide_and_deep import fold
from train.linear.ood_detector import fit_ood_detector

FITTED = "fitted.json"
WEIGHTS = "fitted.safetensors"
SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's list of checkpoints, which it does not write atomically."""
RESIZE_S = 30.0
"""Time between two checks whether an elastic fit can have more workers."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model with its feature spec; weights are named as by `TrainedModel.arrays`."""

    weights: Mapping[str, NDArray[np.generic]]
    config: ModelConfig
    spec: FeatureSpec
    history: list[EpochRecord]

    def model(self) -> TrainedModel:
        """Return the model, in evaluation mode."""
        return TrainedModel.of_arrays(self.config, self.weights)


class _Fitted(BaseModel):
    """`fitted.json`: a finished fit without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    spec: FeatureSpec
    circuits: tuple[CircuitSize, ...]
    history: tuple[EpochRecord, ...]


def run_fit(
    fleet: Fleet,
    train: Chosen,
    validation: Chosen,
    config: TrainConfig,
    name: str,
    storage: StoragePath,
    progress: Progress | None = None,
) -> Fitted:
    """Fit one network on Ray Train's workers.

    A call with the same name and storage resumes an interrupted fit after its last finished epoch,
    and reads a finished fit back. Several fits share one start of Ray inside a
    `train.data.session.ray_session`.

    Args:
        fleet: windows of each design; every worker must reach their directories.
        train: positions of the training windows, also for references and whitening; a
            design without any is left out.
        validation: positions of the validation windows, see `TrainConfig.validation_windows`; may
            be empty.
        config: of the training.
        name: of the fit; in its directory, special characters become dashes.
        storage: directory that all nodes reach, for the directories of fits.
        progress: shows the progress; None for a new one.

    Returns:
        The weights of the last epoch, or with `TrainConfig.patience` those of the best; of the
        moving average where there is one.

    Raises:
        CheckpointError: the directory holds another fit, or training failed more often than
            `TrainConfig.max_failures`.
        InputError: the windows do not fill one batch.
        KeyboardInterrupt: it was interrupted.
    """
    fleet, (train, validation) = fleet.with_windows(
        *([np.sort(chosen_W) for chosen_W in chosen] for chosen in (train, validation))
    )
    counts = [*map(len, train)]
    plan_batches(counts, config)
    directory = storage.absolute() / re.sub(r"[^\w.-]+", "-", name)
    digest = _digest(fleet, train, validation, config)
    finished = _finished(directory, digest, config, fleet)
    if finished is not None:
        return finished
    resume = _resumable(directory, digest)
    start = start_of(fleet, train, config)
    with ExitStack() as stack:
        stack.enter_context(ray_session(config.max_workers))
        shown = progress or stack.enter_context(Progress())
        make_directory(directory)
        queue = open_queue()
        stack.enter_context(following(queue, shown.show))
        given: LoopInput = {
            "name": name,
            "config": config,
            "fleet": fleet,
            "train": train,
            "validation": validation,
            "start": start,
            "is_in_memory": sum(map(memory_bytes, fleet.designs, counts))
            <= config.memory_limit_mb * 1e6,
            "digest": digest,
            "resume": resume,
            "notes": queue,
        }
        with interrupts_kept():
            _train(given, directory)
    saved, history = final_state(directory, name, resume, is_best=config.patience is not None)
    prefix = "average." if config.ema else "model."
    model = start.build()
    trained = {
        key.removeprefix(prefix): tensor
        for key, tensor in saved.tensors.items()
        if key.startswith(prefix)
    }
    # no step changes the temperatures
    model.load_state_dict({"ensemble.temperature_G": model.ensemble.temperature_G, **trained})
    detector = fit_ood_detector(start.network, start.spec, fleet, train, config)
    whole = TrainedModel(model.ensemble, fold(model, start.circuits), detector)
    fitted = Fitted(whole.arrays(), start.network, start.spec, list(history))
    _write(directory, fitted, digest)
    return fitted


def final_state(
    directory: StoragePath, name: str, resumed: Saved | None, *, is_best: bool
) -> tuple[Saved, tuple[EpochRecord, ...]]:
    """Read the state with the weights of a fit, and the history of all its epochs.

    It reads the states that were written, since Ray Train may not know those from before a kill.

    Args:
        directory: of the fit.
        name: of the fit, for the message.
        resumed: the state of a killed run, which Ray Train may have deleted since.
        is_best: use the state with the best validation score instead of the last.

    Raises:
        CheckpointError: there is no state.
    """
    found = states(directory) + ([resumed] if resumed else [])
    last = newest_of(found)
    chosen = best_of(found) if is_best else last
    if last is None or chosen is None:
        raise CheckpointError(
            f"expected a checkpoint of fit '{name}' in '{directory}', found none: run the same "
            "command again"
        )
    return chosen, last.state.history


def _train(given: LoopInput, directory: StoragePath) -> None:
    """Run Ray Train, which keeps the states of the best and the last epoch."""
    config, is_in_memory = given["config"], given["is_in_memory"]
    datasets: dict[str, ray.data.Dataset | Callable[[], ray.data.Dataset]] = {
        f"{TRAIN}-{number}": _memory_dataset(windows, train_W)
        if is_in_memory
        else windows.dataset(train_W)
        for number, (windows, train_W) in enumerate(
            zip(given["fleet"].designs, given["train"], strict=True)
        )
    }
    filesystem, parent = arrow_filesystem(directory.parent)
    try:
        TorchTrainer(
            cast("Callable[[dict[str, object]], None]", train_loop),
            train_loop_config=cast("dict[str, object]", given),
            datasets=datasets,
            dataset_config=DataConfig(datasets_to_split=[] if is_in_memory else [*datasets]),
            scaling_config=scaling(config, gpus(), free_cpus()),
            run_config=RunConfig(
                name=directory.name,
                storage_path=parent,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=config.max_failures),
                # Ray Train never deletes the last one, so these are the best and the last
                checkpoint_config=CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute=VALIDATION_SCORE
                ),
            ),
        ).fit()
    except TrainingFailedError as error:
        raise CheckpointError(
            f"fit '{given['name']}' failed: {error}; run the same command again to resume it from "
            "its last epoch"
        ) from error


def scaling(config: TrainConfig, gpus: int, cpus: float) -> ScalingConfig:
    """Return the workers of a fit and what they reserve.

    Args:
        config: of the training.
        gpus: of the cluster, which may be driven from a node without one. Without a GPU for each
            worker all of them use CPUs: two workers can't share one.
        cpus: that are free. A single worker does with half of them, so that it and the tasks that
            read for it can start beside a service; several wait for theirs, which makes a cluster
            grow.
    """
    reserved = min(CPU_OF_A_WORKER, cpus / 2) if config.max_workers == 1 else CPU_OF_A_WORKER
    return ScalingConfig(
        num_workers=(config.min_workers, config.max_workers)
        if config.is_elastic
        else config.max_workers,
        use_gpu=gpus >= config.min_workers,
        resources_per_worker={"CPU": reserved},
        elastic_resize_monitor_interval_s=RESIZE_S,
    )


def _memory_dataset(windows: Windows, chosen_W: Integers) -> ray.data.Dataset:
    """Return windows as a dataset in Ray's memory.

    Tasks that read shards would cost more than reading the windows here.
    """
    blocks = [
        pa.table({"position": position_B, "values": ArrowTensorArray.from_numpy(values_BSN)})
        for position_B, values_BSN in windows.batches(chosen_W)
    ]
    # unlike `from_arrow`, it runs no task, which would wait for a whole processor
    found: ray.data.Dataset = ray.data.from_blocks(blocks)
    return found


def _digest(fleet: Fleet, train: Chosen, validation: Chosen, config: TrainConfig) -> str:
    """Identify a fit: hash its data and the settings that change its weights."""
    digest = hashlib.sha256(config.of_fits().encode())
    for windows, train_W, validation_W in zip(fleet.designs, train, validation, strict=True):
        digest.update(windows.equipment.revision.encode())
        labels = windows.labels
        for array in (
            train_W, validation_W, labels.machine_W, labels.start_us_W, labels.grade_WV,
            labels.health_WV, labels.rate_WV, labels.rul_WV,
        ):  # fmt: skip
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _finished(
    directory: StoragePath, digest: str, config: TrainConfig, fleet: Fleet
) -> Fitted | None:
    try:
        stated = _Fitted.model_validate_json((directory / FITTED).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise CheckpointError(
            f"'{directory / FITTED}' can't be read, delete the directory: {error}"
        ) from error
    _check_digest(directory, stated.digest, digest)
    weights = load_arrays((directory / WEIGHTS).read_bytes())
    return Fitted(
        weights,
        network(stated.spec, config, ood_steps(fleet), stated.circuits),
        stated.spec,
        list(stated.history),
    )


def _resumable(directory: StoragePath, digest: str) -> Saved | None:
    """Return the newest state of an earlier run; remove Ray Train's list if a kill truncated it."""
    newest = newest_of(states(directory)) if directory.exists() else None
    if newest is not None:
        _check_digest(directory, newest.state.digest, digest)
    snapshot = directory / SNAPSHOT
    if snapshot.exists() and not snapshot.read_bytes().rstrip().endswith(b"}"):
        snapshot.unlink()
    return newest


def _check_digest(directory: StoragePath, found: str, expected: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"expected '{directory}' to hold this fit, found one of another configuration or other "
            "windows: give another directory or delete it"
        )


def _write(directory: StoragePath, fitted: Fitted, digest: str) -> None:
    """Write a finished fit, `fitted.json` last."""
    write_whole(directory / WEIGHTS, save_arrays(dict(fitted.weights)))
    stated = _Fitted(
        digest=digest,
        spec=fitted.spec,
        circuits=fitted.config.circuits,
        history=tuple(fitted.history),
    )
    write_whole(directory / FITTED, stated.model_dump_json().encode())
