"""Always-valid confidence sequences for the mean of bounded values.

The grid-Kelly betting sequence of Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting" (2023, JRSS-B): if the mean is `m`, betting on the values cannot be expected
to gain, so an `m` against which a bettor gains enough is not the mean. Deviation: the grid of bets
is denser near 0, where the best bets are for values that hardly differ. Fixed bets need somewhat
more values than adaptive ones, but the order of the values does not matter, so labels may arrive in
any order. The values need not be independent: with e_i the expectation of value i given those
before, capital over the product of 1 + bet (e_i - m) is a martingale, and the product is at most 1
where the mean of the e_i is at most m, since 1 + x <= exp(x).
The package `confseq` implements it too, but calls itself unstable, was last released in January
2023 and needs a C++ compiler and Boost.

Pure. `N` values, `U` distinct ones, `G` bets.
Invariant: with a probability of at least 1 - alpha, every interval computed from the growing values
contains the mean, over the values so far, of their expectations given those before. It predicts
later values only when they are like these.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BETS_G: Floats = np.array([0.02, 0.07, 0.2, 0.5, 0.8, 0.95])
"""Staked shares of the largest possible loss; capital starts divided equally among the bets."""
STEP = 1e-4
"""Values are rounded to it, so that few are distinct; a bound moves by at most half of it."""
_HALVINGS = 24


class Sample(NamedTuple):
    """Distinct values in [0, 1] and their counts."""

    value_U: Floats
    count_U: Floats

    @property
    def size(self) -> int:
        """Number of values, N."""
        return int(self.count_U.sum())

    @property
    def mirrored(self) -> "Sample":
        """The sample of one minus each value."""
        return Sample(1.0 - self.value_U, self.count_U)


def sample_of(value_N: Floats, low: float, high: float) -> Sample:
    """Count values.

    Args:
        value_N: Within [low, high].
        low: Mapped to 0.
        high: Mapped to 1; above `low`.
    """
    rounded_N = np.round(value_N / STEP) * STEP
    value_U, count_U = np.unique(rounded_N, return_counts=True)
    return Sample(np.clip((value_U - low) / (high - low), 0.0, 1.0), count_U.astype(np.float64))


def side_of(sample: Sample, mean: float, alpha: float, times: float = 1.0) -> int:
    """Return the side of a number on which the true mean lies.

    Args:
        sample: The values so far.
        mean: The number, in (0, 1).
        alpha: Probability that any answer over all time is wrong.
        times: Multiplies all counts, to extrapolate.

    Returns:
        1 when the mean is above, -1 below, 0 while unknown.
    """
    enough = math.log(2.0 / alpha)
    if _log_wealth(sample, mean, times) >= enough:
        return 1
    return -1 if _log_wealth(sample.mirrored, 1.0 - mean, times) >= enough else 0


def mean_interval(sample: Sample, alpha: float) -> tuple[float, float]:
    """Return the always-valid confidence interval of the mean; [0, 1] without values."""
    return _lowest(sample, alpha), 1.0 - _lowest(sample.mirrored, alpha)


def _lowest(sample: Sample, alpha: float) -> float:
    """Return the lower bound of the mean, by bisection; capital falls as the mean rises."""
    size = sample.size
    high = 0.0 if size == 0 else float(sample.value_U @ sample.count_U) / size
    if high <= 0.0:
        return 0.0
    low, enough = 0.0, math.log(2.0 / alpha)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _log_wealth(sample, middle, 1.0) >= enough:
            low = middle
        else:
            high = middle
    return low


def _log_wealth(sample: Sample, mean: float, times: float) -> float:
    """Return the log capital, from 1, of bets that the mean is above `mean`, in (0, 1)."""
    if sample.size == 0:
        return 0.0
    gain_UG = np.log1p(BETS_G * (sample.value_U / mean - 1.0)[:, np.newaxis])
    log_G = times * (sample.count_U @ gain_UG)
    largest = float(log_G.max())
    return largest + math.log(float(np.exp(log_G - largest).mean()))
