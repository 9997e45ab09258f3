"""Detects sensor faults in a sensor's own bins: values out of range, frozen and noisy sensors.

A sensor fault is a fault of the instrument, not of the component that it measures.
Shapes: W windows, S sensors, N bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from app.features.binning import Floats
from app.features.spec import FeaturePlan
from app.features.statistics import flatness, roughness

FaultReason = Literal["out_of_range", "frozen", "noisy", "implausible"]
FAULT_REASONS: tuple[FaultReason, ...] = get_args(FaultReason)
"""Why a sensor is masked; the first reason that holds is reported. The last is not its own: other
sensors contradict it, see `app.features.sensor_screening`."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A sensor whose readings in a window are impossible, and why; it is masked."""

    sensor_id: str
    reason: FaultReason


def find_faults(values_WSN: Floats, plan: FeaturePlan) -> NDArray[np.uint8]:
    """Find sensors whose readings are out of range, frozen, or much rougher than in training.

    Frozen and noisy are judged against the sensor's own reference: a sensor that is constant by
    nature, such as a flow of 0 in an idle branch, has no fault. Without a reference only the range
    is checked. A sensor is frozen when one unchanged value fills a fifth of the window more than in
    any training window, or the whole window although it never did in training.

    Args:
        values_WSN: bins in the order of the plan's sensors, NaN where missing.
        plan: of the windows' topology.

    Returns:
        [W, S] the first of `FAULT_REASONS` that holds, counted from 1; 0 for none. None is
        implausible.
    """
    flat_WS = flatness(values_WSN)
    frozen_WS = (flat_WS > plan.flat_S + 0.2) | ((flat_WS == 1.0) & (plan.flat_S < 1.0))
    noisy_WS = (roughness(values_WSN) > 2.0 * plan.roughness_S) & ~np.isnan(flat_WS)
    lowest_WS, highest_WS = np.fmin.reduce(values_WSN, -1), np.fmax.reduce(values_WSN, -1)
    found: dict[FaultReason, NDArray[np.bool_]] = {
        "out_of_range": (lowest_WS < plan.low_S) | (highest_WS > plan.high_S),
        "frozen": frozen_WS,
        "noisy": noisy_WS,
    }
    fault_WS = np.zeros(flat_WS.shape, np.uint8)
    for reason in reversed(found):
        fault_WS[found[reason]] = 1 + FAULT_REASONS.index(reason)
    return fault_WS


def faults_of(fault_S: NDArray[np.uint8], sensor_ids: Sequence[str]) -> tuple[Fault, ...]:
    """Return the faults of one window in sensor order, from a row of `FeatureBatch.fault_WS`."""
    return tuple(
        Fault(sensor_id, FAULT_REASONS[code - 1])
        for sensor_id, code in zip(sensor_ids, fault_S.tolist(), strict=True)
        if code
    )
