"""What bins say by themselves: readings to bins, and bins to the statistics of steps, how flat and how rough they are.

It knows no machine, no reference and no unit. Any number of leading axes, such as windows, goes through in one pass.
Shapes: see `app.features.extraction`.
Invariant: a row's numbers do not depend, in any bit, on the rows beside it.
"""

import hashlib
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.core.errors import WindowError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)
Statistic = Literal["mean", "shift", "spread", "dip", "peak", "slope", "start", "end"]
"""Of a step's bins: mean; shift of the mean from the window's mean; population standard deviation; distance of the lowest, the highest,
the first and the last bin from the mean; slope as the least-squares rise from the first bin's place to the last's.

All but the mean are differences: what a transient says is small beside the level, which drifts with temperature."""


def window_digest(values_SN: Floats) -> str:
    """Return 128 bits of BLAKE2b, as hexadecimal, over a window's bins as numbers: the same readings have the same, however they came.

    A window of 17 sensors and 60 bins takes about 10 us.

    Args:
        values_SN: bins in the order of `Equipment.sensors`, NaN where missing.
    """
    return hashlib.blake2b(
        values_SN.astype("<f4", copy=False).tobytes(), digest_size=16
    ).hexdigest()


def bin_series(
    offsets_us: NDArray[np.int64], values: NDArray[np.float64], grid_us: int, bins: int
) -> Floats:
    """Average readings into bins as the database does: a bin's float64 sum in time order, divided by its count.

    Args:
        offsets_us: [R] time of each reading from the start of the window, microseconds.
        values: [R] readings in the sensor's unit; NaN is no reading.
        grid_us: width of a bin, microseconds.
        bins: N, bins of the window; readings outside them are left out.

    Returns:
        [N] means rounded to float32; NaN where a bin has no reading.
    """
    offsets_us, values = np.asarray(offsets_us, np.int64), np.asarray(values, np.float64)
    order = np.argsort(offsets_us, kind="stable")
    bin_R, value_R = offsets_us[order] // grid_us, values[order]
    inside = (bin_R >= 0) & (bin_R < bins) & ~np.isnan(value_R)
    # bincount adds one weight after the other, as the database's sum does; numpy's own sum is pairwise and rounds differently
    total_N = np.bincount(bin_R[inside], weights=value_R[inside], minlength=bins)
    count_N = np.bincount(bin_R[inside], minlength=bins)
    mean_N = np.full(bins, np.nan)
    np.divide(total_N, count_N, out=mean_N, where=count_N > 0)
    return mean_N.astype(np.float32)


def step_statistics(
    values_SN: Floats, steps: int, statistics: tuple[Statistic, ...]
) -> tuple[Floats, Floats]:
    """Describe each step of a window by statistics of its bins.

    Args:
        values_SN: bins in the sensors' units, NaN where missing; or those of many windows, [W, S, N].
        steps: T; divides N.
        statistics: names of the statistics, see `Statistic`.

    Returns:
        [S, T, F] statistics, NaN in a step without a bin; and [S, T] coverage, the share of the step's bins that are there.
        Of many windows, [W, S, T, F] and [W, S, T].

    Raises:
        WindowError: N is not a multiple of the steps.
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
    raw_STF = np.empty((*count_ST.shape, len(statistics)), np.float32)
    for index, name in enumerate(statistics):
        match name:
            case "mean":
                found_ST = mean_ST
            case "spread":
                found_ST = np.sqrt((centred_STN**2).sum(-1) / some_ST)
            case "shift":
                level_S = zeroed_STN.reshape(values_SN.shape).sum(-1) / np.maximum(
                    count_ST.sum(-1), 1
                )
                found_ST = mean_ST - level_S[..., None]
            case "dip":
                found_ST = np.fmin.reduce(_bins_first(known_STN)) - mean_ST
            case "peak":
                found_ST = np.fmax.reduce(_bins_first(known_STN)) - mean_ST
            case "slope":
                place_N = np.arange(width, dtype=np.float64)
                # whole numbers, so their sum is exact in any order
                middle_ST = _bins_first(np.where(there_STN, place_N, 0.0)).sum(0) / some_ST
                offset_STN = np.where(there_STN, place_N - middle_ST[..., None], 0.0)
                power_ST = (offset_STN**2).sum(-1)
                rise_ST = (offset_STN * centred_STN).sum(-1) / np.where(power_ST > 0, power_ST, 1.0)
                found_ST = rise_ST * (width - 1)
            case "start":
                place_ST1 = there_STN.argmax(-1)[..., None]
                found_ST = np.take_along_axis(centred_STN, place_ST1, -1)[..., 0]
            case "end":
                place_ST1 = width - 1 - there_STN[..., ::-1].argmax(-1)[..., None]
                found_ST = np.take_along_axis(centred_STN, place_ST1, -1)[..., 0]
        raw_STF[..., index] = found_ST
    raw_STF[count_ST == 0] = np.nan
    return raw_STF, (count_ST / width).astype(np.float32)


def _bins_first(bins_STN: NDArray[Scalar]) -> NDArray[Scalar]:
    # steps have few bins: a pass over all steps for each bin is several times faster than one over the bins of each step
    return np.ascontiguousarray(np.moveaxis(bins_STN, -1, 0))


def flatness(values_SN: Floats) -> Doubles:
    """Return the share of a window's bins that the longest run of one unchanging value fills; NaN below 3 bins.

    Args:
        values_SN: bins, NaN where missing; any leading axes.

    Returns:
        [S], or the leading axes.
    """
    there_SN = np.isfinite(values_SN)
    count_S = there_SN.sum(-1)
    told_S = count_S >= 3
    flat_S = np.full(count_S.shape, np.nan)
    if told_S.any():  # R readings of all told sensors, one sensor after the other
        value_R = values_SN[there_SN & told_S[..., None]]
        count_Q = count_S[told_S]
        first_Q = np.cumsum(count_Q) - count_Q
        begins_R = np.ones(len(value_R), np.bool_)
        np.not_equal(value_R[1:], value_R[:-1], out=begins_R[1:])
        begins_R[first_Q] = True
        runs = np.flatnonzero(begins_R)
        longest_Q = np.maximum.reduceat(
            np.diff(runs, append=len(value_R)), np.searchsorted(runs, first_Q)
        )
        flat_S[told_S] = longest_Q / count_Q
    return flat_S


def roughness(values_SN: Floats) -> Doubles:
    """Return the mean absolute second difference of neighbouring bins, in the sensors' units; 0 where there is none.

    Args:
        values_SN: bins, NaN where missing; any leading axes.

    Returns:
        [S], or the leading axes.
    """
    bend_SN = np.abs(np.diff(values_SN.astype(np.float64), n=2, axis=-1))
    there_SN = np.isfinite(bend_SN)
    rough_S: Doubles = np.where(there_SN, bend_SN, 0.0).sum(-1) / np.maximum(there_SN.sum(-1), 1)
    return rough_S


def check_bins(bins: int, steps: int) -> None:
    """Refuse a window that can't be parted into steps.

    Raises:
        WindowError: the bins are not a multiple of the steps.
    """
    if bins == 0 or bins % steps:
        raise WindowError(
            f"expected a window of a whole multiple of {steps} bins, found {bins}: give all bins of the window"
        )
