"""Steps that the augmentation of training leaves unmasked."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch_geometric.data import Batch

from train.config import TrainConfig
from train.fitting.augment import augment, blend
from train.fitting.loss import Targets

STEPS = 12


def unmasked_steps(config: TrainConfig, sensors: int, windows: int = 20_000) -> NDArray[np.bool_]:
    """Return which steps of whole windows stay unmasked in training, [W, S, T]."""
    values_WSN = np.zeros((windows, sensors, STEPS), np.float32)
    values_WSN = augment(values_WSN, config, np.random.default_rng(0))
    mask_ST = torch.from_numpy(np.isfinite(values_WSN).reshape(-1, STEPS))
    if config.mixup:
        graph = Batch(x=torch.zeros(*mask_ST.shape, 1), mask=mask_ST)
        targets = Targets(*[torch.zeros(windows)] * len(Targets._fields))
        generator = torch.Generator().manual_seed(0)
        mask_ST = blend(graph, targets, windows, 0.7, generator)[0].mask
    mask_WST: NDArray[np.bool_] = mask_ST.numpy().reshape(windows, sensors, STEPS)
    return mask_WST
