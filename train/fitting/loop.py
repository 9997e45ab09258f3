"""What each of Ray Train's workers runs for one fit: epochs from the last checkpoint on, each with a report.

The workers share each batch; PyTorch's DistributedDataParallel averages their gradients.
Invariant: nothing but an epoch that was interrupted is repeated, and rank 0 alone speaks, validates
and writes.
"""

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import ray.train
import ray.train.torch
import torch

from app.features.spec import FeatureSpec
from app.model.config import ModelConfig
from app.model.network import build_model
from train.config import TrainConfig
from train.data.labels import Integers
from train.data.windows import Windows
from train.fitting.batches import Feed, KeptFeed, Rows, Share, StreamFeed, count_steps, gather
from train.fitting.dataset import plan_tensors, tabulate_targets
from train.fitting.epoch import Material, run_epoch
from train.fitting.learner import Learner
from train.fitting.progress import EpochRecord, Note, write_note
from train.fitting.state import FitState, read_state, write_state
from train.fitting.validate import Validation

TRAIN = "train"
"""Name of the dataset of the training windows."""
MERIT = "merit"
"""The metric by which checkpoints are kept, see `FitState.merit`."""
READ_AT_ONCE = 256
"""Windows of a piece while a worker fills its memory."""


class LoopInput(TypedDict):
    """What the driver gives each worker: the fit, and a file for what is shown while it runs.

    `is_kept` tells whether workers hold all training windows in memory; `resume` is the newest
    state that an
    earlier run left.
    """

    name: str
    config: TrainConfig
    windows: Windows
    train_W: Integers
    validation_W: Integers
    spec: FeatureSpec
    network: ModelConfig
    is_kept: bool
    digest: str
    resume: Path | None
    notes: Path


def train_loop(given: LoopInput) -> None:
    """Run a fit on this worker, from its last checkpoint if there is one."""
    torch.set_num_threads(1)
    config, train_W = given["config"], given["train_W"]
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    share = Share(context.get_world_rank(), context.get_world_size())
    steps = count_steps(len(train_W), config)
    torch.manual_seed(config.seed)
    model = build_model(given["network"]).to(device)
    learner = Learner(model, _distributed, config, config.epochs * steps)
    state = _restored(learner, given)
    if state.done:
        return
    plan = plan_tensors(given["windows"].equipment, given["spec"], device)
    targets = tabulate_targets(given["windows"].labels, given["network"], device)
    material = Material(plan, targets, config)
    feed = _feed(given, share)
    watched_W = given["validation_W"] if share.rank == 0 else given["validation_W"][:0]
    validation = Validation.of(
        given["windows"], watched_W, config.validation_windows, plan, given["network"].rul_unit_h
    )

    def tell(
        epoch: int, done: float, loss: float, samples_s: float, record: EpochRecord | None = None
    ) -> None:
        if share.rank == 0:
            note = Note(
                fit=given["name"],
                epochs=config.epochs,
                done=epoch + done,
                loss=loss,
                samples_s=samples_s,
                record=record,
            )
            write_note(given["notes"], note)

    def beat(epoch: int, done: int, loss: float, mine_s: float) -> None:
        tell(epoch, done / steps, loss, mine_s * share.world)

    for epoch in range(state.epoch, config.epochs):
        began = time.monotonic()
        rate = learner.rate
        passed = run_epoch(
            learner,
            feed,
            material,
            epoch,
            share,
            partial(beat, epoch),
        )
        score = _agreed(validation.score(learner), share, device)
        record = EpochRecord(
            epoch=epoch + 1,
            loss=passed.loss,
            score=score,
            learning_rate=rate,
            samples_s=passed.windows * share.world / passed.seconds,
            seconds=time.monotonic() - began,
            workers=share.world,
        )
        scale, scale_age = learner.scale()
        history = (*state.history, record)
        state = FitState(
            digest=given["digest"],
            history=history,
            steps=learner.taken,
            done=epoch + 1 == config.epochs or is_stalled(history, config.patience),
            scale=scale,
            scale_age=scale_age,
        )
        _report(learner, state, share)
        tell(epoch, 1.0, record.loss, record.samples_s, record)
        if state.done:
            return


def is_stalled(history: tuple[EpochRecord, ...], patience: int | None) -> bool:
    """Return whether the best score is `patience` epochs old or older."""
    scores = [-torch.inf if record.score is None else record.score for record in history]
    return patience is not None and len(scores) - 1 - scores.index(max(scores)) >= patience


def _distributed(model: torch.nn.Module) -> torch.nn.Module:
    """Share gradients with the other workers; no step changes a buffer."""
    options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    wrapped: torch.nn.Module = ray.train.torch.prepare_model(
        model, parallel_strategy_kwargs=options
    )
    return wrapped


def _restored(learner: Learner, given: LoopInput) -> FitState:
    """Take the learner to the newest state that there is and return where that was.

    Ray Train may know an older one: it loses what is reported to it at the moment of a kill.
    """
    found = [] if given["resume"] is None else [read_state(given["resume"])]
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            found.append(read_state(Path(directory)))
    if not found:
        return FitState(digest=given["digest"], history=(), steps=0, done=False)
    saved = max(found, key=lambda each: each.state.epoch)
    learner.restore(saved.tensors, saved.state.steps, (saved.state.scale, saved.state.scale_age))
    return saved.state


def _feed(given: LoopInput, share: Share) -> Feed:
    config, train_W = given["config"], given["train_W"]
    steps = count_steps(len(train_W), config)
    shard = ray.train.get_dataset_shard(TRAIN)
    if given["is_kept"]:
        rows = shard.iter_batches(batch_size=READ_AT_ONCE, batch_format="numpy")
        return KeptFeed(
            train_W, gather(iter(rows), train_W), steps, config.batch, config.seed, share
        )

    def read(size: int, held: int, seed: int) -> Iterator[Rows]:
        return iter(
            shard.iter_batches(
                batch_size=size,
                batch_format="numpy",
                local_shuffle_buffer_size=held,
                local_shuffle_seed=seed,
                drop_last=True,
            )
        )

    equipment = given["windows"].equipment
    window_bytes = 4 * len(equipment.sensors) * equipment.bins
    held = max(config.batch, int(config.memory_limit_mb * 1e6 / window_bytes))
    return StreamFeed(read, len(train_W), held, steps, config.batch, config.seed, share)


def _agreed(score: float | None, share: Share, device: torch.device) -> float | None:
    """Give rank 0's score to all workers."""
    if share.world == 1:
        return score
    shared = torch.tensor(
        [float("nan") if score is None else score], dtype=torch.float64, device=device
    )
    torch.distributed.broadcast(shared, src=0)
    agreed = float(shared)
    return None if np.isnan(agreed) else agreed


def _report(learner: Learner, state: FitState, share: Share) -> None:
    """Hand an epoch's figures to Ray Train, on rank 0 with the state."""
    record = state.history[-1]
    metrics = record.model_dump() | {MERIT: state.merit}
    if share.rank:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as name:
        write_state(Path(name), state, learner.state())
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(name))
