"""Figures of merit: grades, health, remaining life, intervals and stated probabilities against what was true.

Pure. Invariant: a window without a label of a component changes no figure of that component.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from app.features.binning import Floats
from train.data.labels import HOUR_US, Booleans, Integers

Doubles = NDArray[np.float64]


class Score(BaseModel):
    """How well the grades of one component were told: accuracy, F1 averaged over the grades that occur, and the share at most one grade off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: float
    macro_f1: float
    within_one: float
    windows: int


class LifeScore(BaseModel):
    """How well remaining life was told: root mean square error and mean error in hours, the PHM08 score and the share of right signs of the rate.

    `sign_right` is of the windows in the last half of life, None where none has a rate or where no run's end is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rmse_h: float
    bias_h: float
    phm08: float
    sign_right: float | None
    windows: int


def score_grades(true_W: Integers, predicted_W: Integers) -> Score:
    """Score predicted grades; a grade counts in the macro-F1 when it occurs among the true or the predicted ones."""
    f1: list[float] = []
    for grade in np.union1d(true_W, predicted_W).tolist():
        hit = int(((true_W == grade) & (predicted_W == grade)).sum())
        f1.append(2 * hit / int((true_W == grade).sum() + (predicted_W == grade).sum()))
    return Score(
        accuracy=float((true_W == predicted_W).mean()),
        macro_f1=float(np.mean(f1)),
        within_one=float((np.abs(true_W - predicted_W) <= 1).mean()),
        windows=len(true_W),
    )


def exact_matches(true_WV: Integers, predicted_WV: Integers) -> Booleans:
    """Tell of each window whether every component with a known grade was told right, [W]; true where none is known."""
    matches_W: Booleans = ((true_WV < 0) | (true_WV == predicted_WV)).all(1)
    return matches_W


def confusion(true_W: Integers, predicted_W: Integers, grades: int) -> tuple[tuple[int, ...], ...]:
    """Count windows by true grade (rows) and predicted grade (columns); predictions below 0 are left out."""
    told_W = predicted_W >= 0
    counts = np.bincount(true_W[told_W] * grades + predicted_W[told_W], minlength=grades * grades)
    return tuple(tuple(row) for row in counts.reshape(grades, grades).tolist())


def phm08(true_W: Floats | Doubles, told_W: Floats | Doubles) -> float:
    """Return the score of the PHM08 challenge, which charges a late warning more than an early one (Saxena et al., 2008).

    The sum over windows of exp(-d / 13) - 1 where d = told - true is negative, exp(d / 10) - 1 where not; 0 is perfect. Its
    constants are in cycles of a turbofan; one cycle is one operating hour here.
    """
    late_W = told_W.astype(np.float64) - true_W
    return float(np.expm1(np.where(late_W < 0, -late_W / 13.0, late_W / 10.0)).sum())


def score_life(
    true_W: Floats,
    told_W: Floats,
    cap_h: float,
    rate_W: Floats | None = None,
    last_half_W: Booleans | None = None,
) -> LifeScore:
    """Score remaining life, both sides cut to [0, cap].

    Args:
        true_W: operating hours.
        told_W: operating hours.
        cap_h: beyond which life is not told apart; at least 0.
        rate_W: told degradation rate of the same windows; None where there is none.
        last_half_W: true for windows in the last half of their run to failure, where health falls and a right rate is positive.
    """
    true_W, told_W = np.clip(true_W, 0.0, cap_h), np.clip(told_W, 0.0, cap_h)
    error_W = told_W.astype(np.float64) - true_W
    signs = (
        None
        if rate_W is None or last_half_W is None or not last_half_W.any()
        else rate_W[last_half_W] > 0
    )
    return LifeScore(
        rmse_h=float(np.sqrt((error_W**2).mean())),
        bias_h=float(error_W.mean()),
        phm08=phm08(true_W, told_W),
        sign_right=None if signs is None else float(signs.mean()),
        windows=len(error_W),
    )


def grade_probability(logit_WMJ: Floats, temperature: float) -> Doubles:
    """Return the probability of each grade, mean of the members, [W, K]: the same formula as `OrdinalHead.probability`."""
    with np.errstate(over="ignore"):
        worse_WJ = (1.0 / (1.0 + np.exp(-logit_WMJ.astype(np.float64) / temperature))).mean(1)
    edge_W1 = np.ones((len(worse_WJ), 1))
    beyond_WK1 = np.concatenate((edge_W1, worse_WJ, 0.0 * edge_W1), axis=1)
    share_WK: Doubles = beyond_WK1[:, :-1] - beyond_WK1[:, 1:]
    return share_WK


def opinion_probability(logit_WK: Floats, temperature: float) -> Doubles:
    """Return the probability of each grade as the second opinion states it, [W, K]; NaN where there is none."""
    scaled_WK = logit_WK.astype(np.float64) / temperature
    raised_WK = np.exp(scaled_WK - scaled_WK.max(-1, keepdims=True))
    share_WK: Doubles = raised_WK / raised_WK.sum(-1, keepdims=True)
    return share_WK


def joined_probability(own_WK: Doubles, opinion_WK: Doubles, weight: float) -> Doubles:
    """Return network and second opinion joined, the same formula as the model's `probability`: the network alone where it has none."""
    joined_WK: Doubles = np.where(
        np.isfinite(opinion_WK), own_WK + weight * (opinion_WK - own_WK), own_WK
    )
    return joined_WK


def nll(share_WK: Doubles, true_W: Integers) -> float:
    """Return the mean negative log-likelihood of the true grades."""
    return float(-np.log(np.maximum(share_WK[np.arange(len(true_W)), true_W], 1e-12)).mean())


def runs(
    configuration_W: Integers, machine_W: Integers, start_us_W: Integers, window_us: int
) -> Integers:
    """Number the unbroken runs of windows of one machine in one configuration, [W], from 0.

    Args:
        configuration_W: in order of (machine, time).
        machine_W: likewise.
        start_us_W: start of each window.
        window_us: length of a window; a gap of more than half a window breaks the run.
    """
    broken_W = (
        (np.diff(configuration_W) != 0)
        | (np.diff(machine_W) != 0)
        | (np.diff(start_us_W) > 1.5 * window_us)
    )
    return np.concatenate(([0], np.cumsum(broken_W))).astype(np.int64)[: len(configuration_W)]


def smooth(share_WVK: Doubles, run_W: Integers, width: int = 5) -> Doubles:
    """Average probabilities over the last up to `width` windows of the same run: causal, and reset where the condition changes.

    Args:
        share_WVK: probability of each grade.
        run_W: number of each window's run, from `runs`.
        width: most windows that are averaged.

    Returns:
        [W, V, K].
    """
    total, count_W = share_WVK.copy(), np.ones(len(run_W))
    for back in range(1, min(width, len(run_W))):
        same_W = run_W[back:] == run_W[:-back]
        total[back:][same_W] += share_WVK[:-back][same_W]
        count_W[back:] += same_W
    averaged: Doubles = total / count_W[:, None, None]
    return averaged


def life_runs(machine_W: Integers, start_us_W: Integers, rul_W: Floats) -> list[Integers]:
    """Find each run to failure of a component: positions of its windows in order of time, of those whose remaining life is known.

    On one machine a new run begins where remaining life rises: until its failure it only falls.

    Args:
        machine_W: place of the machine.
        start_us_W: start of each window.
        rul_W: true remaining life in operating hours, NaN where none is known.
    """
    known = np.flatnonzero(np.isfinite(rul_W)).astype(np.int64)
    if not len(known):
        return []
    known = known[np.lexsort((start_us_W[known], machine_W[known]))]
    begins = (np.diff(machine_W[known]) != 0) | (np.diff(rul_W[known]) > 0)
    return np.split(known, np.flatnonzero(begins) + 1)


def last_half(machine_W: Integers, start_us_W: Integers, rul_W: Floats, cap_h: float) -> Booleans:
    """Mark the windows in the last half of each run to failure, from its first window to the end that its last one foretells.

    Give all windows and not those of a part, which may hold only the end of a life. No window is marked of a run whose last
    window is at the cap: when it fails is not known.

    Args:
        machine_W: place of the machine.
        start_us_W: start of each window.
        rul_W: true remaining life in operating hours, at most the cap, NaN where none is known.
        cap_h: beyond which remaining life is not told apart.
    """
    marked_W = np.zeros(len(machine_W), np.bool_)
    for run in life_runs(machine_W, start_us_W, rul_W):
        first, last = run[0], run[-1]
        if rul_W[last] < cap_h:
            life_us = start_us_W[last] - start_us_W[first] + float(rul_W[last]) * HOUR_US
            marked_W[run] = start_us_W[run] >= start_us_W[first] + life_us / 2
    return marked_W


def covered(true_W: Floats, low_W: Floats | Doubles, high_W: Floats | Doubles) -> Booleans:
    """Tell of each window whether the truth lies in its closed interval."""
    inside_W: Booleans = (low_W <= true_W) & (true_W <= high_W)
    return inside_W


def reliability(
    confidence_W: Doubles, right_W: Booleans, bins: int = 10
) -> tuple[tuple[float, float, int], ...]:
    """Return mean confidence, accuracy and count of windows in equally filled bins of confidence, rising."""
    if not len(confidence_W):
        return ()
    parts = np.array_split(np.argsort(confidence_W, kind="stable"), min(bins, len(confidence_W)))
    return tuple(
        (float(confidence_W[part].mean()), float(right_W[part].mean()), len(part)) for part in parts
    )
