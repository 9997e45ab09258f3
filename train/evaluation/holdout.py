"""Predictions of one fit for its holdout: clean, with sensors removed, and with faulty sensors.

Called once after each fit; the result is small, so those of all folds fit into memory. Invariant:
nothing here reads a label.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import FeatureSpec
from app.model.graph import GraphGroup, build_topology
from app.model.layers import RelationAttention
from app.model.network import Ensemble, GraphTensors, UniversalTemporalGNN
from app.model.trained import TrainedModel
from train.data.labels import Integers, evenly_spaced
from train.data.machine_baselines import plan_machines
from train.data.windows import Windows
from train.evaluation.conformal import removal_order
from train.evaluation.predict import Disturb, Predictions, predict, predict_each
from train.evaluation.robustness import FAULTS, Fault, faulty_sensor, removed, usual_spread

PROBES = 96
"""Windows of a holdout that are predicted with each sensor faulty in each way."""
REMOVAL_PROBES = 240
"""Windows of a holdout whose sensors are removed one after the other."""
MAX_SENSORS = 48
"""Sensors that are made faulty in turn, evenly spaced."""
MAX_LEVELS = 24
"""Levels of the removal, evenly spaced."""

PredictEach = Callable[[Integers, Sequence[Disturb | None]], list[Predictions]]


@dataclass(frozen=True, slots=True)
class Probes:
    """Predictions for some held-out windows with faults, by fault and id of the faulty sensor."""

    window_W: Integers
    clean: Predictions
    faulty: Mapping[Fault, Mapping[str, Predictions]]


@dataclass(frozen=True, slots=True)
class Removals:
    """Predictions for some held-out windows while `away` sensors, drawn for each, are missing."""

    window_W: Integers
    away: tuple[int, ...]
    predictions: tuple[Predictions, ...]


@dataclass(frozen=True, slots=True)
class HoldoutPart:
    """One part of a split with the predictions of its fit for the holdout.

    Args:
        name: of the part.
        train_W: positions of the windows that were fitted, without those for validation; baselines
            are fitted to the same.
        holdout_W: positions of the held-out windows.
        clean: predictions for the holdout.
        probes: with faulty sensors; None where they were not made.
        removals: with sensors removed; None where they were not made.
        attention_LE: attention weights of some windows, one row a layer.
    """

    name: str
    train_W: Integers
    holdout_W: Integers
    clean: Predictions
    probes: Probes | None = None
    removals: Removals | None = None
    attention_LE: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))


def predict_holdout(
    model: TrainedModel,
    spec: FeatureSpec,
    windows: Windows,
    name: str,
    train_W: Integers,
    holdout_W: Integers,
    seed: int = 0,
    probes: int = PROBES,
    removal_probes: int = REMOVAL_PROBES,
) -> HoldoutPart:
    """Predict the windows that a fit holds out.

    Args:
        model: fitted to `train_W`.
        spec: fitted to the same.
        windows: all windows.
        name: of the part.
        train_W: positions of the fitted windows, without those for validation.
        holdout_W: positions of the held-out windows, rising.
        seed: of noise and of the order of removal.
        probes: windows with faulty sensors at most; 0 for none.
        removal_probes: windows with sensors removed at most; 0 for none.
    """
    predicted = partial(predict_each, model, spec, windows)
    has_windows = len(holdout_W) > 0
    return HoldoutPart(
        name=name,
        train_W=train_W,
        holdout_W=holdout_W,
        clean=predict(model, spec, windows, holdout_W),
        probes=_probes(predicted, windows, holdout_W, seed, probes)
        if probes and has_windows
        else None,
        removals=_removals(predicted, windows, evenly_spaced(holdout_W, removal_probes), seed)
        if removal_probes and has_windows
        else None,
        attention_LE=_attention(model, spec, windows, evenly_spaced(holdout_W, 64))
        if has_windows
        else np.empty((0, 0), np.float32),
    )


def _probes(
    predicted: PredictEach, windows: Windows, holdout_W: Integers, seed: int, most: int
) -> Probes:
    chosen_W = evenly_spaced(holdout_W, most)
    ids = windows.equipment.sensor_ids
    sensors = evenly_spaced(np.arange(len(ids)), MAX_SENSORS).tolist()
    spread_S = usual_spread(next(windows.batches(evenly_spaced(holdout_W, 64), 64))[1])
    cases = [(fault, sensor) for fault in FAULTS for sensor in sensors]
    disturbs = [faulty_sensor(fault, sensor, spread_S, seed) for fault, sensor in cases]
    clean, *faulty = predicted(chosen_W, [None, *disturbs])
    found: dict[Fault, dict[str, Predictions]] = {fault: {} for fault in FAULTS}
    for (fault, sensor), predictions in zip(cases, faulty, strict=True):
        found[fault][ids[sensor]] = predictions
    return Probes(chosen_W, clean, found)


def _removals(predicted: PredictEach, windows: Windows, chosen_W: Integers, seed: int) -> Removals:
    S = len(windows.equipment.sensors)
    away = tuple(evenly_spaced(np.arange(S), MAX_LEVELS).tolist())
    rank_WS = removal_order(S, len(chosen_W), seed)
    found = predicted(chosen_W, [removed(rank_WS, count) for count in away])
    return Removals(window_W=chosen_W, away=away, predictions=tuple(found))


def _attention(
    model: TrainedModel, spec: FeatureSpec, windows: Windows, chosen_W: Integers
) -> Floats:
    position_B, values_BSN = next(windows.batches(chosen_W, 64))
    plan = plan_machines(windows, spec).rows(windows.labels.machine_W[position_B])
    found = batch_features(values_BSN, plan)
    group = GraphGroup(build_topology(windows.equipment, spec), found.x_WSTF, found.mask_WST)
    return attention_weights(model.ensemble.eval(), group)


def attention_weights(model: Ensemble, group: GraphGroup) -> Floats:
    """Return the attention weight of each edge in each layer, mean of members, heads and rows.

    The weights of the edges that end in one component sum to 1 in every layer.

    Args:
        model: in evaluation mode.
        group: windows of one topology.

    Returns:
        [layers, E] in the order of the topology's edges.
    """
    members = [cast("UniversalTemporalGNN", member) for member in model.members]
    layers = [list(member.attention) for member in members]
    found: dict[torch.nn.Module, Tensor] = {}

    def record(layer: torch.nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        weight_ERH = cast("RelationAttention", layer).attention_weights(*inputs)
        found[layer] = weight_ERH.mean((1, 2))

    hooks = [each.register_forward_pre_hook(record) for of_one in layers for each in of_one]
    try:
        with torch.inference_mode():
            model(GraphTensors.of_group(group, model.temperature_G.device))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        return torch.empty(0, len(group.topology.edge_relation_E)).numpy()
    by_layer = zip(*layers, strict=True)
    return torch.stack(
        [torch.stack([found[each] for each in of_layer]).mean(0) for of_layer in by_layer]
    ).cpu().numpy()  # fmt: skip
