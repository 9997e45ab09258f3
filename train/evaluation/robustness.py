"""Simulate faulty sensors: one at a time missing, frozen, offset or noisy, or many missing at once.

Pure. Changes bins before features are made, so the detection of sensor faults takes part as in
serving. Invariant: the bins of all other sensors stay as they are.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Floats
from train.evaluation.predict import Disturb
from train.evaluation.scores import Doubles

Fault = Literal["missing", "frozen", "offset", "noisy"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


def usual_spread(values_WSN: Floats) -> Doubles:
    """Return the standard deviation of all bins of each sensor, [S]; 0 for a sensor without any."""
    known_WSN = np.isfinite(values_WSN)
    count_S = np.maximum(known_WSN.sum((0, 2)), 1)
    filled_WSN = np.where(known_WSN, values_WSN, 0.0).astype(np.float64)
    mean_S = filled_WSN.sum((0, 2)) / count_S
    apart_WSN = np.where(known_WSN, filled_WSN - mean_S[:, None], 0.0)
    spread_S: Doubles = np.sqrt((apart_WSN**2).sum((0, 2)) / count_S)
    return spread_S


def faulty_sensor(fault: Fault, sensor: int, spread_S: Doubles, seed: int) -> Disturb:
    """Return a function that makes one sensor of every window faulty.

    Missing: no readings. Frozen: the window's first reading in every bin. Offset: one standard
    deviation is added. Noisy: white noise of one standard deviation is added.

    Args:
        fault: kind of fault.
        sensor: position of the sensor.
        spread_S: from `usual_spread`.
        seed: of the noise.
    """
    generator = np.random.default_rng(seed)

    def disturb(values_WSN: Floats) -> Floats:
        faulty_WSN = values_WSN.copy()
        values_WN = faulty_WSN[:, sensor]
        if fault == "missing":
            values_WN[:] = np.nan
        elif fault == "frozen":
            first_W1 = np.argmax(np.isfinite(values_WN), axis=1)[:, None]
            values_WN[:] = np.where(
                np.isfinite(values_WN), np.take_along_axis(values_WN, first_W1, 1), np.nan
            )
        elif fault == "offset":
            values_WN += np.float32(spread_S[sensor])
        else:
            values_WN += generator.normal(0.0, spread_S[sensor], values_WN.shape).astype(np.float32)
        return faulty_WSN

    return disturb


def removed(rank_WS: NDArray[np.int64], away: int) -> Disturb:
    """Return a function that removes, from each window, the sensors whose rank is below `away`.

    The function must get the windows in the order of `rank_WS`.

    Args:
        rank_WS: order in which each window's sensors are removed, from `removal_order`.
        away: number of sensors to remove.
    """
    position = 0

    def disturb(values_WSN: Floats) -> Floats:
        nonlocal position
        lost_WS = rank_WS[position : position + len(values_WSN)] < away
        position += len(values_WSN)
        return np.where(lost_WS[..., None], np.float32(np.nan), values_WSN)

    return disturb
