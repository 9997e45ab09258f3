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
from app.model.graph import GraphGroup, Topology, build_topology
from app.model.network import GraphTensors, spread
from app.model.trained import TrainedModel
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
    model: TrainedModel,
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
    model: TrainedModel,
    spec: FeatureSpec,
    windows: Windows,
    chosen_W: Integers,
    disturbs: Sequence[Disturb | None],
    size: int = 32,
) -> list[Predictions]:
    """Ask a network about the same windows several times, each time disturbed in another way, and read them once; see `predict`."""
    features, topology = (
        plan_features(windows.equipment, spec),
        build_topology(windows.equipment, spec),
    )
    wanted_W, place_W = np.unique(chosen_W, return_inverse=True)
    nothing = predict_bins(
        model,
        np.empty((0, len(features.sensor_ids), features.bins), np.float32),
        features,
        topology,
    )
    said = [[nothing] for _ in disturbs]
    for _, values_NSB in windows.batches(wanted_W, size):
        for parts, disturb in zip(said, disturbs, strict=True):
            shown_NSB = values_NSB if disturb is None else disturb(values_NSB)
            parts.append(predict_bins(model, shown_NSB, features, topology))
    return [join(parts).only(place_W.reshape(-1).astype(np.int64)) for parts in said]


def predict_bins(
    model: TrainedModel, values_WSN: Floats, features: FeaturePlan, topology: Topology
) -> Predictions:
    """Predict the bins of a few windows of one topology.

    Args:
        model: its network on any device; is left in evaluation mode.
        values_WSN: bins, NaN where missing.
        features: plan of the topology's features.
        topology: of the windows.
    """
    ensemble, config = model.ensemble.eval(), model.config
    found = batch_features(values_WSN, features)
    group = GraphGroup(topology, found.x_WSTF, found.mask_WST)
    W, V, K = group.windows, topology.components, config.grades
    unknown_WV = np.full((W, V), np.nan, np.float32)
    if W == 0:
        logit_WMVJ = np.empty((0, config.members, V, K - 1), np.float32)
        heads_WV = (unknown_WV,) * 5
    else:
        with torch.inference_mode():
            heads = ensemble(GraphTensors.of_group(group, ensemble.temperature_G.device))
            logit_MVWJ = heads.score_VW[..., None] - heads.threshold_VJ[:, :, None]
            means_VW = (
                heads.health_VW.mean(0),
                spread(heads.health_VW, heads.log_variance_VW),
                config.rate_unit * heads.rate_VW.mean(0),
                config.rul_unit_h * heads.rul_VW.mean(0),
                config.rul_unit_h * spread(heads.rul_VW, heads.rul_log_variance_VW),
            )
            logit_WMVJ = logit_MVWJ.permute(2, 0, 1, 3).cpu().numpy()
            heads_WV = tuple(each.T.cpu().numpy() for each in means_VW)
    linear_WVK = np.full((W, V, K), np.nan, np.float32)
    if model.classifier is not None:
        linear_WVK = model.classifier.logits(group)
    distance_WV = unknown_WV if model.detector is None else model.detector.distance(group)
    return Predictions(logit_WMVJ, linear_WVK, *heads_WV, distance_WV, found.exceedance_WS)
