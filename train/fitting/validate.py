"""Scores a fit on a bounded number of windows that it does not learn from: what stops it early and chooses its best weights.

The figures of a report are made elsewhere, of all held-out windows and of the saved network.
Invariant: higher is better, and a score is comparable only with those of the same windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch_geometric.data import Batch

from train.data.labels import Integers
from train.data.windows import Windows
from train.fitting.dataset import TensorPlan
from train.fitting.learner import Learner

AT_ONCE = 64
"""Windows of a forward pass."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Windows to be scored on, as tensors, with their labels [W, V]."""

    graphs: Sequence[Batch]
    position_W: Integers
    windows: Windows
    rul_unit_h: float

    @classmethod
    def of(
        cls, windows: Windows, chosen_W: Integers, most: int, plan: TensorPlan, rul_unit_h: float
    ) -> Self:
        """Read windows evenly sampled among the chosen.

        Args:
            windows: all of them.
            chosen_W: positions of the validation; may be empty.
            most: windows that are scored at most.
            plan: makes them tensors.
            rul_unit_h: of the network.
        """
        rising_W = np.sort(chosen_W)
        position_W = rising_W[
            np.linspace(0, len(rising_W) - 1, min(most, len(rising_W))).astype(np.int64)
        ]
        graphs = [plan.read(values_BSN) for _, values_BSN in windows.batches(position_W, AT_ONCE)]
        return cls(graphs, position_W, windows, rul_unit_h)

    def score(self, learner: Learner) -> float | None:
        """Return the mean macro-F1 of the graded components, less the RUL's root mean square error by its cap.

        Where there is neither grade nor RUL it is the health's root mean square error, negative;
        None without windows or labels.
        """
        if not self.graphs:
            return None
        heads = [learner.answer(graph) for graph in self.graphs]
        V = self.windows.labels.grade_WV.shape[1]
        labels = self.windows.labels
        worse_WVJ = np.concatenate(
            [
                torch.sigmoid(each.score_VW[..., None] - each.threshold_VJ).mean(0).cpu().numpy().reshape(-1, V, each.threshold_VJ.shape[-1])
                for each in heads
            ]
        )  # fmt: skip
        grade_WV, truth_WV = (
            np.zeros(worse_WVJ.shape[:2], np.int64),
            labels.grade_WV[self.position_W],
        )
        edge_WV1 = np.ones((*worse_WVJ.shape[:2], 1))
        beyond_WVL = np.concatenate((edge_WV1, worse_WVJ, 0.0 * edge_WV1), axis=2)
        grade_WV = (beyond_WVL[..., :-1] - beyond_WVL[..., 1:]).argmax(-1)
        f1 = [
            macro_f1(truth_WV[known, node], grade_WV[known, node])
            for node in range(V)
            if (known := np.flatnonzero(truth_WV[:, node] >= 0)).size
        ]
        rul_WV = np.concatenate(
            [each.rul_VW.mean(0).cpu().numpy().reshape(-1, V) for each in heads]
        )
        health_WV = np.concatenate(
            [each.health_VW.mean(0).cpu().numpy().reshape(-1, V) for each in heads]
        )
        miss = _rms(rul_WV - labels.rul_WV[self.position_W] / self.rul_unit_h)
        if f1 or miss is not None:
            return float(np.mean(f1) if f1 else 0.0) - (miss or 0.0)
        off = _rms(health_WV - labels.health_WV[self.position_W])
        return None if off is None else -off


def macro_f1(truth_W: Integers, told_W: Integers) -> float:
    """Return the F1 averaged over the grades that occur or are predicted."""
    f1 = []
    for grade in np.union1d(truth_W, told_W):
        hit = int(((truth_W == grade) & (told_W == grade)).sum())
        f1.append(2 * hit / int((truth_W == grade).sum() + (told_W == grade).sum()))
    return float(np.mean(f1))


def _rms(miss_WV: np.ndarray) -> float | None:
    there = np.isfinite(miss_WV)
    return float(np.sqrt(np.mean(miss_WV[there] ** 2))) if there.any() else None
