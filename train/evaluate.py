"""What held-out windows say of a training: figures of each component, calibration, and classical baselines on the same folds.

Invariant: no figure uses an answer of weights, references or a temperature that have seen the window's configuration.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from app.bins import Floats, step_statistics
from train.config import TrainConfig
from train.dataset import WindowSet
from train.labels import Integers
from train.reach import sensors_in_reach
from train.split import training_windows

TEMPERATURES = np.exp(np.linspace(np.log(0.1), np.log(4.0), 75))
OPINION_TEMPERATURES = np.exp(np.linspace(np.log(0.5), np.log(30.0), 75))
"""Discriminants overstate what they know; networks that learned from blends understate it."""


class Score(BaseModel):
    """How well the grades of one component were told: accuracy, and F1 averaged over the grades that occur."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: float
    macro_f1: float
    windows: int


class ComponentScores(BaseModel):
    """Scores of one component: pooled over all held-out windows, of each fold, and of warm-ups (not in the others)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pooled: Score
    folds: tuple[Score, ...]
    warm_up: Score | None


class Calibration(BaseModel):
    """Whether stated probabilities are met.

    Share of held-out windows whose true health lies in the interval (stated 0.9), its mean width, and the negative log-likelihood
    before and after the temperatures, which come from the other folds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float
    opinion_temperature: float
    interval_coverage: float
    interval_width: float
    nll_plain: float
    nll_calibrated: float


class Temperatures(NamedTuple):
    """What divides the logits of the network and of the second opinion of one component."""

    network: float
    opinion: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the fold that held a window out said of it.

    `logit_WMVJ` is score - threshold, -inf where a set has fewer grades; `opinion_WVK` the second opinion, NaN where there is none.
    """

    logit_WMVJ: Floats
    opinion_WVK: Floats
    excess_WS: Floats

    def network(self, component: int, temperature: float) -> NDArray[np.float64]:
        """Return the probability of each grade of a component as the network states it, [W, K]."""
        return grade_probability(self.logit_WMVJ[:, :, component], temperature)

    def opinion(self, component: int, temperature: float) -> NDArray[np.float64]:
        """Return that of the second opinion; the network's where it has none."""
        stated_WK = opinion_probability(self.opinion_WVK[:, component], temperature)
        return np.where(np.isfinite(stated_WK), stated_WK, self.network(component, 1.0))

    def joined(self, component: int, temperatures: "Temperatures", weight: float) -> NDArray[np.float64]:
        """Return both joined: the same formula as the model's `probability`."""
        own_WK = self.network(component, temperatures.network)
        other_WK = opinion_probability(self.opinion_WVK[:, component], temperatures.opinion)
        joined_WK: NDArray[np.float64] = np.where(np.isfinite(other_WK), own_WK + weight * (other_WK - own_WK), own_WK)
        return joined_WK

    def part(self, chosen_W: NDArray[np.bool_]) -> "HeldOut":
        """Return what was said of some of the windows."""
        return HeldOut(self.logit_WMVJ[chosen_W], self.opinion_WVK[chosen_W], self.excess_WS[chosen_W])


def score_grades(true_W: Integers, predicted_W: Integers) -> Score:
    """Score predicted grades; a grade counts in the macro-F1 when it occurs among the true or the predicted ones."""
    f1: list[float] = []
    for grade in np.union1d(true_W, predicted_W).tolist():
        hit = int(((true_W == grade) & (predicted_W == grade)).sum())
        f1.append(2 * hit / int((true_W == grade).sum() + (predicted_W == grade).sum()))
    return Score(accuracy=float((true_W == predicted_W).mean()), macro_f1=float(np.mean(f1)), windows=len(true_W))


def score_components(predicted_WV: Integers, windows: WindowSet, folds: int) -> dict[str, ComponentScores]:
    """Score the held-out grades of every graded component, warm-ups apart."""
    scores: dict[str, ComponentScores] = {}
    for index, component in enumerate(windows.equipment.components):
        known_W = windows.labels.grade_WV[:, index] >= 0
        if not known_W.any():
            continue
        true_W, predicted_W = windows.labels.grade_WV[:, index], predicted_WV[:, index]
        steady_W, warm_W = known_W & ~windows.warm_up_W, known_W & windows.warm_up_W
        by_fold = [steady_W & (windows.fold_W == fold) for fold in range(folds)]
        scores[component.component_id] = ComponentScores(
            pooled=score_grades(true_W[steady_W], predicted_W[steady_W]),
            folds=tuple(score_grades(true_W[held_W], predicted_W[held_W]) for held_W in by_fold if held_W.any()),
            warm_up=score_grades(true_W[warm_W], predicted_W[warm_W]) if warm_W.any() else None,
        )
    return scores


def grade_probability(logit_WMJ: Floats, temperature: float) -> NDArray[np.float64]:
    """Return the probability of each grade, mean of the members, [W, K]: the same formula as `OrdinalHead.probability`."""
    with np.errstate(over="ignore"):
        worse_WJ = (1.0 / (1.0 + np.exp(-logit_WMJ.astype(np.float64) / temperature))).mean(1)
    edge_W1 = np.ones((len(worse_WJ), 1))
    beyond_WK1 = np.concatenate((edge_W1, worse_WJ, 0.0 * edge_W1), axis=1)
    share_WK: NDArray[np.float64] = beyond_WK1[:, :-1] - beyond_WK1[:, 1:]
    return share_WK


def opinion_probability(logit_WK: Floats, temperature: float) -> NDArray[np.float64]:
    """Return the probability of each grade as the second opinion states it, [W, K]; NaN where there is none."""
    scaled_WK = logit_WK.astype(np.float64) / temperature
    raised_WK = np.exp(scaled_WK - scaled_WK.max(-1, keepdims=True))
    share_WK: NDArray[np.float64] = raised_WK / raised_WK.sum(-1, keepdims=True)
    return share_WK


def fit_temperatures(held_out: HeldOut, component: int, true_W: Integers) -> Temperatures:
    """Return the temperatures under which the true grades are most likely (Guo et al., 2017), each from a grid."""
    return Temperatures(
        network=_best(
            [_nll(held_out.network(component, each), true_W) for each in TEMPERATURES.tolist()], TEMPERATURES
        ),
        opinion=_best(
            [_nll(held_out.opinion(component, each), true_W) for each in OPINION_TEMPERATURES.tolist()],
            OPINION_TEMPERATURES,
        ),
    )


def cross_calibrated(
    held_out: HeldOut, windows: WindowSet, config: TrainConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each held-out window's grade probabilities with temperatures from the other folds, [W, V, K]: joined, and the network's alone."""
    W, _, V, J = held_out.logit_WMVJ.shape
    joined_WVK, alone_WVK = np.zeros((W, V, J + 1)), np.zeros((W, V, J + 1))
    for index in range(V):
        true_W = windows.labels.grade_WV[:, index]
        steady_W = ~windows.warm_up_W & (true_W >= 0)
        if not steady_W.any():
            continue
        for fold in range(config.folds):
            held_W, others_W = windows.fold_W == fold, steady_W & (windows.fold_W != fold)
            found = fit_temperatures(held_out.part(others_W), index, true_W[others_W])
            joined_WVK[held_W, index] = held_out.part(held_W).joined(index, found, config.opinion_weight)
            alone_WVK[held_W, index] = held_out.part(held_W).network(index, found.network)
    return joined_WVK, alone_WVK


def calibrate(
    held_out: HeldOut, joined_WVK: NDArray[np.float64], windows: WindowSet, config: TrainConfig
) -> dict[str, Calibration]:
    """Fit each graded component's temperatures on all held-out windows, and check them by those of the other folds.

    Args:
        held_out: what the folds said.
        joined_WVK: from `cross_calibrated`.
        windows: with their grades.
        config: the weight of the second opinion.
    """
    found: dict[str, Calibration] = {}
    for index, component in enumerate(windows.equipment.components):
        health_K = np.array([grade.health for grade in component.grades])
        known_W = ~windows.warm_up_W & (windows.labels.grade_WV[:, index] >= 0)
        if not known_W.any():
            continue
        true_W, steady = windows.labels.grade_WV[known_W, index], held_out.part(known_W)
        share_WK = joined_WVK[known_W, index]
        intervals = np.array([central_interval(share_K[: len(health_K)], health_K) for share_K in share_WK])
        covered_W = (intervals[:, 0] <= health_K[true_W]) & (health_K[true_W] <= intervals[:, 1])
        temperatures = fit_temperatures(steady, index, true_W)
        found[component.component_id] = Calibration(
            temperature=temperatures.network,
            opinion_temperature=temperatures.opinion,
            interval_coverage=float(covered_W.mean()),
            interval_width=float((intervals[:, 1] - intervals[:, 0]).mean()),
            nll_plain=_nll(steady.joined(index, Temperatures(1.0, 1.0), config.opinion_weight), true_W),
            nll_calibrated=_nll(share_WK, true_W),
        )
    return found


def central_interval(share_K: NDArray[np.float64], health_K: NDArray[np.float64]) -> tuple[float, float]:
    """Return the healths between which the central 90 % of the grades' probability lies, in whole bands of health.

    A grade's band reaches half-way to its neighbours, and to 0 and 1 at the ends.
    """
    edge_L = np.concatenate(([1.0], (health_K[:-1] + health_K[1:]) / 2.0, [0.0]))
    beyond_K = np.cumsum(share_K)
    return float(edge_L[int(np.argmax(beyond_K >= 0.95 - 1e-9)) + 1]), float(edge_L[int(np.argmax(beyond_K > 0.05))])


def baselines(windows: WindowSet, config: TrainConfig) -> Mapping[str, Integers]:
    """Predict held-out grades by linear discriminants (Fisher, 1936; shrinkage of Ledoit and Wolf, 2004) on the same folds.

    Each component's discriminant reads the sensors whose evidence can reach it along the topology's connections. "step
    statistics" has the network's own statistics of every step, "window statistics" those of the window as a whole.

    Returns:
        Grades [W, V] by name of the baseline, -1 where none.
    """
    equipment = windows.equipment
    predicted: dict[str, Integers] = {}
    for name, steps in (("step statistics", equipment.steps), ("window statistics", 1)):
        raw_WSTF = np.stack(
            [step_statistics(values_SN, steps, config.statistics)[0] for values_SN in windows.values_WSN]
        )
        grade_WV = np.full(windows.labels.grade_WV.shape, -1, np.int64)
        for index, component in enumerate(equipment.components):
            if not component.grades:
                continue
            sensors = sensors_in_reach(equipment, index)
            x_WL = np.nan_to_num(raw_WSTF[:, sensors].reshape(len(raw_WSTF), -1))
            for fold in range(config.folds):
                held_W = windows.fold_W == fold
                seen = training_windows(
                    held_W, windows.warm_up_W, windows.configuration_W, config.warm_up_windows, config.seed
                )
                seen = seen[windows.labels.grade_WV[seen, index] >= 0]
                discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
                discriminant.fit(x_WL[seen], windows.labels.grade_WV[seen, index])
                grade_WV[held_W, index] = discriminant.predict(x_WL[held_W])
        predicted[name] = grade_WV
    return predicted


def _best(losses: list[float], grid: NDArray[np.float64]) -> float:
    return float(grid[int(np.argmin(losses))])


def _nll(share_WK: NDArray[np.float64], true_W: Integers) -> float:
    return float(-np.log(np.maximum(share_WK[np.arange(len(true_W)), true_W], 1e-12)).mean())
