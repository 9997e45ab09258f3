"""How far a window leaves what training saw, for all of a machine and for each component.

Pure. It says how unusual readings are, not what is wrong: a component whose condition training never varied has no other
health. Invariant: readings inside the range of the training windows are never unusual.
"""

import numpy as np

from app.features import FeatureSpec, Floats
from app.schemas.equipment import Equipment


def window_excess(excess_S: Floats) -> float:
    """Return how far the whole window leaves the training range: the mean over the sensors that have an excess, 0 if none."""
    known = excess_S[np.isfinite(excess_S)]
    return float(known.mean(dtype=np.float64)) if len(known) else 0.0


def leaves_range(excess_S: Floats, equipment: Equipment, spec: FeatureSpec) -> bool:
    """Tell whether a window is so far from the training windows that an answer would be a guess.

    The limit is what windows of held-out configurations reached (see `Limits`); a design without one is never refused.
    """
    limits = spec.limits.get(equipment.design)
    return limits is not None and window_excess(excess_S) > limits.window


def novelty_health(excess_S: Floats, equipment: Equipment, spec: FeatureSpec) -> Floats:
    """Return a health by novelty for every component, [V]: for those whose condition training never varied.

    1.0 while all of a component's sensors stay as near the training range as held-out windows did (its limit), falling to 0.0
    where a sensor is outside the range throughout (excess 1). NaN for a component that has no sensor with an excess, and for
    all components of a design without limits.
    """
    health_V = np.full(len(equipment.components), np.nan, np.float32)
    limits = spec.limits.get(equipment.design)
    if limits is None:
        return health_V
    for (component, sensor), excess in zip(equipment.sensors, excess_S, strict=True):
        limit = limits.sensors.get(sensor.sensor_id)
        if limit is None or np.isnan(excess):
            continue
        beyond = max(0.0, float(excess) - limit) / max(1.0 - limit, 1e-6)
        health_V[component] = np.fmin(health_V[component], 1.0 - min(1.0, beyond))
    return health_V
