"""Finds where the health of a component rose at once: a repair that nobody recorded.

Optimal partitioning (Jackson et al., 2005, IEEE Signal Processing Letters 12) into straight lines
that do not rise, which is exact: at most a few hundred points make pruning unnecessary. Of the
boundaries only those with a rise of the level count; where wear begins, the level does not rise.

Shapes: P points.
"""

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

MIN_RISE = 0.15
"""Least rise of health: about three times the error of one health."""
MIN_POINTS = 4
"""Least points between two boundaries."""
PENALTY = 6.0
"""Of a boundary, in variances times the logarithm of the number of points."""
_CLIP = 3.0
"""Deviations from the running median are cut to so many standard deviations."""


def rises(hour_P: Doubles, health_P: Doubles) -> list[int]:
    """Return the positions of the first points after a rise, in order.

    Args:
        hour_P: operating hours, rising.
        health_P: health in [0, 1].
    """
    count = len(health_P)
    if count < 2 * MIN_POINTS or not _may_rise(health_P):
        return []
    centre_P = _running_median(health_P)
    apart_P = health_P - centre_P
    sd = max(0.01, 1.4826 * float(np.median(np.abs(apart_P))))
    clipped_P = centre_P + np.clip(apart_P, -_CLIP * sd, _CLIP * sd)
    lines = _Lines(hour_P, clipped_P)
    penalty = PENALTY * sd**2 * float(np.log(count))
    best_P = np.full(count + 1, np.inf)
    best_P[0] = -penalty
    before_P = np.zeros(count + 1, np.int64)
    for end in range(MIN_POINTS, count + 1):
        starts = np.arange(end - MIN_POINTS + 1)
        total = best_P[starts] + lines.cost(starts, end) + penalty
        before_P[end] = int(total.argmin())
        best_P[end] = total[before_P[end]]
    bounds = [count]
    while bounds[-1] > 0:
        bounds.append(int(before_P[bounds[-1]]))
    bounds.reverse()
    return [
        middle
        for start, middle, end in zip(bounds, bounds[1:], bounds[2:], strict=False)
        if lines.at(middle, end, middle) - lines.at(start, middle, middle - 1) >= MIN_RISE
    ]


class _Lines:
    """Least-squares lines that do not rise, through any run of points, by prefix sums."""

    def __init__(self, hour_P: Doubles, health_P: Doubles) -> None:
        self._x_P = (hour_P - hour_P[0]) / max(1e-9, float(hour_P[-1] - hour_P[0]))
        moments = (np.ones_like(self._x_P), self._x_P, health_P, self._x_P**2,
                   self._x_P * health_P, health_P**2)  # fmt: skip
        self._sums = np.concatenate([np.zeros((6, 1)), np.cumsum(moments, axis=1)], axis=1)

    def _fit(self, start: NDArray[np.int64], end: int) -> tuple[Doubles, Doubles, Doubles]:
        """Return mean of x, level there and slope of the lines through [start, end)."""
        n, x, y, xx, xy, _ = self._sums[:, end, None] - self._sums[:, start]
        spread = np.maximum(xx - x * x / n, 1e-12)
        return x / n, y / n, np.minimum((xy - x * y / n) / spread, 0.0)

    def cost(self, start: NDArray[np.int64], end: int) -> Doubles:
        """Return the sums of squares about the lines through [start, end)."""
        n, x, y, xx, xy, yy = self._sums[:, end, None] - self._sums[:, start]
        _, _, slope = self._fit(start, end)
        found: Doubles = (
            yy - y * y / n - 2.0 * slope * (xy - x * y / n) + slope**2 * (xx - x * x / n)
        )
        return found

    def at(self, start: int, end: int, place: int) -> float:
        """Return the line through [start, end) at a point."""
        centre, level, slope = self._fit(np.array([start]), end)
        return float(level[0] + slope[0] * (self._x_P[place] - centre[0]))


def _may_rise(health_P: Doubles) -> bool:
    """Return whether any run of points lies above the run before it; cheap, and never misses."""
    run = np.lib.stride_tricks.sliding_window_view(health_P, MIN_POINTS).mean(1)
    return bool((run[MIN_POINTS:] - run[:-MIN_POINTS]).max() >= MIN_RISE / 2.0)


def _running_median(health_P: Doubles) -> Doubles:
    padded = np.pad(health_P, MIN_POINTS // 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * (MIN_POINTS // 2) + 1)
    found: Doubles = np.median(windows, axis=1)
    return found
