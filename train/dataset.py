"""Windows with their labels, and the graphs made of them by the same functions that serve.

Does no training and reads no store (see `train.source`).
Invariant: a graph that training sees without gaps is bitwise the graph that serving builds of the same bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.bins import Floats
from app.feature_spec import FeatureSpec
from app.features import SensorFeatures, batch_features, plan_features
from app.graph import GraphBatch, concatenate, plan_graph, tile_graphs
from app.model import GraphTensors, to_tensors
from app.schemas.equipment import Equipment
from train.config import TrainConfig
from train.labels import Booleans, Integers, WindowLabels, configurations, warm_up
from train.loss import Targets
from train.split import split_folds


@dataclass(frozen=True, slots=True)
class WindowSet:
    """W labelled windows of one equipment in order of time.

    `values_WSN` is float32 bins in the order of `Equipment.sensors`, NaN where missing; `fold_W` the fold in which the window is held out;
    `warm_up_W` true in a warm-up.
    """

    equipment: Equipment
    values_WSN: Floats
    labels: WindowLabels
    configuration_W: Integers
    fold_W: Integers
    warm_up_W: Booleans


def make_window_set(equipment: Equipment, values_WSN: Floats, labels: WindowLabels, config: TrainConfig) -> WindowSet:
    """Derive configurations, warm-up and folds of labelled windows.

    Args:
        equipment: the machine.
        values_WSN: bins of the windows of `labels`, in their order.
        labels: grades of the windows.
        config: folds, seed, and how long a warm-up is.

    Returns:
        The windows, ready to be fitted.

    Raises:
        ValueError: there are fewer configurations than folds.
    """
    configuration_W = configurations(labels.grade_WV)
    return WindowSet(
        equipment=equipment,
        values_WSN=values_WSN,
        labels=labels,
        configuration_W=configuration_W,
        fold_W=split_folds(labels.grade_WV, configuration_W, config.folds, config.seed),
        warm_up_W=warm_up(configuration_W, labels.stable_W, config.warm_up_run),
    )


def window_graphs(
    values_WSN: Floats, equipment: Equipment, spec: FeatureSpec
) -> tuple[list[GraphBatch], list[SensorFeatures]]:
    """Build the graph of each window, and return it with the window's features."""
    features_plan, graph_plan = plan_features(equipment, spec), plan_graph(equipment, spec)
    batch = batch_features(values_WSN, features_plan)
    features = [batch.window(index, features_plan) for index in range(len(values_WSN))]
    return [tile_graphs(graph_plan, each.x_STF[None], each.mask_ST[None]) for each in features], features


def with_gaps(values_WSN: Floats, generator: np.random.Generator) -> Floats:
    """Return windows in which a third of the sensors lacks one stretch of at most half of the bins, as a failing link leaves it."""
    W, S, N = values_WSN.shape
    start_WS = generator.integers(0, N, (W, S))
    length_WS = generator.integers(1, N // 2 + 1, (W, S)) * (generator.random((W, S)) < 1 / 3)
    bin_N = np.arange(N)
    lost_WSN = (bin_N >= start_WS[..., None]) & (bin_N < (start_WS + length_WS)[..., None])
    return np.where(lost_WSN, np.float32(np.nan), values_WSN)


def join(graphs: Sequence[GraphBatch], grade_WV: Integers, healths: Sequence[Floats]) -> tuple[GraphTensors, Targets]:
    """Join windows to one batch of tensors with its targets.

    Args:
        graphs: one for each window.
        grade_WV: grades of these windows, -1 where none is known.
        healths: health of each grade of each component, empty for a component without grades.
    """
    health_WV = np.full(grade_WV.shape, np.nan, np.float32)
    for component, health_K in enumerate(healths):
        known_W = grade_WV[:, component] >= 0
        health_WV[known_W, component] = health_K[grade_WV[known_W, component]]
    rate_WV = np.full(grade_WV.shape, np.nan, np.float32)
    targets = Targets(*(torch.from_numpy(array.reshape(-1)) for array in (grade_WV.copy(), health_WV, rate_WV)))
    return to_tensors(concatenate(graphs)), targets


def mix(
    graph: GraphTensors, targets: Targets, windows: int, share: float, generator: torch.Generator
) -> tuple[GraphTensors, Targets]:
    """Blend each window with another of the batch (Zhang et al., "mixup", 2018), which keeps the network from learning windows by heart.

    Args:
        graph: windows of one equipment.
        targets: of these windows.
        windows: how many.
        share: weight of the window itself; its partner has the rest.
        generator: draws the partners.

    Returns:
        The blended graph, and the targets of the partners.
    """
    partner_W = torch.randperm(windows, generator=generator)

    def of_partner(values: Tensor) -> Tensor:
        return values.view(windows, -1, *values.shape[1:])[partner_W].view(values.shape)

    blended = graph._replace(
        x_STF=share * graph.x_STF + (1.0 - share) * of_partner(graph.x_STF),
        mask_ST=graph.mask_ST & of_partner(graph.mask_ST),
    )
    blended.x_STF.mul_(blended.mask_ST[..., None])
    return blended, Targets(*(of_partner(values) for values in targets))


def disturb(graph: GraphTensors, windows: int, config: TrainConfig, generator: torch.Generator) -> GraphTensors:
    """Add noise to the features and mask whole sensors in half of the windows, so that a missing sensor costs little."""
    sensors = graph.mask_ST.shape[0]
    touched_S = (torch.rand(windows, generator=generator) < 0.5).repeat_interleave(sensors // windows)
    lost_S = (torch.rand(sensors, generator=generator) < config.sensor_dropout) & touched_S
    mask_ST = graph.mask_ST & ~lost_S[:, None]
    noise_STF = config.feature_noise * torch.randn(graph.x_STF.shape, generator=generator)
    noise_STF[..., -1] = 0.0  # coverage is exact
    return graph._replace(x_STF=(graph.x_STF + noise_STF) * mask_ST[..., None], mask_ST=mask_ST)
