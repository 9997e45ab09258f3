"""What a network says of windows that stay on disk: bins to features to graphs to heads, a few windows at a time.

Features come from `app.features.extraction` and graphs from `app.model.graph`, as when serving; a network without message passing is one whose
config has no attention layers, so nothing here differs for it.
Invariant: what is said of a window does not depend on the windows that are asked with it, and memory does not grow with their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import FeaturePlan, FeatureSpec, plan_features
from app.model.graph import GraphPlan, plan_graph, tile_graphs
from app.model.network import UniversalTemporalGNN, spread, to_tensors
from train.data.labels import Integers
from train.data.windows import Windows

Disturb = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a network says of W windows, float32, NaN where it says nothing.

    `logit_WMVJ` is score - threshold before any temperature, -inf where a set has fewer grades; `opinion_WVK` the second opinion's
    logits; health and its spread in [0, 1]; rate in health lost per 1000 operating hours; RUL and its spread in operating hours;
    `distance_WV` how far a component's evidence is from training's, 1.0 at the limit; `exceedance_WS` how far each sensor leaves the training range, NaN for a sensor without use.
    """

    logit_WMVJ: Floats
    opinion_WVK: Floats
    health_WV: Floats
    spread_WV: Floats
    rate_WV: Floats
    rul_WV: Floats
    rul_spread_WV: Floats
    distance_WV: Floats
    exceedance_WS: Floats

    def __len__(self) -> int:
        """Return W."""
        return len(self.health_WV)

    def only(self, chosen_W: Integers | NDArray[np.bool_]) -> Self:
        """Return what was said of some of the windows."""
        return type(self)(*(getattr(self, field.name)[chosen_W] for field in fields(self)))


def join(parts: list[Predictions]) -> Predictions:
    """Put what was said of several sets of windows one after the other."""
    return Predictions(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Predictions)
        )
    )


def predict(
    model: UniversalTemporalGNN,
    spec: FeatureSpec,
    windows: Windows,
    chosen_W: Integers,
    disturb: Disturb | None = None,
    size: int = 32,
) -> Predictions:
    """Ask a network about windows, in evaluation mode and without gradients.

    Args:
        model: on any device; is left in evaluation mode.
        spec: that the network was trained with.
        windows: where the bins are.
        chosen_W: positions of the windows; their order is that of the answer.
        disturb: what is done to the bins [N, S, B] of a few windows before features are made of them, windows in rising position.
        size: windows at a time.

    Returns:
        The predictions, in the order of `chosen_W`.
    """
    return predict_each(model, spec, windows, chosen_W, [disturb], size)[0]


def predict_each(
    model: UniversalTemporalGNN,
    spec: FeatureSpec,
    windows: Windows,
    chosen_W: Integers,
    disturbs: Sequence[Disturb | None],
    size: int = 32,
) -> list[Predictions]:
    """Ask a network about the same windows several times, each time disturbed in another way, and read them once; see `predict`."""
    features, graph = plan_features(windows.equipment, spec), plan_graph(windows.equipment, spec)
    wanted_W, place_W = np.unique(chosen_W, return_inverse=True)
    nothing = predict_bins(
        model, np.empty((0, len(features.sensor_ids), features.bins), np.float32), features, graph
    )
    said = [[nothing] for _ in disturbs]
    for _, values_NSB in windows.batches(wanted_W, size):
        for parts, disturb in zip(said, disturbs, strict=True):
            shown_NSB = values_NSB if disturb is None else disturb(values_NSB)
            parts.append(predict_bins(model, shown_NSB, features, graph))
    return [join(parts).only(place_W.reshape(-1).astype(np.int64)) for parts in said]


def predict_bins(
    model: UniversalTemporalGNN, values_WSN: Floats, features: FeaturePlan, graph: GraphPlan
) -> Predictions:
    """Ask a network about the bins of a few windows of one topology.

    Args:
        model: on any device; is left in evaluation mode.
        values_WSN: bins, NaN where missing.
        features: plan of the topology's features.
        graph: plan of its graphs.
    """
    model.eval()
    device, config = model.type_MCD.device, model.config
    W, V = len(values_WSN), len(graph.component_type_V)
    found = batch_features(values_WSN, features)
    if W == 0:
        grades = max((len(healths) for healths in config.grade_sets), default=2)
        none_WV = np.empty((0, V), np.float32)
        return Predictions(
            np.empty((0, config.members, V, grades - 1), np.float32),
            np.empty((0, V, grades), np.float32),
            none_WV,
            none_WV,
            none_WV,
            none_WV,
            none_WV,
            none_WV,
            found.exceedance_WS,
        )
    with torch.inference_mode():
        batch = tile_graphs(graph, found.x_WSTF, found.mask_WST)
        tensors = to_tensors(batch, device)
        heads = model(tensors)
        opinion_VK = model.opinion(tensors)
        logit_MVJ = heads.score_MV[..., None] - heads.threshold_MVJ
        told = (
            opinion_VK,
            heads.health_MV.mean(0),
            spread(heads.health_MV, heads.log_variance_MV),
            config.rate_unit * heads.rate_MV.mean(0),
            config.rul_unit_h * heads.rul_MV.mean(0),
            config.rul_unit_h * spread(heads.rul_MV, heads.rul_log_variance_MV),
            model.distances(batch, tensors.x_STF),
        )
    logit_WMVJ = logit_MVJ.reshape(config.members, W, V, -1).transpose(0, 1).float().cpu().numpy()
    opinion_WVK, *by_component = (tensor.float().reshape(W, V, -1).cpu().numpy() for tensor in told)
    health_WV, spread_WV, rate_WV, rul_WV, rul_spread_WV, distance_WV = (
        values.reshape(W, V) for values in by_component
    )
    return Predictions(
        logit_WMVJ,
        opinion_WVK,
        health_WV,
        spread_WV,
        rate_WV,
        rul_WV,
        rul_spread_WV,
        distance_WV,
        found.exceedance_WS,
    )
