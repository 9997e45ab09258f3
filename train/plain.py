"""The same fit in this process alone, without Ray: what a trial of a search runs, and what Ray Train's loop is held against.

Invariant: its weights are those of `train.fit.run_fit` with one worker, bit for bit.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from app.model import UniversalTemporalGNN
from train.augment import Instruments
from train.config import TrainConfig
from train.dataset import plan_tensors, tabulate_targets
from train.epoch import Material, run_epoch
from train.feed import KeptFeed, Share, count_steps
from train.fit import instruments_of, network
from train.labels import Integers
from train.learner import Learner
from train.loop import is_stalled
from train.progress import EpochRecord
from train.reference import fit_spec
from train.validate import Validation
from train.windows import Windows


def fit_plainly(
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
        ValueError: the windows do not fill one batch.
    """
    torch.set_num_threads(1)
    train_W, share, device = np.sort(train_W), Share(0, 1), torch.device("cpu")
    steps = count_steps(len(train_W), config)
    spec = fit_spec(windows, train_W, config)
    sized = network(spec, config, windows.equipment.steps)
    torch.manual_seed(config.seed)
    learner = Learner(UniversalTemporalGNN(sized), lambda model: model, config, config.epochs * steps)
    plan = plan_tensors(windows.equipment, spec, device)
    instruments: Instruments = instruments_of(windows, train_W)
    material = Material(plan, tabulate_targets(windows.labels, sized, device), instruments, config)
    values_WSN = np.concatenate([values_BSN for _, values_BSN in windows.batches(train_W)])
    feed = KeptFeed(train_W, values_WSN, steps, config.batch, config.seed, share)
    validation = Validation.of(windows, validation_W, config.validation_windows, plan, sized.rul_unit_h)
    history: tuple[EpochRecord, ...] = ()
    for epoch in range(config.epochs):
        began, rate = time.monotonic(), learner.rate
        passed = run_epoch(learner, feed, material, epoch, share, _unheard)
        record = EpochRecord(
            epoch=epoch + 1,
            loss=passed.loss,
            score=validation.score(learner),
            learning_rate=rate,
            samples_s=passed.windows / passed.seconds,
            seconds=time.monotonic() - began,
            workers=1,
        )
        history = (*history, record)
        hear(record)
        if is_stalled(history, config.patience):
            break
    return {name: tensor.detach().clone() for name, tensor in learner.weights().items()}


def _unheard(done: int, loss: float, samples_s: float) -> None:
    """Take a note of progress inside an epoch, for nobody."""
