"""Scores of grades, health, remaining life, intervals and stated probabilities against the labels.

Pure. Invariant: a window without a label of a component changes no figure of that component.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, f1_score

from app.features.binning import Floats
from train.data.labels import HOUR_US, Booleans, Integers

Doubles = NDArray[np.float64]


class Score(BaseModel):
    """Scores of the predicted grades of one component.

    `macro_f1` averages over the grades that occur; `within_one` is the share at most one grade off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: float
    macro_f1: float
    within_one: float
    windows: int


class LifeScore(BaseModel):
    """Scores of remaining life: RMSE and bias in hours, the PHM08 score, right signs of the rate.

    `sign_right` is the share of windows in the last half of life with a positive rate; None without
    rates, or where no run's end is known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rmse_h: float
    bias_h: float
    phm08: float
    sign_right: float | None
    windows: int


def score_grades(true_W: Integers, predicted_W: Integers) -> Score:
    """Score predicted grades; grades among the true or the predicted ones count in macro-F1."""
    return Score(
        accuracy=float((true_W == predicted_W).mean()),
        macro_f1=float(f1_score(true_W, predicted_W, average="macro")),
        within_one=float((np.abs(true_W - predicted_W) <= 1).mean()),
        windows=len(true_W),
    )


def exact_matches(true_WV: Integers, predicted_WV: Integers) -> Booleans:
    """Return whether all known grades of each window are right, [W]; true where none is known."""
    matches_W: Booleans = ((true_WV < 0) | (true_WV == predicted_WV)).all(1)
    return matches_W


def confusion(true_W: Integers, predicted_W: Integers, grades: int) -> tuple[tuple[int, ...], ...]:
    """Count windows by true grade (rows) and predicted grade (columns), without those below 0."""
    counts = confusion_matrix(true_W, predicted_W, labels=range(grades))
    return tuple(tuple(row) for row in counts.tolist())


def phm08(true_W: Floats | Doubles, predicted_W: Floats | Doubles) -> float:
    """Return the score of the PHM08 challenge, which penalises late warnings (Saxena et al., 2008).

    The sum over windows of exp(-d / 13) - 1 where d = predicted - true is negative, else of
    exp(d / 10) - 1; 0 is perfect. The constants are in cycles of a turbofan; one cycle is one
    operating hour here.
    """
    late_W = predicted_W.astype(np.float64) - true_W
    return float(np.expm1(np.where(late_W < 0, -late_W / 13.0, late_W / 10.0)).sum())


def score_life(
    true_W: Floats | Doubles,
    predicted_W: Floats | Doubles,
    cap_h: float,
    rate_W: Floats | Doubles | None = None,
    last_half_W: Booleans | None = None,
) -> LifeScore:
    """Score remaining life, both sides clipped to [0, cap].

    Args:
        true_W: operating hours.
        predicted_W: operating hours.
        cap_h: beyond which remaining life is not distinguished; at least 0.
        rate_W: predicted degradation rate of the same windows, None without any.
        last_half_W: windows in the last half of their run to failure, where the rate is positive.
    """
    capped_W = np.asarray(np.clip(true_W, 0.0, cap_h), np.float64)
    found_W = np.asarray(np.clip(predicted_W, 0.0, cap_h), np.float64)
    error_W = found_W - capped_W
    signs = (
        None
        if rate_W is None or last_half_W is None or not last_half_W.any()
        else rate_W[last_half_W] > 0
    )
    return LifeScore(
        rmse_h=float(np.sqrt((error_W**2).mean())),
        bias_h=float(error_W.mean()),
        phm08=phm08(capped_W, found_W),
        sign_right=None if signs is None else float(signs.mean()),
        windows=len(error_W),
    )


def nll(probability_WK: Doubles, true_W: Integers) -> float:
    """Return the mean negative log-likelihood of the true grades, probabilities at least 1e-12.

    Not `sklearn.metrics.log_loss`, which takes 3.4 ms instead of 0.03 for 1,200 windows: the search
    for temperatures calls this 17,000 times in a training of the rig.
    """
    own_W = probability_WK[np.arange(len(true_W)), true_W]
    return float(-np.log(np.maximum(own_W, 1e-12)).mean())


def runs(
    configuration_W: Integers, machine_W: Integers, start_us_W: Integers, window_us: int
) -> Integers:
    """Number the runs of neighbouring windows of one machine in one configuration, [W], from 0.

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


def smooth(probability_WVK: Doubles, run_W: Integers, width: int = 5) -> Doubles:
    """Average probabilities over the last `width` windows of the same run at most.

    Args:
        probability_WVK: probability of each grade.
        run_W: number of each window's run, from `runs`.
        width: windows in the average at most.

    Returns:
        [W, V, K].
    """
    total, count_W = probability_WVK.copy(), np.ones(len(run_W))
    for back in range(1, min(width, len(run_W))):
        same_W = run_W[back:] == run_W[:-back]
        total[back:][same_W] += probability_WVK[:-back][same_W]
        count_W[back:] += same_W
    averaged: Doubles = total / count_W[:, None, None]
    return averaged


def life_runs(machine_W: Integers, start_us_W: Integers, rul_W: Floats) -> list[Integers]:
    """Return the positions of the windows of each run to failure of a component, in order of time.

    On one machine a new run begins where remaining life rises: until a failure it only falls.

    Args:
        machine_W: number of the machine.
        start_us_W: start of each window.
        rul_W: true remaining life in operating hours, NaN where unknown.
    """
    known = np.flatnonzero(np.isfinite(rul_W)).astype(np.int64)
    if not len(known):
        return []
    known = known[np.lexsort((start_us_W[known], machine_W[known]))]
    begins = (np.diff(machine_W[known]) != 0) | (np.diff(rul_W[known]) > 0)
    return np.split(known, np.flatnonzero(begins) + 1)


def last_half(machine_W: Integers, start_us_W: Integers, rul_W: Floats, cap_h: float) -> Booleans:
    """Mark the windows in the last half of each run to failure.

    A run lasts from its first window to the failure, by the remaining life of its last window. A
    run whose last window is at the cap has no known failure and is not marked.

    Args:
        machine_W: number of the machine; of all windows, since a part may hold only a life's end.
        start_us_W: start of each window.
        rul_W: true remaining life in operating hours, at most the cap, NaN where unknown.
        cap_h: beyond which remaining life is not distinguished.
    """
    marked_W = np.zeros(len(machine_W), np.bool_)
    for run in life_runs(machine_W, start_us_W, rul_W):
        first, last = run[0], run[-1]
        if rul_W[last] < cap_h:
            life_us = start_us_W[last] - start_us_W[first] + float(rul_W[last]) * HOUR_US
            marked_W[run] = start_us_W[run] >= start_us_W[first] + life_us / 2
    return marked_W


def covered(true_W: Floats, low_W: Floats | Doubles, high_W: Floats | Doubles) -> Booleans:
    """Return whether the true value of each window lies in its closed interval."""
    inside_W: Booleans = (low_W <= true_W) & (true_W <= high_W)
    return inside_W


def reliability(
    confidence_W: Doubles, right_W: Booleans, bins: int = 10
) -> tuple[tuple[float, float, int], ...]:
    """Return mean confidence, accuracy and number of windows between quantiles of confidence."""
    if not len(confidence_W):
        return ()
    accuracy, confidence = calibration_curve(
        right_W, confidence_W, n_bins=bins, strategy="quantile", pos_label=True
    )
    edges = np.percentile(confidence_W, np.linspace(0, 100, bins + 1))[1:-1]
    counts = np.bincount(np.searchsorted(edges, confidence_W))
    return tuple(
        zip(confidence.tolist(), accuracy.tolist(), counts[counts > 0].tolist(), strict=True)
    )
