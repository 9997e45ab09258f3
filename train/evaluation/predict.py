"""Predictions of a model in training for windows on disk, before temperatures.

Features and graphs are made as in serving. Invariant: a prediction does not depend on the other
windows of the call, and memory does not grow with their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import FeaturePlan, FeatureSpec
from app.model.graph import GraphGroup, SkipOutput, Topology, build_topology
from app.model.network import GraphTensors, spread
from app.model.trained import TrainedModel
from train.data.labels import Integers
from train.data.machine_baselines import plan_machines
from train.data.windows import Windows

Disturb = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions for W windows, float32, NaN where there is none.

    Args:
        logit_WMVJ: score - threshold before the temperature, -inf beyond a set's grades; of
            network and skip together.
        deep_WMVJ: of the network alone.
        wide_WMVJ: of the skip alone; NaN where there is none.
        health_WV: of the health head, in [0, 1].
        deep_health_WV: of the network alone.
        wide_health_WV: of the skip alone; NaN where there is none.
        spread_WV: standard deviation of `health_WV`.
        rate_WV: health lost per 1000 operating hours.
        rul_WV: operating hours.
        deep_rul_WV: of the network alone.
        wide_rul_WV: of the skip alone; NaN where there is none.
        rul_spread_WV: standard deviation of `rul_WV`.
        distance_WV: OOD distance of a component, 1.0 at the limit.
        exceedance_WS: range exceedance of each sensor, NaN without usable readings.
        usable_WS: share of the steps that have usable readings, see `FeatureBatch`.
    """

    logit_WMVJ: Floats
    deep_WMVJ: Floats
    wide_WMVJ: Floats
    health_WV: Floats
    deep_health_WV: Floats
    wide_health_WV: Floats
    spread_WV: Floats
    rate_WV: Floats
    rul_WV: Floats
    deep_rul_WV: Floats
    wide_rul_WV: Floats
    rul_spread_WV: Floats
    distance_WV: Floats
    exceedance_WS: Floats
    usable_WS: Floats

    def __len__(self) -> int:
        """Return W."""
        return len(self.health_WV)

    @property
    def has_skip(self) -> bool:
        """Whether any window has a skip."""
        wide = (self.wide_WMVJ, self.wide_health_WV, self.wide_rul_WV)
        return any(bool((~np.isnan(each)).any()) for each in wide)

    def deep_alone(self) -> Self:
        """Return the predictions of the network alone."""
        return replace(
            self,
            logit_WMVJ=self.deep_WMVJ,
            health_WV=self.deep_health_WV,
            rul_WV=self.deep_rul_WV,
        )

    def wide_alone(self) -> Self:
        """Return the predictions of the skip alone; those of both where there is none."""
        pairs = {
            "logit_WMVJ": (self.wide_WMVJ, self.logit_WMVJ),
            "health_WV": (self.wide_health_WV, self.health_WV),
            "rul_WV": (self.wide_rul_WV, self.rul_WV),
        }
        return replace(
            self,
            **{name: np.where(np.isnan(own), both, own) for name, (own, both) in pairs.items()},
        )

    def scaled(self, life_scale: float) -> Self:
        """Return the predictions of a design with a scale, see `FeatureSpec.life_scales`."""
        lives = ("rul_WV", "deep_rul_WV", "wide_rul_WV", "rul_spread_WV")
        of_lives = {name: life_scale * getattr(self, name) for name in lives}
        return replace(self, rate_WV=self.rate_WV / life_scale, **of_lives)

    def only(self, chosen_W: Integers | NDArray[np.bool_]) -> Self:
        """Return the predictions for some of the windows."""
        return type(self)(*(getattr(self, field.name)[chosen_W] for field in fields(self)))


def join(parts: list[Predictions]) -> Predictions:
    """Concatenate predictions."""
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
    """Predict windows, in evaluation mode and without gradients.

    Args:
        model: on any device; stays in evaluation mode.
        spec: that the network was trained with.
        windows: all windows.
        chosen_W: positions of the windows.
        disturb: changes the bins [N, S, B] of some windows, by rising position, before features.
        size: windows in a pass.

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
    """Predict the same windows under each disturbance; they are read once. See `predict`."""
    features, topology = (
        plan_machines(windows, spec),
        build_topology(windows.equipment, spec),
    )
    wanted_W, place_W = np.unique(chosen_W, return_inverse=True)
    empty = predict_bins(
        model,
        np.empty((0, len(features.sensor_ids), features.bins), np.float32),
        features.rows(slice(0)),
        topology,
    )
    found = [[empty] for _ in disturbs]
    for position_N, values_NSB in windows.batches(wanted_W, size):
        own = features.rows(windows.labels.machine_W[position_N])
        for parts, disturb in zip(found, disturbs, strict=True):
            shown_NSB = values_NSB if disturb is None else disturb(values_NSB)
            parts.append(predict_bins(model, shown_NSB, own, topology))
    scale = spec.life_scales.get(windows.equipment.design, 1.0)
    order_W = place_W.reshape(-1).astype(np.int64)
    return [join(parts).scaled(scale).only(order_W) for parts in found]


def predict_bins(
    model: TrainedModel, values_WSN: Floats, features: FeaturePlan, topology: Topology
) -> Predictions:
    """Predict the bins of a few windows of one topology.

    Args:
        model: its network on any device; stays in evaluation mode.
        values_WSN: bins, NaN where missing.
        features: plan of the windows' features.
        topology: of the windows.
    """
    ensemble, config = model.ensemble.eval(), model.config
    found = batch_features(values_WSN, features)
    group = GraphGroup(topology, found.x_WSTF, found.mask_WST)
    W, V, K = group.windows, topology.components, config.grades
    unknown_WV = np.full((W, V), np.nan, np.float32)
    distance_WV = unknown_WV if model.detector is None else model.detector.distance(group)
    if W == 0:
        logit_WMVJ = np.empty((0, config.members, V, K - 1), np.float32)
        nothing: list[Floats] = [logit_WMVJ] * 3 + [unknown_WV] * 10
        return Predictions(*[*nothing, found.exceedance_WS, found.usable_WS])
    skip = SkipOutput.none(W, V) if model.skip is None else model.skip.output(group)
    with torch.inference_mode():
        device = ensemble.temperature_G.device
        deep = ensemble(GraphTensors.of_group(group, device))
        skip_VWC, share_VWC = (torch.from_numpy(each).to(device).transpose(0, 1) for each in skip)
        # tables have the skip times its share of both; where that is 0 there is none
        wide_VWC = torch.where(share_VWC < 1.0, skip_VWC / (1.0 - share_VWC), torch.nan)
        latents = (
            deep.latent_VWC * share_VWC + skip_VWC,
            deep.latent_VWC,
            wide_VWC.expand_as(deep.latent_VWC),
        )
        both, alone, wide = (deep.heads(latent_VWC) for latent_VWC in latents)
        logits = [
            (each.score_VW[..., None] - each.threshold_VJ[:, :, None]).permute(2, 0, 1, 3)
            for each in (both, alone, wide)
        ]
        tensors = [
            *logits,
            *(each.health_VW.mean(0).T for each in (both, alone, wide)),
            spread(both.health_VW, both.log_variance_VW).T,
            config.rate_unit * both.rate_VW.mean(0).T,
            *(config.rul_unit_h * each.rul_VW.mean(0).T for each in (both, alone, wide)),
            config.rul_unit_h * spread(both.rul_VW, both.rul_log_variance_VW).T,
        ]
        arrays = [each.cpu().numpy() for each in tensors]
    return Predictions(*[*arrays, distance_WV, found.exceedance_WS, found.usable_WS])
