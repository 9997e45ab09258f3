"""Fits the linear second opinion of a network to its training windows, in closed form, and their distance from it.

Invariant: it sees windows that the network's fit sees and no others, and never more than a bounded number of them at once.
"""

import numpy as np
import torch

from app.features.binning import Doubles, Floats
from app.features.extraction import batch_features
from app.features.spec import FeatureSpec, plan_features
from app.model.graph import plan_graph
from app.model.network import LinearClassifier, UniversalTemporalGNN
from train.config import TrainConfig
from train.data.labels import Booleans, Integers
from train.data.windows import Windows
from train.linear.nuisance import Instruments, directions
from train.linear.ood_detector import fit_distance, set_distance
from train.linear.ordinal import OrdinalReading, measure, read_off

MOST_WINDOWS = 5_000
"""Windows that it is fitted to at most, evenly sampled."""
NUISANCE_WINDOWS = 64
"""Windows, evenly sampled, on which it is measured how disturbances move the features."""
MOST_INPUTS = 8_192
"""Features of one component's sensors over all steps; a component with more gets no opinion, since its covariance would not fit."""
MOST_REFITTED_INPUTS = 4_096
"""The same for its alternatives, each of which solves for nearly as many unknowns again."""


def fit_opinion(
    model: UniversalTemporalGNN,
    spec: FeatureSpec,
    windows: Windows,
    chosen_W: Integers,
    config: TrainConfig,
) -> None:
    """Fit and set the model's second opinion, and the distance from training of what it reads.

    A linear reading of each graded component's grades (see `train.linear.ordinal`), on the normalised features of the sensors whose
    evidence can reach it, on windows where all of them are there; and one more without each of these sensors, from the same windows.
    A component whose windows have one grade only gets none.

    Args:
        model: whose `opinion` and `distance` are set.
        spec: of the model's features.
        windows: of machines of one topology.
        chosen_W: positions of the training windows.
        config: says how much offsets and the oil's temperature may vary without being heard.
    """
    equipment = windows.equipment
    graded_W = np.sort(chosen_W)[(windows.labels.grade_WV[np.sort(chosen_W)] >= 0).any(1)]
    if not model.config.opinion_steps or not len(graded_W):
        return
    taken_W = graded_W[
        np.linspace(0, len(graded_W) - 1, min(MOST_WINDOWS, len(graded_W))).astype(np.int64)
    ]
    x_WSTF, there_WS = _features(windows, taken_W, spec)
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
        known_W = (grade_W >= 0) & there_WS[:, sensors].all(1)
        inputs = len(sensors) * x_WSTF.shape[2] * x_WSTF.shape[3]
        if number < 0 or not 0 < inputs <= MOST_INPUTS or len(np.unique(grade_W[known_W])) < 2:
            continue
        x_WL = x_WSTF[known_W][:, sensors].reshape(int(known_W.sum()), -1).astype(np.float64)
        health_K = np.array([grade.health for grade in equipment.components[index].grades])
        nuisance_DL = nuisance_DSTF[:, sensors].reshape(-1, inputs)
        moments = measure(
            x_WL, grade_W[known_W], windows.group_W[taken_W][known_W], health_K, nuisance_DL
        )
        opinion = model.opinion
        opinion.place_GR[number, torch.from_numpy(graph.sensor_slot_S[sensors])] = torch.arange(
            len(sensors), device=opinion.place_GR.device
        )
        if model.distance is not None:
            apart = fit_distance(
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
            if apart is not None:
                set_distance(
                    model.distance, number, apart, graph.sensor_slot_S[sensors], moments.grade_K
                )
        place_L = np.arange(len(sensors)).repeat(x_WL.shape[1] // len(sensors))
        alternatives = (
            opinion.bias_GAK.shape[1] if len(sensors) > 1 and inputs <= MOST_REFITTED_INPUTS else 1
        )
        for alternative in range(min(alternatives, 1 + len(sensors))):
            # the first reads all, since no place is -1
            _set(opinion, number, alternative, read_off(moments, place_L != alternative - 1))


def most_sensors(spec: FeatureSpec, steps: int) -> int:
    """Return the most sensors that one component's opinion can read: those of the largest design, as far as they are bounded."""
    most = max((len(references) for references in spec.references.values()), default=0)
    return min(most, MOST_INPUTS // max(1, steps * spec.features))


def _set(opinion: LinearClassifier, number: int, alternative: int, reading: OrdinalReading) -> None:
    """Write a reading of the inputs of the first places into an opinion's tables."""
    _, _, _, T, F, _ = opinion.weight_GAQTFK.shape
    weight_QTFK = torch.from_numpy(
        reading.weight_LK.reshape(-1, T, F, len(reading.grade_K))
    ).float()
    opinion.weight_GAQTFK[number, alternative, : len(weight_QTFK)][
        ..., torch.from_numpy(reading.grade_K)
    ] = weight_QTFK.to(opinion.weight_GAQTFK.device)
    opinion.bias_GAK[number, alternative, torch.from_numpy(reading.grade_K)] = (
        torch.from_numpy(reading.bias_K).float().to(opinion.bias_GAK.device)
    )


def _nuisances(
    windows: Windows, taken_W: Integers, spec: FeatureSpec, config: TrainConfig
) -> Doubles:
    """Return how what says nothing of wear moves the features, measured on some windows."""
    values_WSN = windows.values(
        taken_W[
            np.linspace(0, len(taken_W) - 1, min(NUISANCE_WINDOWS, len(taken_W))).astype(np.int64)
        ]
    )
    instruments = Instruments.of(windows.equipment, values_WSN)
    features = plan_features(windows.equipment, spec)
    return directions(
        values_WSN, features, instruments, config.opinion_offset, config.opinion_warmer_k
    )


def _features(windows: Windows, taken_W: Integers, spec: FeatureSpec) -> tuple[Floats, Booleans]:
    """Return features and which sensors are there in all steps."""
    plan = plan_features(windows.equipment, spec)
    parts = [batch_features(values_BSN, plan) for _, values_BSN in windows.batches(taken_W)]
    return (
        np.concatenate([part.x_WSTF for part in parts]),
        np.concatenate([part.mask_WST.all(2) for part in parts]),
    )
