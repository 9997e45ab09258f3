"""Summaries of sensors' windows: six numbers each, in which faults of an instrument differ.

An offset moves the level alone, a drift level and trend, a gain all but the trend; noise raises the
last four, spikes raise `isolated`, and a sensor that is stuck loses all of them.
Shapes: W windows, S sensors, N bins, T steps, Y numbers of a summary.
Invariant: the summary of a sensor does not depend on other sensors or windows.
"""

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats

Number = Literal["level", "trend", "spread", "roughness", "isolated", "quiet"]
NUMBERS: tuple[Number, ...] = get_args(Number)
"""Level: mean distance of the steps from the reference's. Trend: rise of their least-squares line
from the middle to the end of the window. Logarithms of: the standard deviation of the bins beside
that line; their mean second difference; the root mean square distance of a bin from the median of
itself and its neighbours; the mean second difference in a fifth of the window with the least."""
LEVEL, TREND, SPREAD, ROUGHNESS, ISOLATED, QUIET = range(6)
LEAST_SHARE = 0.9
"""Share of a window's bins that a summary needs: with more gaps the bends say little."""
BLOCK = 5
"""Bins over which `quiet` averages."""
QUIET_SHARE = 0.2


def summarise(values_WSN: Floats, usual_ST: Doubles, floor_S: Doubles) -> Doubles:
    """Summarise each sensor of each window.

    Args:
        values_WSN: bins in the sensors' units, NaN where missing; at least `BLOCK`.
        usual_ST: mean of each step in the reference; T divides N; may have an axis of windows.
        floor_S: added before a logarithm, in the sensors' units; above 0.

    Returns:
        [W, S, Y], level and trend in the sensors' units; NaN without enough bins.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # readings near the end of float32
        return _summarise(values_WSN, usual_ST, floor_S)


def _summarise(values_WSN: Floats, usual_ST: Doubles, floor_S: Doubles) -> Doubles:
    W, S, N = values_WSN.shape
    T = usual_ST.shape[-1]
    there_WSN = np.isfinite(values_WSN)
    is_whole = bool(there_WSN.all())
    # a missing bin takes the last one before it: it has no bend, and hardly moves a mean of a step
    filled_WSN = values_WSN if is_whole else _filled(values_WSN, there_WSN)
    sum_WST = np.add.reduce(filled_WSN.reshape(W, S, T, N // T), -1, dtype=np.float64)
    step_WST = sum_WST * (T / N) - usual_ST
    place_T = _places(T)
    trend_WS = step_WST @ (place_T / max(float(place_T @ place_T), 1.0))
    before, here, after = filled_WSN[..., :-2], filled_WSN[..., 1:-1], filled_WSN[..., 2:]
    bend_WSN = np.abs(before - 2 * here + after)
    apart_WSN = here - np.maximum(
        np.minimum(before, after), np.minimum(np.maximum(before, after), here)
    )
    # about the first bin, so that the difference of the squares keeps its digits
    centred_WSN = filled_WSN - filled_WSN[..., :1]
    mean_WS = np.add.reduce(centred_WSN, -1, dtype=np.float64) / N
    square_WS = np.einsum("wsn,wsn->ws", centred_WSN, centred_WSN, dtype=np.float64) / N
    slope_WS = trend_WS**2 * (float(place_T @ place_T) / T)
    found_WSY = np.empty((W, S, len(NUMBERS)))
    found_WSY[..., LEVEL] = np.add.reduce(step_WST, -1) / T
    found_WSY[..., TREND] = trend_WS
    found_WSY[..., SPREAD] = np.sqrt(np.maximum(square_WS - mean_WS**2 - slope_WS, 0.0))
    found_WSY[..., ROUGHNESS] = np.add.reduce(bend_WSN, -1) / (N - 2)
    isolated_WS = np.einsum("wsn,wsn->ws", apart_WSN, apart_WSN)
    found_WSY[..., ISOLATED] = np.sqrt(isolated_WS / (N - 2))
    found_WSY[..., QUIET] = _quietest(bend_WSN)
    sizes_WSY = found_WSY[..., SPREAD:]
    np.log(sizes_WSY + floor_S[:, None], out=sizes_WSY)
    if not is_whole:
        found_WSY[there_WSN.mean(-1) < LEAST_SHARE] = np.nan
    return found_WSY


@lru_cache(maxsize=64)
def _places(steps: int) -> Doubles:
    """Return the places of the steps, from -1 to 1; 0 for a single one."""
    return np.linspace(-1.0, 1.0, steps) if steps > 1 else np.zeros(1)


def floors(values_WSN: Floats, range_S: Doubles) -> Doubles:
    """Return `floor_S` for sensors by some of their training windows.

    It keeps a sensor that is at rest in some windows from having logarithms of rounding errors.

    Args:
        values_WSN: bins of training windows.
        range_S: width of each sensor's range.
    """
    there_WSN = np.isfinite(values_WSN)
    count_S = np.maximum(there_WSN.sum((0, 2)), 1)
    zeroed_WSN = np.where(there_WSN, values_WSN, 0.0).astype(np.float64)
    mean_S = zeroed_WSN.sum((0, 2)) / count_S
    apart_WSN = np.where(there_WSN, zeroed_WSN - mean_S[:, None], 0.0)
    spread_S = np.sqrt((apart_WSN**2).sum((0, 2)) / count_S)
    floor_S: Doubles = np.maximum(0.01 * spread_S, 1e-5 * range_S)
    return floor_S


def _filled(values_WSN: Floats, there_WSN: NDArray[np.bool_]) -> Floats:
    """Return the bins, the missing ones as the last one before them, or the first one."""
    N = values_WSN.shape[-1]
    place_WSN = np.where(there_WSN, np.arange(N), -1)
    np.maximum.accumulate(place_WSN, axis=-1, out=place_WSN)
    first_WS1 = there_WSN.argmax(-1)[..., None]
    place_WSN = np.where(place_WSN < 0, first_WS1, place_WSN)
    filled_WSN: Floats = np.take_along_axis(values_WSN, place_WSN, -1)
    # sensors without any bin; their summary is NaN
    return np.where(np.isfinite(filled_WSN), filled_WSN, np.float32(0.0))


def _quietest(bend_WSN: Floats) -> Floats:
    """Return the mean bend of the block at `QUIET_SHARE` of the blocks in order of it, [W, S]."""
    blocks = bend_WSN.shape[-1] // BLOCK
    shape = (*bend_WSN.shape[:-1], blocks, BLOCK)
    mean_WSB = np.add.reduce(bend_WSN[..., : blocks * BLOCK].reshape(shape), -1) / BLOCK
    place = int(QUIET_SHARE * (blocks - 1))
    found_WS: Floats = np.partition(mean_WSB, place, axis=-1)[..., place]
    return found_WS
