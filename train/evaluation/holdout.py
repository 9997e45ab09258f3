"""What the fit of one part of a split says of the windows it never saw: whole, with sensors taken away, and with sensors broken.

One call after each fit, while its weights are at hand; what is kept is small, so that folds can be kept side by side.
Invariant: nothing here has seen a label.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import FeatureSpec, plan_features
from app.model.graph import GraphGroup, build_topology
from app.model.trained import TrainedModel
from train.data.labels import Integers
from train.data.windows import Windows
from train.evaluation.attention import attention_weights
from train.evaluation.conformal import masked_in_turn
from train.evaluation.predict import Predictions, predict, predict_each
from train.evaluation.robustness import TROUBLES, Trouble, removed, troubled, usual_spread

PROBES = 96
"""Held-out windows of a part that are shown with broken sensors: sensors x kinds of trouble x these forward passes."""
REMOVAL_PROBES = 240
"""Held-out windows of a part whose sensors are taken away one after the other."""
MOST_SENSORS = 48
"""Sensors that are broken in turn, evenly spaced over a machine that has more."""
MOST_LEVELS = 24
"""Levels of the removal, evenly spaced over a machine with more sensors."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What was said of some held-out windows under trouble: their positions, and predictions by trouble and sensor id."""

    window_W: Integers
    clean: Predictions
    troubled: Mapping[Trouble, Mapping[str, Predictions]]


@dataclass(frozen=True, slots=True)
class Removals:
    """What was said of some held-out windows while `away` sensors, drawn for each window, were missing."""

    window_W: Integers
    away: tuple[int, ...]
    predictions: tuple[Predictions, ...]


@dataclass(frozen=True, slots=True)
class HoldoutPart:
    """One part of a split with what its fit says of the windows that it holds out.

    `train_W` and `held_W` are positions in `Windows`: what the fit saw, without the windows that were set apart to watch it, and
    what is scored. Of a checkpoint that is evaluated as it is, `train_W` is for the baselines alone; `attention_LE` is of the part's first probes, one row a layer. A part without
    `probes` or `removals` is scored on whole windows only.
    """

    name: str
    train_W: Integers
    held_W: Integers
    clean: Predictions
    probes: Probes | None = None
    removals: Removals | None = None
    attention_LE: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))


def hold_out(
    model: TrainedModel,
    spec: FeatureSpec,
    windows: Windows,
    name: str,
    train_W: Integers,
    held_W: Integers,
    seed: int = 0,
    probes: int = PROBES,
    removal_probes: int = REMOVAL_PROBES,
) -> HoldoutPart:
    """Ask a fit about the windows that it holds out.

    Args:
        model: fitted to `train_W`.
        spec: fitted to the same.
        windows: all windows.
        name: of the part.
        train_W: positions of the windows that the fit learned from, without those set apart to watch it; baselines are fitted to
            the same.
        held_W: positions of the windows that are scored, rising.
        seed: of noise and of the order in which sensors go.
        probes: most windows that are shown with broken sensors; 0 for none.
        removal_probes: most windows whose sensors are taken away; 0 for none.
    """
    clean = predict(model, spec, windows, held_W)
    return HoldoutPart(
        name=name,
        train_W=train_W,
        held_W=held_W,
        clean=clean,
        probes=_probes(model, spec, windows, held_W, seed, probes)
        if probes and len(held_W)
        else None,
        removals=_removals(model, spec, windows, held_W, seed, removal_probes)
        if removal_probes and len(held_W)
        else None,
        attention_LE=_attention(model, spec, windows, _spaced(held_W, 64)),
    )


def _spaced(held_W: Integers, most: int) -> Integers:
    places = np.unique(np.linspace(0, len(held_W) - 1, min(most, len(held_W))).astype(np.int64))
    return held_W[places]


def _probes(
    model: TrainedModel,
    spec: FeatureSpec,
    windows: Windows,
    held_W: Integers,
    seed: int,
    most: int,
) -> Probes:
    chosen_W = _spaced(held_W, most)
    ids = windows.equipment.sensor_ids
    sensors = np.unique(
        np.linspace(0, len(ids) - 1, min(MOST_SENSORS, len(ids))).astype(np.int64)
    ).tolist()
    spread_S = usual_spread(next(windows.batches(_spaced(held_W, 64), 64))[1])
    cases = [(trouble, sensor) for trouble in TROUBLES for sensor in sensors]
    disturbs = [troubled(trouble, sensor, spread_S, seed) for trouble, sensor in cases]
    clean, *said = predict_each(model, spec, windows, chosen_W, [None, *disturbs])
    found: dict[Trouble, dict[str, Predictions]] = {trouble: {} for trouble in TROUBLES}
    for (trouble, sensor), predictions in zip(cases, said, strict=True):
        found[trouble][ids[sensor]] = predictions
    return Probes(chosen_W, clean, found)


def _removals(
    model: TrainedModel,
    spec: FeatureSpec,
    windows: Windows,
    held_W: Integers,
    seed: int,
    most: int,
) -> Removals:
    chosen_W = _spaced(held_W, most)
    S = len(windows.equipment.sensors)
    away = tuple(np.unique(np.linspace(0, S - 1, min(MOST_LEVELS, S)).astype(np.int64)).tolist())
    rank_WS = masked_in_turn(S, len(chosen_W), seed)
    return Removals(
        window_W=chosen_W,
        away=away,
        predictions=tuple(
            predict_each(
                model, spec, windows, chosen_W, [removed(rank_WS, count) for count in away]
            )
        ),
    )


def _attention(
    model: TrainedModel, spec: FeatureSpec, windows: Windows, chosen_W: Integers
) -> Floats:
    if not len(chosen_W):
        return np.empty((0, 0), np.float32)
    found = batch_features(
        next(windows.batches(chosen_W, 64))[1], plan_features(windows.equipment, spec)
    )
    topology = build_topology(windows.equipment, spec)
    group = GraphGroup(topology, found.x_WSTF, found.mask_WST)
    return attention_weights(model.ensemble.eval(), group)
