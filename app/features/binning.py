"""Averages readings into the bins of a window, and hashes the bins of a window.

Shapes: S sensors, N bins of a window, R readings.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from app.core.errors import WindowError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def window_digest(values_SN: Floats) -> str:
    """Hash a window: 128 bits of BLAKE2b as hexadecimal. Equal bins have equal digests.

    A window of 17 sensors and 60 bins takes about 10 us.

    Args:
        values_SN: bins in the order of `Equipment.sensors`, NaN where missing.
    """
    data = values_SN.astype("<f4", copy=False).tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def bin_series(
    offsets_us: NDArray[np.int64], values: NDArray[np.float64], grid_us: int, bins: int
) -> Floats:
    """Average readings into bins as the database does: float64 sum in time order over the count.

    Args:
        offsets_us: [R] time of each reading since the start of the window, microseconds.
        values: [R] readings in the sensor's unit; NaN is ignored.
        grid_us: width of a bin, microseconds.
        bins: N, bins of the window; readings outside the window are ignored.

    Returns:
        [N] means rounded to float32; NaN in a bin without readings.
    """
    offsets_us, values = np.asarray(offsets_us, np.int64), np.asarray(values, np.float64)
    order = np.argsort(offsets_us, kind="stable")
    bin_R, value_R = offsets_us[order] // grid_us, values[order]
    inside = (bin_R >= 0) & (bin_R < bins) & ~np.isnan(value_R)
    # bincount adds weights one by one, as the database does; numpy's pairwise sum rounds otherwise
    total_N = np.bincount(bin_R[inside], weights=value_R[inside], minlength=bins)
    count_N = np.bincount(bin_R[inside], minlength=bins)
    mean_N = np.full(bins, np.nan)
    np.divide(total_N, count_N, out=mean_N, where=count_N > 0)
    return mean_N.astype(np.float32)


def check_bins(bins: int, steps: int) -> None:
    """Check that a window divides into steps of equal width.

    Raises:
        WindowError: the number of bins is not a positive multiple of the number of steps.
    """
    if bins == 0 or bins % steps:
        raise WindowError(
            f"expected a window of a whole multiple of {steps} bins, found {bins}: give all bins "
            "of the window"
        )
