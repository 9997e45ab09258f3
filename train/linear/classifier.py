"""Fit a network's linear classifier and OOD detector to its training windows, in closed form.

Invariant: they are fitted to training windows of the network only, and to a bounded number of them.
"""

import numpy as np
import torch

from app.features.binning import Doubles, Floats
from app.features.extraction import batch_features, plan_features
from app.features.spec import FeatureSpec
from app.model.graph import plan_graph
from app.model.network import LinearClassifier, UniversalTemporalGNN
from train.config import TrainConfig
from train.data.labels import Booleans, Integers
from train.data.windows import Windows
from train.linear.nuisance import Instruments, directions
from train.linear.ood_detector import fit_distance, set_distance
from train.linear.ordinal import OrdinalClassifier, fit_ordinal, measure

MOST_WINDOWS = 5_000
"""Most windows of a fit, evenly sampled."""
NUISANCE_WINDOWS = 64
"""Windows, evenly sampled, on which the effect of disturbances is measured."""
MOST_INPUTS = 8_192
"""Most inputs of a component: features of its sensors over all steps; more give no classifier."""
MOST_REFITTED_INPUTS = 4_096
"""Most inputs for the leave-one-sensor-out weights, each of which needs a fit of its own."""


def fit_linear_classifier(
    model: UniversalTemporalGNN,
    spec: FeatureSpec,
    windows: Windows,
    chosen_W: Integers,
    config: TrainConfig,
) -> None:
    """Fit and set the model's linear classifier and OOD detector.

    Each graded component has a classifier (see `train.linear.ordinal`) on the normalised features
    of the sensors from which a directed path leads to it, fitted to windows with all of them; and
    one without each of these sensors, fitted to the same windows. A component with labels of only
    one grade has none.

    Args:
        model: its `opinion` and `distance` are set.
        spec: of the model's features.
        windows: of machines of one topology.
        chosen_W: positions of the training windows.
        config: gives the disturbances to ignore: sensor bias and oil temperature.
    """
    equipment = windows.equipment
    graded_W = np.sort(chosen_W)[(windows.labels.grade_WV[np.sort(chosen_W)] >= 0).any(1)]
    if not model.config.opinion_steps or not len(graded_W):
        return
    taken_W = graded_W[
        np.linspace(0, len(graded_W) - 1, min(MOST_WINDOWS, len(graded_W))).astype(np.int64)
    ]
    x_WSTF, present_WS = _features(windows, taken_W, spec)
    nuisance_DSTF = _nuisances(windows, taken_W, spec, config)
    graph = plan_graph(equipment, spec)
    if model.distance is not None:
        model.distance.limit_G.fill_(torch.inf)
        model.distance.forget()
    for index, number in enumerate(graph.grade_set_V.tolist()):
        sensors = [
            place for place in equipment.sensors_in_reach(index) if graph.sensor_slot_S[place] >= 0
        ]
        grade_W = windows.labels.grade_WV[taken_W, index]
        known_W = (grade_W >= 0) & present_WS[:, sensors].all(1)
        inputs = len(sensors) * x_WSTF.shape[2] * x_WSTF.shape[3]
        if number < 0 or not 0 < inputs <= MOST_INPUTS or len(np.unique(grade_W[known_W])) < 2:
            continue
        x_WL = x_WSTF[known_W][:, sensors].reshape(int(known_W.sum()), -1).astype(np.float64)
        health_K = np.array([grade.health for grade in equipment.components[index].grades])
        nuisance_DL = nuisance_DSTF[:, sensors].reshape(-1, inputs)
        moments = measure(
            x_WL, grade_W[known_W], windows.group_W[taken_W][known_W], health_K, nuisance_DL
        )
        linear = model.opinion
        linear.place_GR[number, torch.from_numpy(graph.sensor_slot_S[sensors])] = torch.arange(
            len(sensors), device=linear.place_GR.device
        )
        if model.distance is not None:
            fit = fit_distance(
                x_WL,
                grade_W[known_W],
                windows.group_W[taken_W][known_W],
                health_K,
                nuisance_DL,
                ~windows.warm_up_W[taken_W][known_W],
                moments,
                model.distance.axes,
                config.seed,
            )
            if fit is not None:
                set_distance(
                    model.distance, number, fit, graph.sensor_slot_S[sensors], moments.grade_K
                )
        place_L = np.arange(len(sensors)).repeat(x_WL.shape[1] // len(sensors))
        is_refitted = len(sensors) > 1 and inputs <= MOST_REFITTED_INPUTS
        alternatives = linear.bias_GAK.shape[1] if is_refitted else 1
        for alternative in range(min(alternatives, 1 + len(sensors))):
            # the first uses all sensors, since no place is -1; each other one leaves out a sensor
            _set(linear, number, alternative, fit_ordinal(moments, place_L != alternative - 1))


def most_sensors(spec: FeatureSpec, steps: int) -> int:
    """Return the largest number of sensors in the classifier of a component."""
    most = max((len(references) for references in spec.references.values()), default=0)
    return min(most, MOST_INPUTS // max(1, steps * spec.features))


def _set(linear: LinearClassifier, number: int, alternative: int, fit: OrdinalClassifier) -> None:
    """Write a classifier to the tables of a grade set."""
    _, _, _, T, F, _ = linear.weight_GAQTFK.shape
    weight_QTFK = torch.from_numpy(fit.weight_LK.reshape(-1, T, F, len(fit.grade_K))).float()
    linear.weight_GAQTFK[number, alternative, : len(weight_QTFK)][
        ..., torch.from_numpy(fit.grade_K)
    ] = weight_QTFK.to(linear.weight_GAQTFK.device)
    linear.bias_GAK[number, alternative, torch.from_numpy(fit.grade_K)] = (
        torch.from_numpy(fit.bias_K).float().to(linear.bias_GAK.device)
    )


def _nuisances(
    windows: Windows, taken_W: Integers, spec: FeatureSpec, config: TrainConfig
) -> Doubles:
    """Return the effect of disturbances on the features, measured on some windows."""
    values_WSN = windows.values(
        taken_W[
            np.linspace(0, len(taken_W) - 1, min(NUISANCE_WINDOWS, len(taken_W))).astype(np.int64)
        ]
    )
    instruments = Instruments.of(windows.equipment, values_WSN)
    features = plan_features(windows.equipment, spec)
    return directions(
        values_WSN, features, instruments, config.linear_offset, config.linear_warming_k
    )


def _features(windows: Windows, taken_W: Integers, spec: FeatureSpec) -> tuple[Floats, Booleans]:
    """Return features, and which sensors are present in all steps."""
    plan = plan_features(windows.equipment, spec)
    parts = [batch_features(values_BSN, plan) for _, values_BSN in windows.batches(taken_W)]
    return (
        np.concatenate([part.x_WSTF for part in parts]),
        np.concatenate([part.mask_WST.all(2) for part in parts]),
    )
