"""The same fit in one process without Ray, for trials of a search.

Invariant: its weights are bitwise those of `train.fitting.fit.run_fit` with one worker.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from train.config import TrainConfig
from train.data.fleet import Chosen, Fleet
from train.fitting.batches import MemoryBatches, Share, plan_batches
from train.fitting.epoch import WorkerFit, prepare_learner
from train.fitting.loop import is_stalled
from train.fitting.progress import EpochRecord
from train.fitting.start import start_of
from train.fitting.validate import Validation


def prepare_fit(
    fleet: Fleet,
    train: Chosen,
    config: TrainConfig,
    share: Share = Share(0, 1),  # noqa: B008
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> WorkerFit:
    """Prepare a fit in this process, which computes with one thread from then on.

    Args:
        fleet: windows of each design.
        train: positions of the training windows, which are all kept in memory; at least one of each
            design.
        config: of the training.
        share: this process's share of each batch.
        wrap: wraps the network to average gradients over processes.

    Raises:
        InputError: the windows do not fill one batch.
    """
    train = [np.sort(train_W) for train_W in train]
    counts = [*map(len, train)]
    steps, shares = plan_batches(counts, config)
    start = start_of(fleet, train, config)
    learner, builders = prepare_learner(fleet, start, config, counts, torch.device("cpu"), wrap)
    batches = [
        MemoryBatches(
            train_W,
            np.concatenate([values_BSN for _, values_BSN in windows.batches(train_W)]),
            steps,
            shares[number],
            config.seed,
            share,
            number,
        )
        for number, (windows, train_W) in enumerate(zip(fleet.designs, train, strict=True))
    ]
    return WorkerFit(start, learner, builders, batches, share)


def fit_single_process(
    fleet: Fleet,
    train: Chosen,
    validation: Chosen,
    config: TrainConfig,
    on_epoch: Callable[[EpochRecord], None],
) -> dict[str, torch.Tensor]:
    """Fit one network in this process; all training windows are kept in memory.

    Args:
        fleet: windows of each design.
        train: positions of the training windows; a design without any is left out.
        validation: positions of the validation windows; may be empty.
        config: of the training; its number of workers has no effect.
        on_epoch: called with the record of each epoch.

    Returns:
        The weights after the last epoch.

    Raises:
        InputError: the windows do not fill one batch.
    """
    fleet, (train, validation) = fleet.with_windows(train, validation)
    fit = prepare_fit(fleet, train, config)
    scored = Validation.of(fit, fleet, validation)
    history: list[EpochRecord] = []
    for number in range(config.epochs):
        history.append(fit.run_epoch(number, scored.score))
        on_epoch(history[-1])
        if is_stalled(history, config.patience):
            break
    return {name: tensor.detach().clone() for name, tensor in fit.learner.weights().items()}
