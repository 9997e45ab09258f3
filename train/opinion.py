"""Fits the linear second opinion of a network to its training windows, in closed form.

Invariant: it sees windows that the network's fit sees and no others, and never more than a bounded number of them at once.
"""

import numpy as np
import torch

from app.bins import Floats
from app.feature_spec import FeatureSpec
from app.features import batch_features, plan_features
from app.graph import plan_graph
from app.model import UniversalTemporalGNN
from train.labels import Booleans, Integers
from train.ordinal import fit_ordinal
from train.reach import sensors_in_reach
from train.windows import Windows

MOST_WINDOWS = 5_000
"""Windows that it is fitted to at most, evenly sampled."""
MOST_INPUTS = 8_192
"""Features of one component's sensors over all steps; a component with more gets no opinion, since its covariance would not fit."""


def fit_opinion(model: UniversalTemporalGNN, spec: FeatureSpec, windows: Windows, chosen_W: Integers) -> None:
    """Fit and set the model's second opinion.

    One direction for each graded component along which its grades lie in order (see `train.ordinal`), on the normalised features of
    the sensors whose evidence can reach it, where all of them are there. A component whose windows have one grade only gets none.

    Args:
        model: whose `opinion` is set.
        spec: of the model's features.
        windows: of machines of one topology.
        chosen_W: positions of the training windows.
    """
    equipment = windows.equipment
    graded_W = np.sort(chosen_W)[(windows.labels.grade_WV[np.sort(chosen_W)] >= 0).any(1)]
    if not model.config.opinion_steps or not len(graded_W):
        return
    taken_W = graded_W[np.linspace(0, len(graded_W) - 1, min(MOST_WINDOWS, len(graded_W))).astype(np.int64)]
    x_WSTF, there_WS = _features(windows, taken_W, spec)
    graph = plan_graph(equipment, spec)
    for index, number in enumerate(graph.grade_set_V.tolist()):
        sensors = [place for place in sensors_in_reach(equipment, index) if graph.sensor_slot_S[place] >= 0]
        grade_W = windows.labels.grade_WV[taken_W, index]
        known_W = (grade_W >= 0) & there_WS[:, sensors].all(1)
        inputs = len(sensors) * x_WSTF.shape[2] * x_WSTF.shape[3]
        if number < 0 or not 0 < inputs <= MOST_INPUTS or len(np.unique(grade_W[known_W])) < 2:
            continue
        x_WL = x_WSTF[known_W][:, sensors].reshape(int(known_W.sum()), -1).astype(np.float64)
        health_K = np.array([grade.health for grade in equipment.components[index].grades])
        reading = fit_ordinal(x_WL, grade_W[known_W], windows.group_W[taken_W][known_W], health_K)
        shape = (len(sensors), *x_WSTF.shape[2:], len(reading.grade_K))
        opinion = model.opinion
        device = opinion.bias_GK.device
        known_grade_K = torch.from_numpy(reading.grade_K)
        weight_STFK = torch.from_numpy(reading.weight_LK.reshape(shape)).float().to(device)
        for weight_TFK, slot in zip(weight_STFK, graph.sensor_slot_S[sensors].tolist(), strict=True):
            opinion.weight_GRTFK[number, slot][..., known_grade_K] = weight_TFK
            opinion.reads_GR[number, slot] = True
        opinion.bias_GK[number, known_grade_K] = torch.from_numpy(reading.bias_K).float().to(device)


def _features(windows: Windows, taken_W: Integers, spec: FeatureSpec) -> tuple[Floats, Booleans]:
    """Return features and which sensors are there in all steps."""
    plan = plan_features(windows.equipment, spec)
    parts = [batch_features(values_BSN, plan) for _, values_BSN in windows.batches(taken_W)]
    return (
        np.concatenate([part.x_WSTF for part in parts]),
        np.concatenate([part.mask_WST.all(2) for part in parts]),
    )
