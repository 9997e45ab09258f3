"""The same fit in this process alone, without Ray: what a trial of a search runs, and what Ray Train's loop is held against.

Invariant: its weights are those of `train.fitting.fit.run_fit` with one worker, bit for bit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from app.model.network import UniversalTemporalGNN
from train.config import TrainConfig
from train.data.labels import Integers
from train.data.reference import fit_spec
from train.data.windows import Windows
from train.fitting.batches import KeptFeed, Share, count_steps
from train.fitting.dataset import plan_tensors, tabulate_targets
from train.fitting.epoch import Material, run_epoch
from train.fitting.fit import network
from train.fitting.learner import Learner
from train.fitting.loop import is_stalled
from train.fitting.progress import EpochRecord
from train.fitting.validate import Validation


@dataclass(frozen=True, slots=True)
class Begun:
    """A fit that stands ready: what learns, what it learns from, and how many steps an epoch has."""

    learner: Learner
    material: Material
    feed: KeptFeed
    share: Share

    def epoch(self, number: int) -> EpochRecord:
        """Run an epoch, from 0, and tell how it went; `samples_s` of all processes."""
        began, rate = time.monotonic(), self.learner.rate
        passed = run_epoch(self.learner, self.feed, self.material, number, self.share, _unheard)
        return EpochRecord(
            epoch=number + 1,
            loss=passed.loss,
            score=None,
            learning_rate=rate,
            samples_s=passed.windows * self.share.world / passed.seconds,
            seconds=time.monotonic() - began,
            workers=self.share.world,
        )


def begin(
    windows: Windows,
    train_W: Integers,
    config: TrainConfig,
    share: Share = Share(0, 1),  # noqa: B008
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> Begun:
    """Make a fit ready in this process, which computes with one thread from here on.

    Args:
        windows: of machines of one topology.
        train_W: positions to learn from; all are held in memory.
        config: of the training.
        share: this process's of each batch.
        wrap: makes the network share its gradients with other processes.

    Raises:
        InputError: the windows do not fill one batch.
    """
    torch.set_num_threads(1)
    train_W, device = np.sort(train_W), torch.device("cpu")
    steps = count_steps(len(train_W), config)
    spec = fit_spec(windows, train_W, config)
    sized = network(spec, config, windows.equipment.steps)
    torch.manual_seed(config.seed)
    learner = Learner(UniversalTemporalGNN(sized), wrap, config, config.epochs * steps)
    plan = plan_tensors(windows.equipment, spec, device)
    targets = tabulate_targets(windows.labels, sized, device)
    material = Material(plan, targets, config)
    values_WSN = np.concatenate([values_BSN for _, values_BSN in windows.batches(train_W)])
    return Begun(
        learner,
        material,
        KeptFeed(train_W, values_WSN, steps, config.batch, config.seed, share),
        share,
    )


def fit_single_process(
    windows: Windows,
    train_W: Integers,
    validation_W: Integers,
    config: TrainConfig,
    hear: Callable[[EpochRecord], None],
) -> dict[str, torch.Tensor]:
    """Fit one network here; all training windows are held in memory.

    Args:
        windows: of machines of one topology.
        train_W: positions to learn from.
        validation_W: positions that each epoch is scored on; may be empty.
        config: of the training; how many workers it asks for does not matter.
        hear: is given every epoch's record.

    Returns:
        The weights after the last epoch, without a second opinion.

    Raises:
        InputError: the windows do not fill one batch.
    """
    begun = begin(windows, train_W, config)
    unit_h = begun.learner.model.config.rul_unit_h
    validation = Validation.of(
        windows, validation_W, config.validation_windows, begun.material.plan, unit_h
    )
    history: tuple[EpochRecord, ...] = ()
    for number in range(config.epochs):
        passed = begun.epoch(number)
        history = (*history, passed.model_copy(update={"score": validation.score(begun.learner)}))
        hear(history[-1])
        if is_stalled(history, config.patience):
            break
    return {name: tensor.detach().clone() for name, tensor in begun.learner.weights().items()}


def _unheard(done: int, loss: float, samples_s: float) -> None:
    """Take a note of progress inside an epoch, for nobody."""
