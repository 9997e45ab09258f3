"""From the bins of a window to what the network reads: statistics of every step, normalised, and what is wrong with them.

With `app.features.binning` the only feature code: training, serving and the tests of parity call the same functions. It reads no file, knows no machine
and fills a value in one place only: `normalise` writes 0.0, the reference mean, where there is nothing to normalise, and
the mask says so. Shapes: W windows, S sensors, N bins, T steps, F statistics of a step.
Invariant: equal bins and an equal spec give bitwise equal features, whatever way the bins came and whatever came with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from app.core.errors import WindowError
from app.features.binning import (
    Doubles,
    Floats,
    Statistic,
    check_bins,
    flatness,
    roughness,
    step_statistics,
)
from app.features.spec import FeatureSpec, Reference
from app.schemas.equipment import Equipment

FaultReason = Literal["out_of_range", "frozen", "noisy"]
FAULT_REASONS: tuple[FaultReason, ...] = get_args(FaultReason)
"""Why a sensor is masked; the first that holds is told."""

VALUES_AT_ONCE = 2**14
"""Bins of all sensors of the windows that are worked on in one pass: bounds memory; more at once leave the cache and are slower."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A sensor whose readings in this window can't be true, and why; it is masked."""

    sensor_id: str
    reason: FaultReason


@dataclass(frozen=True, slots=True)
class SensorFeatures:
    """What the network reads of one window.

    `x_STF` (F = statistics, then coverage - 1) is 0.0 where `mask_ST` is false. `exceedance_S` is NaN for a sensor without a
    reference or without readings.
    """

    x_STF: Floats
    mask_ST: NDArray[np.bool_]
    coverage_S: Floats
    exceedance_S: Floats
    missing: tuple[str, ...]
    unreferenced: tuple[str, ...]
    faulty: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """The features of W windows of one topology; see `SensorFeatures`. `fault_WS` is 0, or 1 + a place in `FAULT_REASONS`."""

    x_WSTF: Floats
    mask_WST: NDArray[np.bool_]
    coverage_WS: Floats
    exceedance_WS: Floats
    fault_WS: NDArray[np.uint8]

    def window(self, index: int, plan: "FeaturePlan") -> SensorFeatures:
        """Return one window's features, made with the same plan."""
        return SensorFeatures(
            x_STF=self.x_WSTF[index],
            mask_ST=self.mask_WST[index],
            coverage_S=self.coverage_WS[index],
            exceedance_S=self.exceedance_WS[index],
            missing=missing_sensors(self.coverage_WS[index], plan.sensor_ids),
            unreferenced=plan.unreferenced,
            faulty=faults_of(self.fault_WS[index], plan.sensor_ids),
        )


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """What features take from a topology and a spec, as arrays; made once by `plan_features`, good for any number of windows.

    Args:
        sensor_ids: S of them.
        bins: N of a window.
        steps: T; divides N.
        statistics: names of the statistics.
        clip: largest absolute feature.
        low_S: least that each instrument can read, float64.
        high_S: the most.
        flat_S: the reference's `flat`, infinite without one.
        roughness_S: the reference's `roughness`, infinite without one.
        mean_STF: what becomes 0.0, float64.
        spread_STF: what becomes 1.0.
        referenced_S: sensors that the spec has a reference for.
        low_STF: lowest statistics of the training windows; 0.0 without a reference.
        high_STF: highest.
        unreferenced: ids of the sensors without a reference.
    """

    sensor_ids: tuple[str, ...]
    bins: int
    steps: int
    statistics: tuple[Statistic, ...]
    clip: float
    low_S: Doubles
    high_S: Doubles
    flat_S: Doubles
    roughness_S: Doubles
    mean_STF: Doubles
    spread_STF: Doubles
    referenced_S: NDArray[np.bool_]
    low_STF: Doubles
    high_STF: Doubles
    unreferenced: tuple[str, ...]


def plan_features(equipment: Equipment, spec: FeatureSpec) -> FeaturePlan:
    """Gather what the features of a topology's windows take from a spec.

    A sensor without a reference in the spec is scaled by its declared range: the middle is 0 and the ends are -1 and 1.

    Args:
        equipment: the machine, or another one of the same topology.
        spec: the checkpoint's feature spec.

    Raises:
        WindowError: no window of the equipment fits the spec: the reference has another number of steps, a sensor has another
            quantity or unit than its reference, or the bins are no multiple of the steps.
    """
    check_bins(equipment.bins, equipment.steps)
    S, T, F = len(equipment.sensors), equipment.steps, len(spec.statistics)
    references = spec.references.get(equipment.design, {})
    mean_STF, spread_STF = np.empty((S, T, F)), np.empty((S, T, F))
    flat_S, roughness_S = np.full(S, np.inf), np.full(S, np.inf)
    referenced_S = np.zeros(S, np.bool_)
    low_STF, high_STF = np.zeros((S, T, F)), np.zeros((S, T, F))
    for index, (_, sensor) in enumerate(equipment.sensors):
        reference = references.get(sensor.sensor_id)
        if reference is None:
            mean_STF[index], spread_STF[index] = _range_scale(sensor.range, spec.statistics)
            continue
        _check_reference(
            reference, sensor.quantity, sensor.unit, T, f"{equipment.design}.{sensor.sensor_id}"
        )
        mean_STF[index], spread_STF[index] = reference.mean, reference.spread
        low_STF[index], high_STF[index] = reference.low, reference.high
        flat_S[index], roughness_S[index] = reference.flat, reference.roughness
        referenced_S[index] = True
    range_S2 = np.array([sensor.range for _, sensor in equipment.sensors], np.float64).reshape(
        -1, 2
    )
    return FeaturePlan(
        sensor_ids=equipment.sensor_ids,
        bins=equipment.bins,
        steps=T,
        statistics=spec.statistics,
        clip=spec.clip,
        low_S=range_S2[:, 0].copy(),
        high_S=range_S2[:, 1].copy(),
        flat_S=flat_S,
        roughness_S=roughness_S,
        mean_STF=mean_STF,
        spread_STF=spread_STF,
        referenced_S=referenced_S,
        low_STF=low_STF,
        high_STF=high_STF,
        unreferenced=tuple(
            sensor_id
            for sensor_id, known in zip(equipment.sensor_ids, referenced_S, strict=True)
            if not known
        ),
    )


def find_faults(values_WSN: Floats, plan: FeaturePlan) -> NDArray[np.uint8]:
    """Find sensors whose readings can't be true: beyond what the instrument can read, frozen, or far rougher than ever seen.

    Frozen and rough are judged against the sensor's own reference, so a sensor that rests by nature (a flow of 0 in an idle
    branch) is not taken for a broken one; without a reference only the range is judged. A sensor is frozen when one unchanging
    value fills a fifth of the window more than it did in any training window, or all of a window though it never did.

    Args:
        values_WSN: bins in the order of the plan's sensors, NaN where missing.
        plan: of the windows' topology.

    Returns:
        [W, S] the first of `FAULT_REASONS` that holds, counted from 1; 0 for none.
    """
    flat_WS = flatness(values_WSN)
    frozen_WS = (flat_WS > plan.flat_S + 0.2) | ((flat_WS == 1.0) & (plan.flat_S < 1.0))
    noisy_WS = (roughness(values_WSN) > 2.0 * plan.roughness_S) & ~np.isnan(flat_WS)
    lowest_WS, highest_WS = np.fmin.reduce(values_WSN, -1), np.fmax.reduce(values_WSN, -1)
    found = {
        "out_of_range": (lowest_WS < plan.low_S) | (highest_WS > plan.high_S),
        "frozen": frozen_WS,
        "noisy": noisy_WS,
    }
    fault_WS = np.zeros(flat_WS.shape, np.uint8)
    for code, reason in reversed(list(enumerate(FAULT_REASONS, 1))):
        fault_WS[found[reason]] = code
    return fault_WS


def range_exceedance(raw_WSTF: Floats, there_WST: NDArray[np.bool_], plan: FeaturePlan) -> Floats:
    """Return how far each sensor's window leaves the range of the training windows: 0 inside, at most 1.

    It is the mean over steps and statistics of the distance beyond the lowest and highest value of the training windows, in
    spreads, each capped at 1. For a machine that repeats a cycle the range is that of the same step, so a window that starts
    in mid-cycle leaves it although every value is a usual one.

    Args:
        raw_WSTF: statistics, from `step_statistics`.
        there_WST: steps that have readings.
        plan: of the windows' topology.

    Returns:
        [W, S], NaN for a sensor without a reference, or without a step that has readings.
    """
    steps = raw_WSTF.shape[2]
    beyond_WSTF = np.maximum(plan.low_STF - raw_WSTF, raw_WSTF - plan.high_STF)
    np.maximum(beyond_WSTF, 0.0, out=beyond_WSTF)
    beyond_WSTF /= plan.spread_STF
    np.minimum(beyond_WSTF, 1.0, out=beyond_WSTF)
    count_WS = there_WST.sum(-1) * plan.referenced_S
    exceedance_WS = np.full(count_WS.shape, np.nan, np.float32)
    for count in np.flatnonzero(np.bincount(count_WS.reshape(-1), minlength=1)[1:]) + 1:
        # rows with as many steps are summed as one block of the steps that are there: a sum never depends on other rows
        rows_WS = count_WS == count
        block = beyond_WSTF[rows_WS] if count == steps else beyond_WSTF[rows_WS][there_WST[rows_WS]]
        exceedance_WS[rows_WS] = block.reshape(np.count_nonzero(rows_WS), -1).mean(-1)
    return exceedance_WS


def normalise(
    raw_WSTF: Floats, coverage_WST: Floats, plan: FeaturePlan, fault_WS: NDArray[np.uint8]
) -> FeatureBatch:
    """Express windows' statistics in spreads from each sensor's reference, clipped, with 0.0 where there is nothing.

    Args:
        raw_WSTF: statistics, from `step_statistics`.
        coverage_WST: share of each step's bins that are there.
        plan: of the windows' topology.
        fault_WS: sensors to mask, from `find_faults`.
    """
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
    coverage_WS = coverage_WST.astype(np.float64).mean(-1).astype(np.float32)
    return FeatureBatch(x_WSTF, mask_WST, coverage_WS, exceedance_WS, fault_WS)


def batch_features(values_WSN: Floats, plan: FeaturePlan) -> FeatureBatch:
    """Turn the bins of windows into features: faults, statistics, normalisation. The one way for training and serving.

    Args:
        values_WSN: float32 bins of windows of one topology in the order of its sensors, in their units, NaN where missing; the
            shape of each is as `check_shape` wants it.
        plan: of that topology.

    Returns:
        The features of each window, bitwise those that it has alone.
    """
    assert values_WSN.shape[1:] == (len(plan.sensor_ids), plan.bins)
    at_once = max(1, VALUES_AT_ONCE // max(1, values_WSN[:1].size))
    starts = range(0, max(1, len(values_WSN)), at_once)
    parts = [_features(values_WSN[start : start + at_once], plan) for start in starts]
    if len(parts) == 1:
        return parts[0]
    return FeatureBatch(
        x_WSTF=np.concatenate([part.x_WSTF for part in parts]),
        mask_WST=np.concatenate([part.mask_WST for part in parts]),
        coverage_WS=np.concatenate([part.coverage_WS for part in parts]),
        exceedance_WS=np.concatenate([part.exceedance_WS for part in parts]),
        fault_WS=np.concatenate([part.fault_WS for part in parts]),
    )


def _features(values_WSN: Floats, plan: FeaturePlan) -> FeatureBatch:
    # 0.0 is added to give zeros one sign: which of two the lowest value has would depend on how many windows there are
    values_WSN = (
        np.where(np.isfinite(values_WSN), values_WSN, np.float32(np.nan)).astype(
            np.float32, copy=False
        )
        + 0.0
    )
    fault_WS = find_faults(values_WSN, plan)
    raw_WSTF, coverage_WST = step_statistics(values_WSN, plan.steps, plan.statistics)
    return normalise(raw_WSTF, coverage_WST, plan, fault_WS)


def window_features(values_SN: Floats, equipment: Equipment, spec: FeatureSpec) -> SensorFeatures:
    """Turn the bins of one window into features, by `batch_features`.

    Args:
        values_SN: [S, N] float32 bins in the order of `Equipment.sensors`, in the sensors' units, NaN where missing.
        equipment: the machine.
        spec: the checkpoint's feature spec.

    Raises:
        WindowError: the shape is not that of the equipment's window, or the spec does not fit the equipment.
    """
    plan = plan_features(equipment, spec)
    check_shape(values_SN, plan, equipment.equipment_id)
    return batch_features(values_SN[None], plan).window(0, plan)


def check_shape(values_SN: Floats, plan: FeaturePlan, equipment_id: str) -> None:
    """Raise when bins are not those of one window of the plan's topology.

    Raises:
        WindowError: there are other numbers of sensors or bins.
    """
    expected = (len(plan.sensor_ids), plan.bins)
    if values_SN.shape != expected:
        raise WindowError(
            f"expected values of {expected[0]} sensors x {expected[1]} bins for '{equipment_id}', found "
            f"{' x '.join(map(str, values_SN.shape))}: give every sensor's bins of the whole window, NaN where missing"
        )


def faults_of(fault_S: NDArray[np.uint8], sensor_ids: Sequence[str]) -> tuple[Fault, ...]:
    """Return the faults of one window in the order of its sensors; `fault_S` is a row of `FeatureBatch.fault_WS`."""
    return tuple(
        Fault(sensor_id, FAULT_REASONS[code - 1])
        for sensor_id, code in zip(sensor_ids, fault_S.tolist(), strict=True)
        if code
    )


def missing_sensors(coverage_S: Floats, sensor_ids: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of the sensors without a reading in one window."""
    return tuple(
        sensor_id
        for sensor_id, coverage in zip(sensor_ids, coverage_S.tolist(), strict=True)
        if coverage == 0.0
    )


def _range_scale(
    limits: tuple[float, float], statistics: tuple[Statistic, ...]
) -> tuple[list[float], float]:
    half = max((limits[1] - limits[0]) / 2.0, 1e-12)
    middle = (limits[0] + limits[1]) / 2.0
    return [middle if name == "mean" else 0.0 for name in statistics], half


def _check_reference(
    reference: Reference, quantity: str, unit: str, steps: int, where: str
) -> None:
    if (reference.quantity, reference.unit) != (quantity, unit):
        raise WindowError(
            f"the checkpoint was trained with '{where}' as {reference.quantity} in {reference.unit}, the equipment has it as "
            f"{quantity} in {unit}: convert the readings or retrain"
        )
    if len(reference.mean) not in (1, steps):
        raise WindowError(
            f"the checkpoint was trained with windows of {len(reference.mean)} steps for '{where}', the equipment has {steps}: "
            f"give the equipment {len(reference.mean)} steps or retrain"
        )
