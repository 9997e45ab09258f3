"""The fit of one Ray Train worker: epochs from the last checkpoint on, each with a report.

The workers share each batch; PyTorch's DistributedDataParallel averages their gradients. Invariant:
after a failure only epochs are repeated whose reports Ray Train has not kept, two at most, and only
rank 0 shows progress, validates and writes.
"""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import ray.train
import ray.train.torch
import torch
from ray.data import DataIterator

from train.config import TrainConfig
from train.data.fleet import Chosen, Fleet
from train.data.windows import Windows
from train.fitting.batches import (
    Batches,
    MemoryBatches,
    Rows,
    Share,
    StreamedBatches,
    gather,
    plan_batches,
)
from train.fitting.epoch import WorkerFit, prepare_learner
from train.fitting.learner import Learner
from train.fitting.notes import write_note
from train.fitting.progress import EpochRecord, Note
from train.fitting.start import FitStart
from train.fitting.state import FitState, Saved, newest_of, read_state, write_state
from train.fitting.validate import Validation

TRAIN = "train"
"""Name of the datasets of training windows, before the number of the design."""
VALIDATION_SCORE = "validation_score"
"""The metric by which Ray Train keeps checkpoints, see `FitState.validation_score`."""
READ_WINDOWS = 256
"""Windows of a batch while a worker reads all of them into memory."""


class LoopInput(TypedDict):
    """Input of each worker: the fit, and where its progress goes.

    `is_in_memory`: each worker keeps all training windows in memory; `resume`: the newest state of
    an earlier run; `notes`: handle of a `NoteQueue`.
    """

    name: str
    config: TrainConfig
    fleet: Fleet
    train: Chosen
    validation: Chosen
    start: FitStart
    is_in_memory: bool
    digest: str
    resume: Saved | None
    notes: Any


def train_loop(given: LoopInput) -> None:
    """Run a fit on this worker, from its last checkpoint if there is one."""
    config, fleet = given["config"], given["fleet"]
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    share = Share(context.get_world_rank(), context.get_world_size())
    counts = [*map(len, given["train"])]
    learner, builders = prepare_learner(fleet, given["start"], config, counts, device, _distributed)
    state = _restored(learner, given)
    if state.done:
        return
    fit = WorkerFit(given["start"], learner, builders, _batches(given, share), share)
    nothing = [np.empty(0, np.int64) for _ in fleet.designs]
    validation = Validation.of(fit, fleet, nothing if share.rank else given["validation"])

    def show(done: float, loss: float, samples_s: float, record: EpochRecord | None = None) -> None:
        if share.rank == 0:
            note = Note(
                fit=given["name"],
                epochs=config.epochs,
                done=done,
                loss=loss,
                samples_s=samples_s,
                record=record,
            )
            write_note(given["notes"], note)

    for epoch in range(state.epoch, config.epochs):
        record = fit.run_epoch(epoch, lambda: _agreed(validation.score(), share, device), show)
        scale, scale_age = learner.scale()
        history = (*state.history, record)
        state = FitState(
            digest=given["digest"],
            history=history,
            steps=learner.steps_done,
            done=epoch + 1 == config.epochs or is_stalled(history, config.patience),
            scale=scale,
            scale_age=scale_age,
        )
        _report(learner, state, share)
        show(epoch + 1.0, record.loss, record.samples_s, record)
        if state.done:
            return


def is_stalled(history: Sequence[EpochRecord], patience: int | None) -> bool:
    """Return whether the best score is `patience` epochs old or older."""
    scores = [-torch.inf if record.score is None else record.score for record in history]
    return patience is not None and len(scores) - 1 - scores.index(max(scores)) >= patience


def _distributed(model: torch.nn.Module) -> torch.nn.Module:
    # no step changes a buffer
    options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    wrapped: torch.nn.Module = ray.train.torch.prepare_model(
        model, parallel_strategy_kwargs=options
    )
    return wrapped


def _restored(learner: Learner, given: LoopInput) -> FitState:
    """Restore the newest state and return it.

    Ray Train may know an older one: it loses a report at the moment of a kill.
    """
    found = [] if given["resume"] is None else [given["resume"]]
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            found.append(read_state(Path(directory)))
    saved = newest_of(found)
    if saved is None:
        return FitState(digest=given["digest"], history=(), steps=0, done=False)
    learner.restore(saved.tensors, saved.state.steps, (saved.state.scale, saved.state.scale_age))
    return saved.state


def _batches(given: LoopInput, share: Share) -> list[Batches]:
    config, train = given["config"], given["train"]
    steps, batches = plan_batches([*map(len, train)], config)
    found: list[Batches] = []
    for number, (windows, train_W, batch) in enumerate(
        zip(given["fleet"].designs, train, batches, strict=True)
    ):
        shard = ray.train.get_dataset_shard(f"{TRAIN}-{number}")
        if given["is_in_memory"]:
            rows = shard.iter_batches(batch_size=READ_WINDOWS, batch_format="numpy")
            values_WSN = gather(iter(rows), train_W)
            found.append(
                MemoryBatches(train_W, values_WSN, steps, batch, config.seed, share, number)
            )
            continue
        limit = config.memory_limit_mb * 1e6 / len(train)
        buffer = max(batch, int(limit / memory_bytes(windows, 1)))
        read = partial(_read, shard)
        found.append(StreamedBatches(read, len(train_W), buffer, steps, batch, config.seed, share))
    return found


def _read(shard: DataIterator, size: int, buffer: int, seed: int) -> Iterator[Rows]:
    batches = shard.iter_batches(
        batch_size=size,
        batch_format="numpy",
        local_shuffle_buffer_size=buffer,
        local_shuffle_seed=seed,
        drop_last=True,
    )
    return cast("Iterator[Rows]", iter(batches))


def memory_bytes(windows: Windows, count: int) -> int:
    """Return the memory of the bins of some windows, in bytes."""
    return 4 * count * len(windows.equipment.sensors) * windows.equipment.bins


def _agreed(score: float | None, share: Share, device: torch.device) -> float | None:
    """Return rank 0's score on all workers."""
    if share.world == 1:
        return score
    shared = torch.tensor([np.nan if score is None else score], dtype=torch.float64, device=device)
    torch.distributed.broadcast(shared, src=0)
    agreed = float(shared)
    return None if np.isnan(agreed) else agreed


def _report(learner: Learner, state: FitState, share: Share) -> None:
    """Report an epoch to Ray Train, on rank 0 with the state."""
    record = state.history[-1]
    metrics = record.model_dump() | {VALIDATION_SCORE: state.validation_score}
    if share.rank:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as name:
        write_state(Path(name), state, learner.state())
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(name))
