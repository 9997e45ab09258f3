"""The same fit in one process without Ray, for trials of a search.

Invariant: its weights are bitwise those of `train.fitting.fit.run_fit` with one worker.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from train.config import TrainConfig
from train.data.labels import Integers
from train.data.reference import fit_spec
from train.data.windows import Windows
from train.fitting.batches import MemoryBatches, Share, count_steps
from train.fitting.epoch import WorkerFit, prepare_learner
from train.fitting.fit import network
from train.fitting.loop import is_stalled
from train.fitting.progress import EpochRecord
from train.fitting.validate import Validation


def prepare_fit(
    windows: Windows,
    train_W: Integers,
    config: TrainConfig,
    share: Share = Share(0, 1),  # noqa: B008
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> WorkerFit:
    """Prepare a fit in this process, which computes with one thread from then on.

    Args:
        windows: of machines of one topology.
        train_W: positions of the training windows, which are all kept in memory.
        config: of the training.
        share: this process's share of each batch.
        wrap: wraps the network to average gradients over processes.

    Raises:
        InputError: the windows do not fill one batch.
    """
    train_W = np.sort(train_W)
    steps = count_steps(len(train_W), config)
    spec = fit_spec(windows, train_W, config)
    sized = network(spec, config, windows.equipment.steps)
    learner, builder = prepare_learner(
        windows, spec, sized, config, len(train_W), torch.device("cpu"), wrap
    )
    values_WSN = np.concatenate([values_BSN for _, values_BSN in windows.batches(train_W)])
    batches = MemoryBatches(train_W, values_WSN, steps, config.batch, config.seed, share)
    return WorkerFit(learner, builder, batches, share)


def fit_single_process(
    windows: Windows,
    train_W: Integers,
    validation_W: Integers,
    config: TrainConfig,
    on_epoch: Callable[[EpochRecord], None],
) -> dict[str, torch.Tensor]:
    """Fit one network in this process; all training windows are kept in memory.

    Args:
        windows: of machines of one topology.
        train_W: positions of the training windows.
        validation_W: positions of the validation windows; may be empty.
        config: of the training; its number of workers has no effect.
        on_epoch: called with the record of each epoch.

    Returns:
        The weights after the last epoch, without the linear classifier.

    Raises:
        InputError: the windows do not fill one batch.
    """
    fit = prepare_fit(windows, train_W, config)
    validation = Validation.of(fit, windows, validation_W)
    history: list[EpochRecord] = []
    for number in range(config.epochs):
        history.append(fit.run_epoch(number, validation.score))
        on_epoch(history[-1])
        if is_stalled(history, config.patience):
            break
    return {name: tensor.detach().clone() for name, tensor in fit.learner.weights().items()}
