"""Validation score of a fit, for early stopping and the choice of its best weights.

It uses a bounded number of windows that the fit does not train on; `train.evaluation` makes the
figures of reports. Invariant: higher is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from train.data.fleet import Chosen, Fleet
from train.data.labels import Integers, evenly_spaced
from train.data.windows import Windows
from train.fitting.epoch import WorkerFit
from train.fitting.learner import Learner
from train.fitting.wide_and_deep import WideInput

BATCH_WINDOWS = 64
"""Windows of a forward pass."""


class _OfDesign(NamedTuple):
    """Validation windows of a design as tensors, with their positions."""

    batches: Sequence[tuple[Batch, WideInput]]
    position_W: Integers
    windows: Windows
    cap_h: float


@dataclass(frozen=True, slots=True)
class Validation:
    """Validation windows of a fit."""

    learner: Learner
    designs: Sequence[_OfDesign]

    @classmethod
    def of(cls, fit: WorkerFit, fleet: Fleet, chosen: Chosen) -> Self:
        """Read the validation windows of a fit, evenly sampled.

        Args:
            fit: to validate.
            fleet: all windows.
            chosen: positions of the validation windows; may be empty.
        """
        most = fit.builders[0].config.validation_windows // len(fleet.designs)
        designs = []
        for builder, windows, chosen_W in zip(fit.builders, fleet.designs, chosen, strict=True):
            position_W = evenly_spaced(np.sort(chosen_W), most)
            batches = windows.batches(position_W, BATCH_WINDOWS)
            read = [
                builder.plan.read(values_BSN, windows.labels.machine_W[position_B])
                for position_B, values_BSN in batches
            ]
            cap_h = builder.config.cap_h(windows.equipment.design)
            designs.append(_OfDesign(read, position_W, windows, cap_h))
        return cls(fit.learner, designs)

    def score(self) -> float | None:
        """Return the mean of the designs' scores; None without windows or labels.

        The score of a design is the mean macro-F1 of the graded components minus the RMSE of RUL in
        its cap. Without grades and RUL it is the negative RMSE of health.
        """
        scores = [self._score(each) for each in self.designs]
        known = [score for score in scores if score is not None]
        return float(np.mean(known)) if known else None

    def _score(self, design: _OfDesign) -> float | None:
        if not design.batches:
            return None
        labels = design.windows.labels
        heads = [self.learner.predict(*batch) for batch in design.batches]

        def of_windows(tensors: list[Tensor]) -> np.ndarray:
            """Average the members and join the batches, [W, V, ...]."""
            mean = torch.cat([each.mean(0) for each in tensors]).cpu().numpy()
            return mean.reshape(-1, labels.grade_WV.shape[1], *mean.shape[1:])

        worse_WVJ = of_windows(
            [torch.sigmoid(each.score_VW[..., None] - each.threshold_VJ) for each in heads]
        )
        probability_WVK = -np.diff(worse_WVJ, prepend=1.0, append=0.0)
        grade_WV, true_WV = probability_WVK.argmax(-1), labels.grade_WV[design.position_W]
        f1 = [
            macro_f1(true_WV[known, v], grade_WV[known, v])
            for v in range(true_WV.shape[1])
            if (known := np.flatnonzero(true_WV[:, v] >= 0)).size
        ]
        rul_WV = of_windows([each.rul_VW for each in heads])
        rmse = _rmse(rul_WV - labels.rul_WV[design.position_W] / design.cap_h)
        if f1 or rmse is not None:
            return float(np.mean(f1) if f1 else 0.0) - (rmse or 0.0)
        health_WV = of_windows([each.health_VW for each in heads])
        rmse = _rmse(health_WV - labels.health_WV[design.position_W])
        return None if rmse is None else -rmse


def macro_f1(true_W: Integers, predicted_W: Integers) -> float:
    """Return the F1 averaged over the grades that occur or are predicted.

    Not `sklearn.metrics.f1_score`, whose import takes 70 MB in every worker.
    """
    f1 = []
    for grade in np.union1d(true_W, predicted_W):
        is_true_W, is_predicted_W = true_W == grade, predicted_W == grade
        hits = np.count_nonzero(is_true_W & is_predicted_W)
        f1.append(2 * hits / (np.count_nonzero(is_true_W) + np.count_nonzero(is_predicted_W)))
    return float(np.mean(f1))


def _rmse(error_WV: np.ndarray) -> float | None:
    known = np.isfinite(error_WV)
    return float(np.sqrt(np.mean(error_WV[known] ** 2))) if known.any() else None
