"""Statistics of bins: of each step of a window, and the flatness and roughness of a whole window.

To add a statistic, write its function here and add its name to `Statistic` and to `STATISTICS`;
`TrainConfig.statistics` lists those that are trained by default.
The functions know no machine, reference or unit. Leading axes, such as windows, are allowed.
Shapes: W windows, S sensors, N bins of a window or of a step, T steps, F statistics of a step.
Invariant: but for residuals, which are given, the statistics of a sensor do not depend, in any bit,
on other sensors or windows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats, check_bins

Scalar = TypeVar("Scalar", bound=np.generic)
Statistic = Literal[
    "mean",
    "shift",
    "spread",
    "dip",
    "peak",
    "slope",
    "start",
    "end",
    "residual",
    "residual_spread",
]
"""Names of the statistics of a step; `STATISTICS` and `OF_RESIDUALS` define them.

All but the mean are differences: the effect of a transient is small compared with the level, which
drifts with temperature. The last two are of residuals (`app.features.residuals`)."""


@dataclass(frozen=True, slots=True)
class StepBins:
    """The bins of every step and the sums that the statistics share.

    Args:
        there_STN: which bins have readings.
        known_STN: bins, NaN where missing, float32.
        zeroed_STN: bins, 0.0 where missing, float64.
        centred_STN: distance of each bin from its step's mean, 0.0 where missing.
        count_ST: bins with readings of each step.
        some_ST: the same, at least 1.
        mean_ST: mean of each step, 0.0 without readings.
    """

    there_STN: NDArray[np.bool_]
    known_STN: Floats
    zeroed_STN: Doubles
    centred_STN: Doubles
    count_ST: NDArray[np.int64]
    some_ST: NDArray[np.int64]
    mean_ST: Doubles


def _mean(step: StepBins) -> Doubles:
    return step.mean_ST


def _shift(step: StepBins) -> Doubles:
    """Difference of the step's mean from the window's mean."""
    *sensors, steps, width = step.zeroed_STN.shape
    total_S = step.zeroed_STN.reshape(*sensors, steps * width).sum(-1)
    level_S = total_S / np.maximum(step.count_ST.sum(-1), 1)
    shift_ST: Doubles = step.mean_ST - level_S[..., None]
    return shift_ST


def _spread(step: StepBins) -> Doubles:
    """Population standard deviation."""
    spread_ST: Doubles = np.sqrt((step.centred_STN**2).sum(-1) / step.some_ST)
    return spread_ST


def _dip(step: StepBins) -> Doubles:
    """Lowest bin minus the mean."""
    dip_ST: Doubles = np.fmin.reduce(_bins_first(step.known_STN)) - step.mean_ST
    return dip_ST


def _peak(step: StepBins) -> Doubles:
    """Highest bin minus the mean."""
    peak_ST: Doubles = np.fmax.reduce(_bins_first(step.known_STN)) - step.mean_ST
    return peak_ST


def _slope(step: StepBins) -> Doubles:
    """Rise of the least-squares line from the place of the first bin to that of the last."""
    width = step.there_STN.shape[-1]
    place_N = np.arange(width, dtype=np.float64)
    # whole numbers, so their sum is exact in any order
    middle_ST = _bins_first(np.where(step.there_STN, place_N, 0.0)).sum(0) / step.some_ST
    offset_STN = np.where(step.there_STN, place_N - middle_ST[..., None], 0.0)
    power_ST = (offset_STN**2).sum(-1)
    product_ST = (offset_STN * step.centred_STN).sum(-1)
    slope_ST: Doubles = product_ST / np.where(power_ST > 0, power_ST, 1.0) * (width - 1)
    return slope_ST


def _start(step: StepBins) -> Doubles:
    """First bin with readings minus the mean."""
    return _centred_at(step, step.there_STN.argmax(-1))


def _end(step: StepBins) -> Doubles:
    """Last bin with readings minus the mean."""
    width = step.there_STN.shape[-1]
    return _centred_at(step, width - 1 - step.there_STN[..., ::-1].argmax(-1))


STATISTICS: Mapping[Statistic, Callable[[StepBins], Doubles]] = {
    "mean": _mean,
    "shift": _shift,
    "spread": _spread,
    "dip": _dip,
    "peak": _peak,
    "slope": _slope,
    "start": _start,
    "end": _end,
}
"""Function of each statistic: [S, T], any number in a step without readings."""
LEAST_KNOWN = 0.5
"""Least share of a step's bins with known residuals, for the statistics of residuals."""
OF_RESIDUALS: Mapping[Statistic, Statistic] = {"residual": "mean", "residual_spread": "spread"}
"""Statistics of residuals: which statistic of the residuals each is."""
ALL_STATISTICS: tuple[Statistic, ...] = (*STATISTICS, *OF_RESIDUALS)


def step_statistics(
    values_SN: Floats,
    steps: int,
    statistics: tuple[Statistic, ...],
    residual_SN: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Compute statistics of each step of a window.

    Args:
        values_SN: bins in the sensors' units, NaN where missing; or [W, S, N] of many windows.
        steps: T; divides N.
        statistics: names of F statistics, in the order of the result.
        residual_SN: residuals of the bins, NaN where unknown; None where none is known.

    Returns:
        [S, T, F] statistics, NaN in a step without readings or, where it is of residuals, without
        any; and [S, T] coverage: the share of the step's bins that have readings. For many windows
        [W, S, T, F] and [W, S, T].

    Raises:
        WindowError: N is not a positive multiple of the steps.
    """
    N = values_SN.shape[-1]
    check_bins(N, steps)
    width = N // steps
    bins_STN = values_SN.reshape(*values_SN.shape[:-1], steps, width)
    there_STN = np.isfinite(bins_STN)
    known_STN = np.where(there_STN, bins_STN, np.float32(np.nan))
    values_STN = known_STN.astype(np.float64)
    count_ST = _bins_first(there_STN).sum(0)
    some_ST = np.maximum(count_ST, 1)
    zeroed_STN = np.where(there_STN, values_STN, 0.0)
    mean_ST = zeroed_STN.sum(-1) / some_ST
    centred_STN = np.where(there_STN, values_STN - mean_ST[..., None], 0.0)
    step = StepBins(there_STN, known_STN, zeroed_STN, centred_STN, count_ST, some_ST, mean_ST)
    raw_STF = np.empty((*count_ST.shape, len(statistics)), np.float32)
    with np.errstate(over="ignore"):  # readings near the end of float32 are out of any range
        for index, name in enumerate(statistics):
            raw_STF[..., index] = STATISTICS[name](step) if name in STATISTICS else np.nan
    raw_STF[count_ST == 0] = np.nan
    places = [index for index, name in enumerate(statistics) if name in OF_RESIDUALS]
    if places and residual_SN is not None:
        names = tuple(OF_RESIDUALS[statistics[place]] for place in places)
        known_ST = np.isfinite(residual_SN).reshape(there_STN.shape).sum(-1)
        raw_STF[..., places] = step_statistics(residual_SN, steps, names)[0]
        few_ST1 = (known_ST < max(2.0, LEAST_KNOWN * width))[..., None]
        # the spread of a few residuals would be nearly 0
        np.copyto(raw_STF, np.nan, where=few_ST1 & np.isin(np.arange(len(statistics)), places))
    return raw_STF, (count_ST / width).astype(np.float32)


def step_coverage(values_SN: Floats, steps: int) -> Floats:
    """Return the share of each step's bins that have readings, [S, T]; see `step_statistics`.

    Raises:
        WindowError: N is not a positive multiple of the steps.
    """
    N = values_SN.shape[-1]
    check_bins(N, steps)
    there_STN = np.isfinite(values_SN).reshape(*values_SN.shape[:-1], steps, N // steps)
    coverage_ST: Floats = (there_STN.sum(-1) / (N // steps)).astype(np.float32)
    return coverage_ST


def flatness(values_SN: Floats) -> Doubles:
    """Compute the share of a window's readings that the longest run of one unchanged value fills.

    Args:
        values_SN: bins, NaN where missing; any leading axes.

    Returns:
        [S], or the leading axes; NaN with fewer than 3 bins with readings.
    """
    there_SN = np.isfinite(values_SN)
    count_S = there_SN.sum(-1)
    enough_S = count_S >= 3
    flat_S = np.full(count_S.shape, np.nan)
    if enough_S.any():  # R readings of the Q sensors with enough of them, one sensor after another
        value_R = values_SN[there_SN & enough_S[..., None]]
        count_Q = count_S[enough_S]
        first_Q = np.cumsum(count_Q) - count_Q
        begins_R = np.ones(len(value_R), np.bool_)
        np.not_equal(value_R[1:], value_R[:-1], out=begins_R[1:])
        begins_R[first_Q] = True
        runs = np.flatnonzero(begins_R)
        length = np.diff(runs, append=len(value_R))
        longest_Q = np.maximum.reduceat(length, np.searchsorted(runs, first_Q))
        flat_S[enough_S] = longest_Q / count_Q
    return flat_S


def roughness(values_SN: Floats) -> Doubles:
    """Compute the mean absolute second difference of neighbouring bins, in the sensors' units.

    Args:
        values_SN: bins, NaN where missing; any leading axes.

    Returns:
        [S], or the leading axes; 0.0 without three neighbouring bins with readings.
    """
    bend_SN = np.abs(np.diff(values_SN.astype(np.float64), n=2, axis=-1))
    there_SN = np.isfinite(bend_SN)
    rough_S: Doubles = np.where(there_SN, bend_SN, 0.0).sum(-1) / np.maximum(there_SN.sum(-1), 1)
    return rough_S


def _bins_first(bins_STN: NDArray[Scalar]) -> NDArray[Scalar]:
    # steps have few bins: one pass over all steps per bin is several times faster than the reverse
    return np.ascontiguousarray(np.moveaxis(bins_STN, -1, 0))


def _centred_at(step: StepBins, place_ST: NDArray[np.int64]) -> Doubles:
    return np.take_along_axis(step.centred_STN, place_ST[..., None], -1)[..., 0]
