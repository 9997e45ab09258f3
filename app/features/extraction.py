"""Turns the bins of windows into features: faults, statistics of every step, normalisation.

Training, serving and the parity tests call the same functions. Missing values are filled in one
place: `normalise` writes 0.0, the reference mean, and the mask marks it.
Shapes: W windows, S sensors, N bins, T steps, F statistics of a step.
Invariant: equal bins and an equal spec give bitwise equal features, alone and in any batch.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from app.core.errors import WindowError
from app.features.binning import Floats
from app.features.range_checks import range_exceedance
from app.features.residuals import residuals
from app.features.sensor_faults import find_faults
from app.features.sensor_screening import Screening, screen
from app.features.spec import FeaturePlan
from app.features.statistics import OF_RESIDUALS, step_coverage, step_statistics

VALUES_AT_ONCE = 2**14
"""Bins of all sensors computed in one pass: bounds memory, and more at once leave the cache."""


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Features of W windows of one topology: the input of the network.

    The last axis of `x_WSTF` has the statistics, then coverage - 1; it is 0.0 where `mask_WST` is
    false. `usable_WS` is the number of steps where `mask_WST` is true, as a share of the fewest
    steps with readings in a training window, at most 1. `exceedance_WS` is the range exceedance,
    NaN for a sensor without a reference or readings. `fault_WS` is 0, or 1 + an index in
    `FAULT_REASONS`. The last three are as in `Screening`.
    """

    x_WSTF: Floats
    mask_WST: NDArray[np.bool_]
    coverage_WS: Floats
    usable_WS: Floats
    exceedance_WS: Floats
    fault_WS: NDArray[np.uint8]
    finding_WS: NDArray[np.void]
    unexplained_W: NDArray[np.bool_]
    blame_WV: Floats


_FIELDS = fields(FeatureBatch)


def normalise(
    raw_WSTF: Floats, coverage_WST: Floats, plan: FeaturePlan, screening: Screening
) -> FeatureBatch:
    """Normalise statistics: distance from the reference mean in spreads, clipped, 0.0 where masked.

    Statistics of unknown residuals are 0.0 too.

    Args:
        raw_WSTF: statistics, from `step_statistics`.
        coverage_WST: share of each step's bins that have readings.
        plan: of the windows' topology.
        screening: of the sensors, names those to mask.
    """
    fault_WS = screening.fault_WS
    there_WST = coverage_WST > 0
    mask_WST = there_WST & (fault_WS == 0)[..., None]
    exceedance_WS = range_exceedance(raw_WSTF, there_WST, plan)
    exceedance_WS[fault_WS != 0] = np.nan
    z_WSTF = raw_WSTF - plan.mean_STF
    z_WSTF /= plan.spread_STF
    x_WSTF = np.empty((*raw_WSTF.shape[:-1], raw_WSTF.shape[-1] + 1), np.float32)
    x_WSTF[..., :-1] = np.clip(z_WSTF, -plan.clip, plan.clip, out=z_WSTF)
    x_WSTF[..., -1] = coverage_WST - 1.0
    np.copyto(x_WSTF, np.float32(0.0), where=~mask_WST[..., None])
    for place, name in enumerate(plan.statistics):
        if name in OF_RESIDUALS:  # an unknown residual has its healthy mean
            np.nan_to_num(x_WSTF[..., place], copy=False)
    coverage_WS = coverage_WST.astype(np.float64).mean(-1).astype(np.float32)
    usable_WS = np.minimum(mask_WST.sum(-1) / plan.steps_S, 1.0).astype(np.float32)
    return FeatureBatch(x_WSTF, mask_WST, coverage_WS, usable_WS, exceedance_WS, *screening)


def batch_features(values_WSN: Floats, plan: FeaturePlan) -> FeatureBatch:
    """Compute the features of windows of one topology.

    Args:
        values_WSN: float32 bins in the order of the plan's sensors, in their units, NaN where
            missing; `check_shape` checks the shape of a window.
        plan: of the topology, for all windows or with a row for each, see `FeaturePlan.rows`.

    Returns:
        The features of each window, bitwise equal to those it has in a batch of one.
    """
    assert values_WSN.shape[1:] == (len(plan.sensor_ids), plan.bins)
    at_once = max(1, VALUES_AT_ONCE // max(1, values_WSN[:1].size))
    starts = range(0, max(1, len(values_WSN)), at_once)
    rows = [slice(start, start + at_once) for start in starts]
    parts = [_features(values_WSN[each], plan.rows(each)) for each in rows]
    if len(parts) == 1:
        return parts[0]
    return FeatureBatch(
        *(np.concatenate([getattr(part, each.name) for part in parts]) for each in _FIELDS)
    )


def check_shape(values_SN: Floats, plan: FeaturePlan, equipment_id: str) -> None:
    """Check that an array has the shape [S, N] of one window of the plan's topology.

    Raises:
        WindowError: it has another shape.
    """
    expected = (len(plan.sensor_ids), plan.bins)
    if values_SN.shape != expected:
        raise WindowError(
            f"expected values of {expected[0]} sensors x {expected[1]} bins for '{equipment_id}', "
            f"found {' x '.join(map(str, values_SN.shape))}: give every sensor's bins of the whole "
            "window, NaN where missing"
        )


def _features(values_WSN: Floats, plan: FeaturePlan) -> FeatureBatch:
    # adding 0.0 gives zeros one sign; otherwise that of a minimum depends on the number of windows
    values_WSN = (
        np.where(np.isfinite(values_WSN), values_WSN, np.float32(np.nan)).astype(
            np.float32, copy=False
        )
        + 0.0
    )
    fault_WS = find_faults(values_WSN, plan)
    coverage_WS = step_coverage(values_WSN, plan.steps).mean(-1)
    screening = screen(values_WSN, coverage_WS, fault_WS, plan)
    residual_WSN = None
    if plan.residuals is not None:
        faulty_WS1 = (screening.fault_WS != 0)[..., None]
        trusted_WSN = np.where(faulty_WS1, np.float32(np.nan), values_WSN)
        residual_WSN = residuals(trusted_WSN, plan.residuals)
    raw_WSTF, coverage_WST = step_statistics(values_WSN, plan.steps, plan.statistics, residual_WSN)
    return normalise(raw_WSTF, coverage_WST, plan, screening)
