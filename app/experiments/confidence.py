"""Always-valid confidence sequences for the mean of bounded values: safe to look at after every one of them.

The grid-Kelly betting sequence of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2023, JRSS-B):
somebody who holds the mean for `m` can't expect to get rich by betting on the values, so what makes a bettor rich is not the mean. We
part from it in the grid alone, which is denser near 0, where the best bets lie for values that hardly differ. Bets that are fixed
beforehand cost some values against bets that learn, and buy two things. The order does not count, so labels may arrive in any.
And nothing need be independent: with e_i the expectation of value i given those before, capital over the product of 1 + bet (e_i - m)
is a martingale, and that product is at most 1 where the mean of the e_i is at most m, since 1 + x <= exp(x).
The package `confseq` has it too, but calls itself unstable, was last released in January 2023 and needs a C++ compiler and Boost.
Pure. `N` values, `U` different ones, `G` bets.
Invariant: with a probability of at least 1 - alpha, every interval that is ever read from growing values holds the mean, over the values
so far, of what each was expected to be given those before. Of values yet to come it says something only where they are like these.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BETS_G: Floats = np.array([0.02, 0.07, 0.2, 0.5, 0.8, 0.95])
"""Shares of what could be lost at most that are staked on each value; capital starts in equal parts on all of them."""
STEP = 1e-4
"""To which values are rounded: few different ones make a mean over thousands cheap, and no bound moves by more than half of it."""
_HALVINGS = 24


class Sample(NamedTuple):
    """Values in [0, 1], each different one with how often it came."""

    value_U: Floats
    count_U: Floats

    @property
    def size(self) -> int:
        """Return N."""
        return int(self.count_U.sum())

    @property
    def mirrored(self) -> "Sample":
        """Return one minus each value."""
        return Sample(1.0 - self.value_U, self.count_U)


def sample_of(value_N: Floats, low: float, high: float) -> Sample:
    """Count values.

    Args:
        value_N: within [low, high].
        low: what is mapped to 0.
        high: what is mapped to 1; above `low`.
    """
    rounded_N = np.round(value_N / STEP) * STEP
    value_U, count_U = np.unique(rounded_N, return_counts=True)
    return Sample(np.clip((value_U - low) / (high - low), 0.0, 1.0), count_U.astype(np.float64))


def side_of(sample: Sample, mean: float, alpha: float, times: float = 1.0) -> int:
    """Tell on which side of a number the true mean is known to lie.

    Args:
        sample: the values so far.
        mean: the number, in (0, 1).
        alpha: probability that any answer over all time is wrong.
        times: as if each value had come so many times; for looking ahead.

    Returns:
        1 when it is known to be above, -1 below, 0 while it is not known.
    """
    enough = math.log(2.0 / alpha)
    if _log_wealth(sample, mean, times) >= enough:
        return 1
    return -1 if _log_wealth(sample.mirrored, 1.0 - mean, times) >= enough else 0


def mean_interval(sample: Sample, alpha: float) -> tuple[float, float]:
    """Return the interval that holds the true mean, always-valid; [0, 1] without values."""
    return _lowest(sample, alpha), 1.0 - _lowest(sample.mirrored, alpha)


def _lowest(sample: Sample, alpha: float) -> float:
    """Return the least mean that nobody got rich by betting against; capital falls as the mean rises."""
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
    """Return the logarithm of the capital of one who started with 1 and bet that the mean is above `mean`, in (0, 1)."""
    if sample.size == 0:
        return 0.0
    gain_UG = np.log1p(BETS_G * (sample.value_U / mean - 1.0)[:, np.newaxis])
    log_G = times * (sample.count_U @ gain_UG)
    largest = float(log_G.max())
    return largest + math.log(float(np.exp(log_G - largest).mean()))
