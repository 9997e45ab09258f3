"""Augments training windows with the sensor dropouts and gaps seen in production, and with mixup.

Augmentations of bins are pure functions of [W, S, N] float32, NaN where missing, which return a new
array; disturbances and mixup act on features. Invariant: a missing bin stays missing.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from app.checkpoint.masking import GAPPED_SENSORS, HISTORY_PARTS, LONGEST_GAP
from app.features.binning import Floats
from train.config import TrainConfig
from train.fitting.loss import Targets
from train.fitting.wide_and_deep import WideInput

Generator = np.random.Generator


def augment(values_WSN: Floats, config: TrainConfig, generator: Generator) -> Floats:
    """Apply each augmentation of a training to its share of the windows.

    Args:
        values_WSN: bins; not changed.
        config: strengths, and the share of windows for each augmentation.
        generator: source of all random numbers.

    Returns:
        Windows of the same shape.
    """
    steps: tuple[tuple[float, Callable[[Floats], Floats]], ...] = (
        (config.history_cut, lambda values: cut_history(values, generator)),
        (config.gap_share, lambda values: cut_gaps(values, generator)),
        (
            config.augmented_share,
            lambda values: drop_sensors(values, config.sensor_dropout, generator),
        ),
    )
    augmented_WSN = values_WSN.copy()
    for share, change in steps:
        chosen_W = generator.random(len(values_WSN)) < share
        if chosen_W.any():
            augmented_WSN[chosen_W] = change(augmented_WSN[chosen_W])
    return augmented_WSN


def drop_sensors(values_WSN: Floats, share: float, generator: Generator) -> Floats:
    """Mask a share of the sensors for the whole window."""
    lost_WS = generator.random(values_WSN.shape[:2]) < share
    return np.where(lost_WS[..., None], np.float32(np.nan), values_WSN)


def cut_history(values_WSN: Floats, generator: Generator) -> Floats:
    """Mask the beginning of every window in all sensors, at most 11/12 of it.

    Otherwise the network takes a worn machine with a short history for a new one.
    """
    W, _, N = values_WSN.shape
    longest = (HISTORY_PARTS - 1) * N // HISTORY_PARTS
    since_W = generator.integers(0, max(1, longest) + 1, W)
    return np.where(np.arange(N) < since_W[:, None, None], np.float32(np.nan), values_WSN)


def cut_gaps(values_WSN: Floats, generator: Generator) -> Floats:
    """Mask one gap of at most half of the bins in a third of the sensors."""
    W, S, N = values_WSN.shape
    start_WS = generator.integers(0, N, (W, S))
    length_WS = generator.integers(1, int(LONGEST_GAP * N) + 1, (W, S))
    length_WS *= generator.random((W, S)) < GAPPED_SENSORS
    bin_N = np.arange(N)
    lost_WSN = (bin_N >= start_WS[..., None]) & (bin_N < (start_WS + length_WS)[..., None])
    return np.where(lost_WSN, np.float32(np.nan), values_WSN)


def disturbance(windows: int, direction_DSTF: Floats, share: float, generator: Generator) -> Floats:
    """Draw how biased sensors and another oil temperature move the features, [W, S, T, F].

    Args:
        windows: W.
        direction_DSTF: change by each disturbance of one standard deviation, from
            `train.linear.nuisance`.
        share: of the windows that are disturbed.
        generator: source of all random numbers.
    """
    strength_WD = generator.normal(size=(windows, len(direction_DSTF)))
    strength_WD *= generator.random((windows, 1)) < share
    moved_WSTF: Floats = np.tensordot(strength_WD.astype(np.float32), direction_DSTF, axes=1)
    return moved_WSTF


def blend(
    graph: Batch,
    wide: WideInput,
    targets: Targets,
    share: float,
    generator: torch.Generator,
) -> tuple[Batch, WideInput, Targets]:
    """Mix each window with another of the batch (Zhang et al., "mixup", 2018).

    Args:
        graph: windows of one topology.
        wide: what the skip reads of them.
        targets: of these windows.
        share: weight of the window itself; its partner has the rest.
        generator: draws the partners.

    Returns:
        The mixed graph and input of the skip, and the targets of the partners.
    """
    windows = wide.windows
    partner_W = torch.randperm(windows, generator=generator).to(graph.x.device)

    def of_partner(values: Tensor) -> Tensor:
        return values.view(windows, -1, *values.shape[1:])[partner_W].view(values.shape)

    blended = copy.copy(graph)
    blended.mask = graph.mask & of_partner(graph.mask)
    blended.x = torch.lerp(of_partner(graph.x), graph.x, share) * blended.mask[..., None]
    mixed = wide._replace(
        circuits=tuple(
            each._replace(
                x_BL=torch.lerp(of_partner(each.x_BL), each.x_BL, share),
                is_known_B=each.is_known_B & of_partner(each.is_known_B),
            )
            for each in wide.circuits
        )
    )
    return blended, mixed, Targets(*(of_partner(values) for values in targets))
