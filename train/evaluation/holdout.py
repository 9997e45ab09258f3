"""Predictions of one fit for its holdout: clean, with sensors removed, and with faulty sensors.

Called once after each fit; the result is small, so those of all folds fit into memory. Invariant:
nothing here reads a label.
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
from train.evaluation.conformal import removal_order
from train.evaluation.predict import Predictions, predict, predict_each
from train.evaluation.robustness import FAULTS, Fault, faulty_sensor, removed, usual_spread

PROBES = 96
"""Windows of a holdout that are predicted with each sensor faulty in each way."""
REMOVAL_PROBES = 240
"""Windows of a holdout whose sensors are removed one after the other."""
MAX_SENSORS = 48
"""Sensors that are made faulty in turn, evenly spaced."""
MAX_LEVELS = 24
"""Levels of the removal, evenly spaced."""


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
    clean = predict(model, spec, windows, holdout_W)
    return HoldoutPart(
        name=name,
        train_W=train_W,
        holdout_W=holdout_W,
        clean=clean,
        probes=_probes(model, spec, windows, holdout_W, seed, probes)
        if probes and len(holdout_W)
        else None,
        removals=_removals(model, spec, windows, holdout_W, seed, removal_probes)
        if removal_probes and len(holdout_W)
        else None,
        attention_LE=_attention(model, spec, windows, _spaced(holdout_W, 64)),
    )


def _spaced(holdout_W: Integers, most: int) -> Integers:
    places = np.unique(
        np.linspace(0, len(holdout_W) - 1, min(most, len(holdout_W))).astype(np.int64)
    )
    return holdout_W[places]


def _probes(
    model: TrainedModel,
    spec: FeatureSpec,
    windows: Windows,
    holdout_W: Integers,
    seed: int,
    most: int,
) -> Probes:
    chosen_W = _spaced(holdout_W, most)
    ids = windows.equipment.sensor_ids
    sensors = np.unique(
        np.linspace(0, len(ids) - 1, min(MAX_SENSORS, len(ids))).astype(np.int64)
    ).tolist()
    spread_S = usual_spread(next(windows.batches(_spaced(holdout_W, 64), 64))[1])
    cases = [(fault, sensor) for fault in FAULTS for sensor in sensors]
    disturbs = [faulty_sensor(fault, sensor, spread_S, seed) for fault, sensor in cases]
    clean, *faulty = predict_each(model, spec, windows, chosen_W, [None, *disturbs])
    found: dict[Fault, dict[str, Predictions]] = {fault: {} for fault in FAULTS}
    for (fault, sensor), predictions in zip(cases, faulty, strict=True):
        found[fault][ids[sensor]] = predictions
    return Probes(chosen_W, clean, found)


def _removals(
    model: TrainedModel,
    spec: FeatureSpec,
    windows: Windows,
    holdout_W: Integers,
    seed: int,
    most: int,
) -> Removals:
    chosen_W = _spaced(holdout_W, most)
    S = len(windows.equipment.sensors)
    away = tuple(np.unique(np.linspace(0, S - 1, min(MAX_LEVELS, S)).astype(np.int64)).tolist())
    rank_WS = removal_order(S, len(chosen_W), seed)
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
