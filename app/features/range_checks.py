"""Measures how far windows leave the range of the training windows.

`range_exceedance` is per sensor, `window_exceedance` and `leaves_range` are per window, and
`range_novelty` is a health per component. They say how unusual readings are, not what is wrong;
components whose condition never varied in training have no other health.
Shapes: W windows, S sensors, T steps, F statistics, V components, Q components with sensors.
Invariant: readings inside the range of the training windows have range exceedance 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats
from app.features.spec import FeaturePlan, FeatureSpec
from app.schemas.equipment import Equipment


def range_exceedance(raw_WSTF: Floats, there_WST: NDArray[np.bool_], plan: FeaturePlan) -> Floats:
    """Compute how far each sensor's window leaves the range of the training windows.

    It is the mean over steps and statistics of the distance beyond the lowest and highest value of
    the training windows, in spreads, each capped at 1. The range of a machine that repeats a cycle
    is per step: a window that starts in mid-cycle leaves it although every value is usual.

    Args:
        raw_WSTF: statistics, from `step_statistics`.
        there_WST: steps that have readings.
        plan: of the windows' topology.

    Returns:
        [W, S] in [0, 1]; NaN for a sensor without a reference or without readings.
    """
    steps = raw_WSTF.shape[2]
    beyond_WSTF = np.maximum(plan.low_STF - raw_WSTF, raw_WSTF - plan.high_STF)
    np.fmax(beyond_WSTF, 0.0, out=beyond_WSTF)  # unknown residuals leave no range
    beyond_WSTF /= plan.spread_STF
    np.minimum(beyond_WSTF, 1.0, out=beyond_WSTF)
    count_WS = there_WST.sum(-1) * plan.referenced_S
    exceedance_WS = np.full(count_WS.shape, np.nan, np.float32)
    for count in np.flatnonzero(np.bincount(count_WS.reshape(-1), minlength=1)[1:]) + 1:
        # rows with equally many steps are summed as one block: a sum never depends on other rows
        rows_WS = count_WS == count
        block = beyond_WSTF[rows_WS] if count == steps else beyond_WSTF[rows_WS][there_WST[rows_WS]]
        exceedance_WS[rows_WS] = block.reshape(np.count_nonzero(rows_WS), -1).mean(-1)
    return exceedance_WS


@dataclass(frozen=True, slots=True)
class RangeNoveltyPlan:
    """Range limits of a topology as arrays; made once by `plan_range_novelty`.

    Args:
        limit_S: largest range exceedance of each sensor in holdout windows; NaN if unknown.
        components: V.
        owner_Q: components that have sensors, ascending.
        first_Q: the first sensor of each; the sensors of a component are adjacent.
        owner_S: each sensor's position in `owner_Q`.
    """

    limit_S: Doubles
    components: int
    owner_Q: NDArray[np.int64]
    first_Q: NDArray[np.int64]
    owner_S: NDArray[np.int64]


class RangeNovelty(NamedTuple):
    """Health of components by range novelty.

    `health_WV` is of each component; `without_WS` is that of each sensor's component when the
    sensor is left out.
    """

    health_WV: Floats
    without_WS: Floats


def plan_range_novelty(equipment: Equipment, spec: FeatureSpec) -> RangeNoveltyPlan:
    """Gather the range limits of a topology from a spec."""
    limits = spec.limits.get(equipment.design)
    known = {} if limits is None else limits.sensors
    component_S = np.array([placed.component_index for placed in equipment.sensors], np.int64)
    owner_Q, first_Q, owner_S = np.unique(component_S, return_index=True, return_inverse=True)
    return RangeNoveltyPlan(
        limit_S=np.array(
            [known.get(sensor_id, np.nan) for sensor_id in equipment.sensor_ids], np.float64
        ),
        components=len(equipment.components),
        owner_Q=owner_Q,
        first_Q=first_Q,
        owner_S=owner_S,
    )


def window_exceedance(exceedance_WS: Floats) -> Doubles:
    """Average the range exceedance of each window over the sensors for which it is known.

    Args:
        exceedance_WS: of each sensor, see `range_exceedance`; or [S], of one window.

    Returns:
        [W] in [0, 1]; 0 when it is known for no sensor.
    """
    known_WS = np.isfinite(exceedance_WS)
    total_W = np.where(known_WS, exceedance_WS, 0.0).sum(-1, dtype=np.float64)
    exceedance_W: Doubles = total_W / np.maximum(known_WS.sum(-1), 1)
    return exceedance_W


def leaves_range(
    exceedance_WS: Floats, equipment: Equipment, spec: FeatureSpec
) -> NDArray[np.bool_]:
    """Decide for each window, [W], whether it is too far out of the training range to answer.

    The limit is the range exceedance of holdout windows (see `Limits`); a design without limits is
    always in range.
    """
    limits = spec.limits.get(equipment.design)
    unusual_W: NDArray[np.bool_] = window_exceedance(exceedance_WS) > (
        np.inf if limits is None else limits.window
    )
    return unusual_W


def range_novelty(exceedance_WS: Floats, plan: RangeNoveltyPlan) -> RangeNovelty:
    """Compute the health by range novelty of every component whose condition training never varied.

    1.0 while the range exceedance of all sensors of a component is at most their limit, falling to
    0.0 where that of one sensor is 1. NaN for a component without a sensor of known range
    exceedance, and for all components of a design without limits.

    Args:
        exceedance_WS: from `range_exceedance`.
        plan: of the windows' topology.
    """
    W, S = exceedance_WS.shape
    health_WV = np.full((W, plan.components), np.nan, np.float32)
    if S == 0:
        return RangeNovelty(health_WV, np.empty((W, 0), np.float32))
    beyond_WS = np.maximum(exceedance_WS.astype(np.float64) - plan.limit_S, 0.0) / np.maximum(
        1.0 - plan.limit_S, 1e-6
    )
    sensor_WS = (1.0 - np.minimum(beyond_WS, 1.0)).astype(np.float32)
    worst_WQ = np.fmin.reduceat(sensor_WS, plan.first_Q, axis=1)
    health_WV[:, plan.owner_Q] = worst_WQ
    # without its only worst sensor a component has the health by its second worst
    worst_WS = worst_WQ[:, plan.owner_S]
    is_worst_WS = sensor_WS == worst_WS
    next_WQ = np.fmin.reduceat(
        np.where(is_worst_WS, np.float32(np.nan), sensor_WS), plan.first_Q, axis=1
    )
    only_WQ = np.add.reduceat(is_worst_WS, plan.first_Q, axis=1, dtype=np.int64) == 1
    decides_WS = is_worst_WS & only_WQ[:, plan.owner_S]
    return RangeNovelty(health_WV, np.where(decides_WS, next_WQ[:, plan.owner_S], worst_WS))
