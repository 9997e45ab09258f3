"""What each of Ray Train's workers runs: every fold's fit and the last one, inside one start of the workers.

The workers hold the same windows and share each batch; PyTorch's DistributedDataParallel averages their gradients.
Invariant: rank 0 alone speaks and hands back results, once, at the end.
"""

import tempfile
from pathlib import Path
from typing import TypedDict

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.util.queue import Queue
from safetensors.torch import save as save_tensors

from app.bins import Floats
from train.config import TrainConfig
from train.dataset import WindowSet
from train.fit import Share, run_fit
from train.labels import Integers

HELD_OUT = "held_out.npz"
WEIGHTS = "weights.safetensors"
FEATURE_SPEC = "feature_spec.json"


class LoopInput(TypedDict):
    """What the driver gives each worker; lines put into `progress` are for people."""

    config: TrainConfig
    windows: "ray.ObjectRef[WindowSet]"
    progress: Queue


def train_loop(given: LoopInput) -> None:
    """Run all fits of a training on this worker; rank 0 reports held-out answers and the last fit's weights as a checkpoint."""
    torch.set_num_threads(1)
    config, windows, progress = given["config"], ray.get(given["windows"]), given["progress"]
    context = ray.train.get_context()
    share = Share(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
        wrap=ray.train.torch.prepare_model,
        say=progress.put,
    )
    logits: list[Floats] = []
    opinions: list[Floats] = []
    excess: list[Floats] = []
    order: list[Integers] = []
    for fold in range(config.folds):
        fit = run_fit(windows, windows.fold_W == fold, config, f"fold {fold + 1}/{config.folds}", share)
        logits.append(fit.held_out.logit_WMVJ)
        opinions.append(fit.held_out.opinion_WVK)
        excess.append(fit.held_out.excess_WS)
        order.append(fit.held_W)
    last = run_fit(windows, np.zeros(len(windows.labels), np.bool_), config, "all", share)
    if share.rank != 0:
        ray.train.report({})
        return
    place = np.argsort(np.concatenate(order))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        np.savez(
            directory / HELD_OUT,
            logit=np.concatenate(logits)[place],
            opinion=np.concatenate(opinions)[place],
            excess=np.concatenate(excess)[place],
        )
        weights = {key: tensor.cpu().contiguous() for key, tensor in last.model.state_dict().items()}
        (directory / WEIGHTS).write_bytes(save_tensors(weights))
        (directory / FEATURE_SPEC).write_text(last.spec.model_dump_json(), encoding="utf-8")
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(directory))
