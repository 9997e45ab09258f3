"""How far a window leaves what training saw, for all of a machine and for each component.

Pure. It says how unusual readings are, not what is wrong: a component whose condition training never varied has no other
health. Invariant: readings inside the range of the training windows are never unusual.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats
from app.features.spec import FeatureSpec
from app.schemas.equipment import Equipment


@dataclass(frozen=True, slots=True)
class RangeNoveltyPlan:
    """What novelty takes from a topology and a spec, as arrays; made once by `plan_range_novelty`.

    Args:
        limit_S: excess of each sensor that held-out windows stayed below, float64; NaN where it is not known.
        components: V.
        owner_Q: components that have sensors, ascending; Q of them.
        first_Q: the first sensor of each; its sensors lie together.
        owner_S: each sensor's place in `owner_Q`.
    """

    limit_S: Doubles
    components: int
    owner_Q: NDArray[np.int64]
    first_Q: NDArray[np.int64]
    owner_S: NDArray[np.int64]


class RangeNovelty(NamedTuple):
    """Health by novelty of each component, [W, V], and of each sensor's component had the sensor not been there, [W, S]."""

    health_WV: Floats
    without_WS: Floats


def plan_range_novelty(equipment: Equipment, spec: FeatureSpec) -> RangeNoveltyPlan:
    """Gather what the novelty of a topology's windows takes from a spec."""
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
    """Return how far each window leaves the training range: the mean over its sensors that have an excess, 0 if none.

    Args:
        exceedance_WS: of each sensor, see `range_exceedance`; or [S], of one window.
    """
    known_WS = np.isfinite(exceedance_WS)
    total_W = np.where(known_WS, exceedance_WS, 0.0).sum(-1, dtype=np.float64)
    exceedance_W: Doubles = total_W / np.maximum(known_WS.sum(-1), 1)
    return exceedance_W


def leaves_range(
    exceedance_WS: Floats, equipment: Equipment, spec: FeatureSpec
) -> NDArray[np.bool_]:
    """Tell of each window, [W], whether it is so far from the training windows that an answer would be a guess.

    The limit is what windows of held-out configurations reached (see `Limits`); a design without one is never refused.
    """
    limits = spec.limits.get(equipment.design)
    unusual_W: NDArray[np.bool_] = window_exceedance(exceedance_WS) > (
        np.inf if limits is None else limits.window
    )
    return unusual_W


def range_novelty(exceedance_WS: Floats, plan: RangeNoveltyPlan) -> RangeNovelty:
    """Return a health by novelty for every component: for those whose condition training never varied.

    1.0 while all of a component's sensors stay as near the training range as held-out windows did (its limit), falling to 0.0
    where a sensor is outside the range throughout (excess 1). NaN for a component that has no sensor with an excess, and for
    all components of a design without limits.
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
    # without its only worst sensor a component is as healthy as by the next one; without any other it stays as it is
    worst_WS = worst_WQ[:, plan.owner_S]
    is_worst_WS = sensor_WS == worst_WS
    next_WQ = np.fmin.reduceat(
        np.where(is_worst_WS, np.float32(np.nan), sensor_WS), plan.first_Q, axis=1
    )
    only_WQ = np.add.reduceat(is_worst_WS, plan.first_Q, axis=1, dtype=np.int64) == 1
    decides_WS = is_worst_WS & only_WQ[:, plan.owner_S]
    return RangeNovelty(health_WV, np.where(decides_WS, next_WQ[:, plan.owner_S], worst_WS))
