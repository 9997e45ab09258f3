"""What held-out windows say of a training: figures of each component, calibration, and classical baselines on the same folds.

Invariant: no figure uses an answer of weights, references or a temperature that have seen the window's configuration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from app.features import Floats, step_statistics
from app.model import central_interval
from app.schemas.equipment import Equipment
from train.config import TrainConfig
from train.dataset import WindowSet
from train.labels import Integers
from train.split import training_windows

TEMPERATURES = np.exp(np.linspace(np.log(0.1), np.log(4.0), 75))


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
    before and after the temperature, which comes from the other folds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float
    interval_coverage: float
    interval_width: float
    nll_plain: float
    nll_calibrated: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the fold that held a window out said of it: `logit_WMVJ` is score - threshold, -inf where a set has fewer grades."""

    logit_WMVJ: Floats
    excess_WS: Floats


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


def fit_temperature(logit_WMJ: Floats, true_W: Integers) -> float:
    """Return the temperature under which the true grades are most likely (Guo et al., 2017), from a grid of 0.1 to 4."""
    losses = [_nll(grade_probability(logit_WMJ, temperature), true_W) for temperature in TEMPERATURES.tolist()]
    return float(TEMPERATURES[int(np.argmin(losses))])


def calibrate(held_out: HeldOut, windows: WindowSet, folds: int) -> dict[str, Calibration]:
    """Fit each graded component's temperature on held-out windows, and check it fold by fold with the others' temperature."""
    found: dict[str, Calibration] = {}
    steady_W = ~windows.warm_up_W
    for index, component in enumerate(windows.equipment.components):
        health_K = np.array([grade.health for grade in component.grades])
        known_W = steady_W & (windows.labels.grade_WV[:, index] >= 0)
        if not known_W.any():
            continue
        logit_WMJ, true_W = held_out.logit_WMVJ[:, :, index], windows.labels.grade_WV[:, index]
        covered: list[bool] = []
        widths: list[float] = []
        calibrated: list[float] = []
        for fold in range(folds):
            held_W, others_W = known_W & (windows.fold_W == fold), known_W & (windows.fold_W != fold)
            temperature = fit_temperature(logit_WMJ[others_W], true_W[others_W])
            share_WK = grade_probability(logit_WMJ[held_W], temperature)[:, : len(health_K)]
            calibrated.append(_nll(share_WK, true_W[held_W]) * int(held_W.sum()))
            for share_K, grade in zip(share_WK, true_W[held_W].tolist(), strict=True):
                low, high = central_interval(share_K, health_K)
                covered.append(low <= float(health_K[grade]) <= high)
                widths.append(high - low)
        found[component.component_id] = Calibration(
            temperature=fit_temperature(logit_WMJ[known_W], true_W[known_W]),
            interval_coverage=float(np.mean(covered)),
            interval_width=float(np.mean(widths)),
            nll_plain=_nll(grade_probability(logit_WMJ[known_W], 1.0), true_W[known_W]),
            nll_calibrated=sum(calibrated) / len(covered),
        )
    return found


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
            sensors = [place for place, owner in enumerate(_owners(equipment)) if owner in reach(equipment, index)]
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


def reach(equipment: Equipment, target: int) -> set[int]:
    """Return the components whose messages can reach a component, itself included."""
    feeds: set[tuple[int, int]] = set()
    for connection in equipment.connections:
        ends = equipment.component_index(connection.source), equipment.component_index(connection.target)
        if connection.evidence != "none":
            feeds.add(ends)
        if connection.evidence == "both":
            feeds.add(ends[::-1])
    found = {target}
    while grown := {source for source, end in feeds if end in found} - found:
        found |= grown
    return found


def _owners(equipment: Equipment) -> Sequence[int]:
    return [placed.component_index for placed in equipment.sensors]


def _nll(share_WK: NDArray[np.float64], true_W: Integers) -> float:
    return float(-np.log(np.maximum(share_WK[np.arange(len(true_W)), true_W], 1e-12)).mean())
