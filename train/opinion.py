"""Fits the linear second opinion of a network to its training windows, in closed form.

Invariant: it sees the windows that the network's fit sees and no others.
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from app.graph import GraphBatch
from app.model import UniversalTemporalGNN
from app.schemas.equipment import Equipment
from train.labels import Integers
from train.reach import sensors_in_reach


def fit_opinion(
    model: UniversalTemporalGNN, graphs: Sequence[GraphBatch], grade_WV: Integers, equipment: Equipment
) -> None:
    """Fit and set the model's second opinion.

    A linear discriminant for each graded component (Fisher, 1936) with the shrinkage of Ledoit and Wolf (2004), on the
    normalised features of the sensors whose evidence can reach it, where all of them are there. A component whose windows have
    one grade only gets none.

    Args:
        model: whose `opinion` is set.
        graphs: of the training windows, of one equipment.
        grade_WV: their grades, -1 where none is known.
        equipment: the machine.
    """
    x_WSTF = np.stack([graph.x_STF for graph in graphs])
    there_WS = np.stack([graph.mask_ST.all(1) for graph in graphs])
    slot_S = graphs[0].sensor_slot_S
    for index, number in enumerate(graphs[0].grade_set_V.tolist()):
        sensors = [place for place in sensors_in_reach(equipment, index) if slot_S[place] >= 0]
        known_W = (grade_WV[:, index] >= 0) & there_WS[:, sensors].all(1)
        if number < 0 or len(np.unique(grade_WV[known_W, index])) < 2:
            continue
        x_WL = x_WSTF[known_W][:, sensors].reshape(int(known_W.sum()), -1).astype(np.float64)
        discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x_WL, grade_WV[known_W, index])
        weight_KL, bias_K, grade_K = discriminant.coef_, discriminant.intercept_, discriminant.classes_
        if len(grade_K) == 2:
            weight_KL, bias_K = np.concatenate((0 * weight_KL, weight_KL)), np.concatenate((0 * bias_K, bias_K))
        shape = (len(grade_K), len(sensors), *x_WSTF.shape[2:])
        opinion = model.opinion
        device = opinion.bias_GK.device
        weight_SKTF = torch.from_numpy(weight_KL.reshape(shape)).float().transpose(0, 1).to(device)
        for weight_KTF, slot in zip(weight_SKTF, slot_S[sensors].tolist(), strict=True):
            opinion.weight_GRTFK[number, slot][..., torch.from_numpy(grade_K)] = weight_KTF.permute(1, 2, 0)
            opinion.reads_GR[number, slot] = True
        opinion.bias_GK[number, torch.from_numpy(grade_K)] = torch.from_numpy(bias_K).float().to(device)
