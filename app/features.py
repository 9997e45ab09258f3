"""From the bins of a window to what the network reads: statistics of every step, normalised, and what is wrong with them.

The only feature code: training, serving and the tests of parity call the same functions. It reads no file, knows no machine
and fills a value in one place only: `normalise` writes 0.0, the reference mean, where there is nothing to normalise, and
the mask says so. Shapes: W windows, S sensors, N bins, T steps, F statistics of a step. It is long because it is all of it.
Invariant: equal bins and an equal spec give bitwise equal features, whatever way the bins came and whatever came with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import WindowError
from app.schemas.equipment import Equipment, Grade

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)
Statistic = Literal["mean", "shift", "spread", "dip", "peak", "slope", "start", "end"]
"""Of a step's bins: mean; shift of the mean from the window's mean; population standard deviation; distance of the lowest, the highest,
the first and the last bin from the mean; slope as the least-squares rise from the first bin's place to the last's.

All but the mean are differences: what a transient says is small beside the level, which drifts with temperature."""

FaultReason = Literal["out_of_range", "frozen", "noisy"]
FAULT_REASONS: tuple[FaultReason, ...] = get_args(FaultReason)
"""Why a sensor is masked; the first that holds is told."""

VALUES_AT_ONCE = 2**14
"""Bins of all sensors of the windows that are worked on in one pass: bounds memory; more at once leave the cache and are slower."""

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Reference(BaseModel):
    """What one sensor of a design showed in the training windows, in the sensor's unit.

    `mean`, `spread`, `low` and `high` are [R][F]: one row for each step of a machine that repeats a cycle, else one row for all
    steps. `flat` is the largest share of a window that one unchanging value filled, `roughness` the largest mean absolute
    second difference of neighbouring bins.
    """

    model_config = _STRICT

    quantity: str
    unit: str
    mean: tuple[tuple[float, ...], ...]
    spread: tuple[tuple[Annotated[float, Field(gt=0)], ...], ...]
    low: tuple[tuple[float, ...], ...]
    high: tuple[tuple[float, ...], ...]
    flat: Annotated[float, Field(ge=0, le=1)]
    roughness: Annotated[float, Field(ge=0)]


class Limits(BaseModel):
    """How far windows that the weights never saw left the range of their training windows; see `range_excess`."""

    model_config = _STRICT

    window: Annotated[float, Field(ge=0)]
    sensors: Mapping[str, Annotated[float, Field(ge=0)]]


class FeatureSpec(BaseModel):
    """How a checkpoint's features are made: `feature_spec.json`. Constants are those of its training windows, never literals.

    `references` and `grades` are by design, then by sensor or component id; `limits` is by design. A grade set's number in
    the network is its place in `grade_sets`.
    """

    model_config = _STRICT

    statistics: Annotated[tuple[Statistic, ...], Field(min_length=1)]
    clip: Annotated[float, Field(gt=0)]
    quantities: tuple[str, ...]
    component_types: tuple[str, ...]
    media: tuple[str, ...]
    references: Mapping[str, Mapping[str, Reference]]
    grades: Mapping[str, Mapping[str, tuple[Grade, ...]]]
    limits: Mapping[str, Limits]

    @model_validator(mode="after")
    def _rows_have_all_statistics(self) -> Self:
        for design, sensors in self.references.items():
            for sensor_id, reference in sensors.items():
                rows = (reference.mean, reference.spread, reference.low, reference.high)
                found = {(len(table), len(row)) for table in rows for row in table}
                if len({steps for steps, _ in found}) != 1 or {width for _, width in found} != {len(self.statistics)}:
                    raise ValueError(
                        f"expected {len(self.statistics)} numbers a row ({', '.join(self.statistics)}) and as many rows in "
                        f"each table of references.{design}.{sensor_id}, found (rows, numbers) {sorted(found)}"
                    )
        return self

    @property
    def features(self) -> int:
        """F of the network: the statistics and the coverage."""
        return len(self.statistics) + 1

    def sensor_slots(self) -> tuple[tuple[str, str], ...]:
        """Return (design, sensor id) of every sensor with a reference, in the order of their numbers."""
        return tuple((design, sensor_id) for design, sensors in self.references.items() for sensor_id in sensors)

    def grade_sets(self) -> tuple[tuple[str, str], ...]:
        """Return (design, component id) of every grade set, in the order of their numbers."""
        return tuple((design, component) for design, sets in self.grades.items() for component in sets)


@dataclass(frozen=True, slots=True)
class Fault:
    """A sensor whose readings in this window can't be true, and why; it is masked."""

    sensor_id: str
    reason: FaultReason


@dataclass(frozen=True, slots=True)
class SensorFeatures:
    """What the network reads of one window.

    `x_STF` (F = statistics, then coverage - 1) is 0.0 where `mask_ST` is false. `excess_S` is NaN for a sensor without a
    reference or without readings.
    """

    x_STF: Floats
    mask_ST: NDArray[np.bool_]
    coverage_S: Floats
    excess_S: Floats
    missing: tuple[str, ...]
    unreferenced: tuple[str, ...]
    faulty: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """The features of W windows of one topology; see `SensorFeatures`. `fault_WS` is 0, or 1 + a place in `FAULT_REASONS`."""

    x_WSTF: Floats
    mask_WST: NDArray[np.bool_]
    coverage_WS: Floats
    excess_WS: Floats
    fault_WS: NDArray[np.uint8]

    def window(self, index: int, plan: "FeaturePlan") -> SensorFeatures:
        """Return one window's features, made with the same plan."""
        return SensorFeatures(
            x_STF=self.x_WSTF[index],
            mask_ST=self.mask_WST[index],
            coverage_S=self.coverage_WS[index],
            excess_S=self.excess_WS[index],
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


def bin_series(offsets_us: NDArray[np.int64], values: NDArray[np.float64], grid_us: int, bins: int) -> Floats:
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


def step_statistics(values_SN: Floats, steps: int, statistics: tuple[Statistic, ...]) -> tuple[Floats, Floats]:
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
    _check_bins(N, steps)
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
                level_S = zeroed_STN.reshape(values_SN.shape).sum(-1) / np.maximum(count_ST.sum(-1), 1)
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
        longest_Q = np.maximum.reduceat(np.diff(runs, append=len(value_R)), np.searchsorted(runs, first_Q))
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
    _check_bins(equipment.bins, equipment.steps)
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
        _check_reference(reference, sensor.quantity, sensor.unit, T, f"{equipment.design}.{sensor.sensor_id}")
        mean_STF[index], spread_STF[index] = reference.mean, reference.spread
        low_STF[index], high_STF[index] = reference.low, reference.high
        flat_S[index], roughness_S[index] = reference.flat, reference.roughness
        referenced_S[index] = True
    range_S2 = np.array([sensor.range for _, sensor in equipment.sensors], np.float64).reshape(-1, 2)
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
            sensor_id for sensor_id, known in zip(equipment.sensor_ids, referenced_S, strict=True) if not known
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


def range_excess(raw_WSTF: Floats, there_WST: NDArray[np.bool_], plan: FeaturePlan) -> Floats:
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
    excess_WS = np.full(count_WS.shape, np.nan, np.float32)
    for count in np.flatnonzero(np.bincount(count_WS.reshape(-1), minlength=1)[1:]) + 1:
        # rows with as many steps are summed as one block of the steps that are there: a sum never depends on other rows
        rows_WS = count_WS == count
        block = beyond_WSTF[rows_WS] if count == steps else beyond_WSTF[rows_WS][there_WST[rows_WS]]
        excess_WS[rows_WS] = block.reshape(np.count_nonzero(rows_WS), -1).mean(-1)
    return excess_WS


def normalise(raw_WSTF: Floats, coverage_WST: Floats, plan: FeaturePlan, fault_WS: NDArray[np.uint8]) -> FeatureBatch:
    """Express windows' statistics in spreads from each sensor's reference, clipped, with 0.0 where there is nothing.

    Args:
        raw_WSTF: statistics, from `step_statistics`.
        coverage_WST: share of each step's bins that are there.
        plan: of the windows' topology.
        fault_WS: sensors to mask, from `find_faults`.
    """
    there_WST = coverage_WST > 0
    mask_WST = there_WST & (fault_WS == 0)[..., None]
    excess_WS = range_excess(raw_WSTF, there_WST, plan)
    excess_WS[fault_WS != 0] = np.nan
    z_WSTF = raw_WSTF - plan.mean_STF
    z_WSTF /= plan.spread_STF
    x_WSTF = np.empty((*raw_WSTF.shape[:-1], raw_WSTF.shape[-1] + 1), np.float32)
    x_WSTF[..., :-1] = np.clip(z_WSTF, -plan.clip, plan.clip, out=z_WSTF)
    x_WSTF[..., -1] = coverage_WST - 1.0
    np.copyto(x_WSTF, np.float32(0.0), where=~mask_WST[..., None])
    coverage_WS = coverage_WST.astype(np.float64).mean(-1).astype(np.float32)
    return FeatureBatch(x_WSTF, mask_WST, coverage_WS, excess_WS, fault_WS)


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
        excess_WS=np.concatenate([part.excess_WS for part in parts]),
        fault_WS=np.concatenate([part.fault_WS for part in parts]),
    )


def _features(values_WSN: Floats, plan: FeaturePlan) -> FeatureBatch:
    # 0.0 is added to give zeros one sign: which of two the lowest value has would depend on how many windows there are
    values_WSN = np.where(np.isfinite(values_WSN), values_WSN, np.float32(np.nan)).astype(np.float32, copy=False) + 0.0
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
        sensor_id for sensor_id, coverage in zip(sensor_ids, coverage_S.tolist(), strict=True) if coverage == 0.0
    )


def _check_bins(bins: int, steps: int) -> None:
    if bins == 0 or bins % steps:
        raise WindowError(
            f"expected a window of a whole multiple of {steps} bins, found {bins}: give all bins of the window"
        )


def _range_scale(limits: tuple[float, float], statistics: tuple[Statistic, ...]) -> tuple[list[float], float]:
    half = max((limits[1] - limits[0]) / 2.0, 1e-12)
    middle = (limits[0] + limits[1]) / 2.0
    return [middle if name == "mean" else 0.0 for name in statistics], half


def _check_reference(reference: Reference, quantity: str, unit: str, steps: int, where: str) -> None:
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
