"""From the bins of a window to what the network reads: statistics of every step, normalised, and what is wrong with them.

The only feature code: training, serving and the tests of parity call the same functions. It reads no file, knows no machine
and fills a value in one place only: `normalise` writes 0.0, the reference mean, where there is nothing to normalise, and
the mask says so. Shapes: S sensors, N bins, T steps, F statistics of a step.
Invariant: equal bins and an equal spec give bitwise equal features, whatever way the bins came.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import WindowError
from app.schemas.equipment import Equipment, Grade

Floats = NDArray[np.float32]
Statistic = Literal["mean", "shift", "spread", "dip", "peak", "slope", "start", "end"]
"""Of a step's bins: mean; shift of the mean from the window's mean; population standard deviation; distance of the lowest, the highest,
the first and the last bin from the mean; slope as the least-squares rise from the first bin's place to the last's.

All but the mean are differences: what a transient says is small beside the level, which drifts with temperature."""

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
    reason: Literal["out_of_range", "frozen", "noisy"]


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
        values_SN: bins in the sensors' units, NaN where missing.
        steps: T; divides N.
        statistics: names of the statistics, see `Statistic`.

    Returns:
        [S, T, F] statistics, NaN in a step without a bin; and [S, T] coverage, the share of the step's bins that are there.

    Raises:
        WindowError: N is not a multiple of the steps.
    """
    S, N = values_SN.shape
    if N == 0 or N % steps:
        raise WindowError(
            f"expected a window of a whole multiple of {steps} bins, found {N}: give all bins of the window"
        )
    width = N // steps
    values_STN = values_SN.reshape(S, steps, width).astype(np.float64)
    there_STN = np.isfinite(values_STN)
    count_ST = there_STN.sum(-1)
    some_ST = np.maximum(count_ST, 1)
    zeroed_STN = np.where(there_STN, values_STN, 0.0)
    mean_ST = zeroed_STN.sum(-1) / some_ST
    centred_STN = np.where(there_STN, values_STN - mean_ST[..., None], 0.0)
    found: dict[Statistic, NDArray[np.float64]] = {}
    for name in statistics:
        match name:
            case "mean":
                found[name] = mean_ST
            case "spread":
                found[name] = np.sqrt((centred_STN**2).sum(-1) / some_ST)
            case "shift":
                level_S = zeroed_STN.sum((-1, -2)) / np.maximum(count_ST.sum(-1), 1)
                found[name] = mean_ST - level_S[:, None]
            case "dip":
                found[name] = np.where(there_STN, centred_STN, np.inf).min(-1)
            case "peak":
                found[name] = np.where(there_STN, centred_STN, -np.inf).max(-1)
            case "slope":
                place_STN = np.broadcast_to(np.arange(width, dtype=np.float64), values_STN.shape)
                middle_ST = np.where(there_STN, place_STN, 0.0).sum(-1) / some_ST
                offset_STN = np.where(there_STN, place_STN - middle_ST[..., None], 0.0)
                power_ST = (offset_STN**2).sum(-1)
                rise_ST = (offset_STN * centred_STN).sum(-1) / np.where(power_ST > 0, power_ST, 1.0)
                found[name] = rise_ST * (width - 1)
            case "start":
                place_ST1 = there_STN.argmax(-1)[..., None]
                found[name] = np.take_along_axis(centred_STN, place_ST1, -1)[..., 0]
            case "end":
                place_ST1 = width - 1 - there_STN[..., ::-1].argmax(-1)[..., None]
                found[name] = np.take_along_axis(centred_STN, place_ST1, -1)[..., 0]
    raw_STF = np.stack([found[name] for name in statistics], axis=-1)
    raw_STF[count_ST == 0] = np.nan
    return raw_STF.astype(np.float32), (count_ST / width).astype(np.float32)


def find_faults(values_SN: Floats, equipment: Equipment, spec: FeatureSpec) -> tuple[Fault, ...]:
    """Find sensors whose readings can't be true: beyond what the instrument can read, frozen, or far rougher than ever seen.

    Frozen and rough are judged against the sensor's own reference, so a sensor that rests by nature (a flow of 0 in an idle
    branch) is not taken for a broken one; without a reference only the range is judged. A sensor is frozen when one unchanging
    value fills a fifth of the window more than it did in any training window, or all of a window though it never did.

    Args:
        values_SN: bins in the order of `Equipment.sensors`, NaN where missing.
        equipment: the machine.
        spec: the checkpoint's feature spec.

    Returns:
        The faults in the order of the sensors, one for a sensor at most.
    """
    references = spec.references.get(equipment.design, {})
    range_S2 = np.array([sensor.range for _, sensor in equipment.sensors], np.float64).reshape(-1, 2)
    beyond_S = np.any((values_SN < range_S2[:, :1]) | (values_SN > range_S2[:, 1:]), axis=-1)
    flat_S, rough_S = flatness(values_SN), roughness(values_SN)
    faults: list[Fault] = []
    for index, sensor_id in enumerate(equipment.sensor_ids):
        reference = references.get(sensor_id)
        if beyond_S[index]:
            faults.append(Fault(sensor_id, "out_of_range"))
        elif reference is None or np.isnan(flat_S[index]):
            continue
        elif flat_S[index] > reference.flat + 0.2 or (flat_S[index] == 1.0 and reference.flat < 1.0):
            faults.append(Fault(sensor_id, "frozen"))
        elif rough_S[index] > 2.0 * reference.roughness:
            faults.append(Fault(sensor_id, "noisy"))
    return tuple(faults)


def flatness(values_SN: Floats) -> NDArray[np.float64]:
    """Return the share of a window's bins that the longest run of one unchanging value fills, [S]; NaN below 3 bins."""
    flat_S = np.full(len(values_SN), np.nan)
    for index, values_N in enumerate(values_SN):
        there_R = values_N[np.isfinite(values_N)]
        if len(there_R) < 3:
            continue
        starts_Q = np.flatnonzero(np.concatenate(([True], there_R[1:] != there_R[:-1])))
        flat_S[index] = np.diff(np.append(starts_Q, len(there_R))).max() / len(there_R)
    return flat_S


def roughness(values_SN: Floats) -> NDArray[np.float64]:
    """Return the mean absolute second difference of neighbouring bins, [S], in the sensors' units; 0 where there is none."""
    bend_SN = np.abs(np.diff(values_SN.astype(np.float64), n=2, axis=-1))
    there_SN = np.isfinite(bend_SN)
    rough_S: NDArray[np.float64] = np.where(there_SN, bend_SN, 0.0).sum(-1) / np.maximum(there_SN.sum(-1), 1)
    return rough_S


def normalise(
    raw_STF: Floats, coverage_ST: Floats, equipment: Equipment, spec: FeatureSpec, faults: tuple[Fault, ...] = ()
) -> SensorFeatures:
    """Express a window's statistics in spreads from each sensor's reference, clipped, with 0.0 where there is nothing.

    A sensor without a reference in the spec is scaled by its declared range: the middle is 0 and the ends are -1 and 1.

    Args:
        raw_STF: statistics, from `step_statistics`.
        coverage_ST: share of each step's bins that are there.
        equipment: the machine; its sensors are S.
        spec: the checkpoint's feature spec.
        faults: sensors to mask, from `find_faults`.

    Returns:
        The features of the window.

    Raises:
        WindowError: the reference has another number of steps, or a sensor has another quantity or unit than its reference.
    """
    S, T, F = raw_STF.shape
    references = spec.references.get(equipment.design, {})
    mean_SRF, spread_SRF = np.zeros((S, T, F)), np.ones((S, T, F))
    excess_S = np.full(S, np.nan, np.float32)
    unreferenced: list[str] = []
    faulty = {fault.sensor_id for fault in faults}
    mask_ST = coverage_ST > 0
    for index, (_, sensor) in enumerate(equipment.sensors):
        reference = references.get(sensor.sensor_id)
        if reference is None:
            mean_SRF[index], spread_SRF[index] = _range_scale(sensor.range, spec.statistics)
            unreferenced.append(sensor.sensor_id)
        else:
            _check_reference(reference, sensor.quantity, sensor.unit, T, f"{equipment.design}.{sensor.sensor_id}")
            mean_SRF[index], spread_SRF[index] = reference.mean, reference.spread
            excess_S[index] = range_excess(raw_STF[index], reference)
        if sensor.sensor_id in faulty:
            mask_ST[index] = False
            excess_S[index] = np.nan
    with np.errstate(invalid="ignore"):
        z_STF = np.clip((raw_STF - mean_SRF) / spread_SRF, -spec.clip, spec.clip)
    x_STF = np.concatenate((z_STF, coverage_ST[..., None] - 1.0), axis=-1)
    x_STF = np.where(mask_ST[..., None], x_STF, 0.0).astype(np.float32)
    missing = tuple(sensor_id for index, sensor_id in enumerate(equipment.sensor_ids) if not coverage_ST[index].any())
    coverage_S = coverage_ST.mean(-1, dtype=np.float64).astype(np.float32)
    return SensorFeatures(x_STF, mask_ST, coverage_S, excess_S, missing, tuple(unreferenced), faults)


def window_features(values_SN: Floats, equipment: Equipment, spec: FeatureSpec) -> SensorFeatures:
    """Turn the bins of a window into features: faults, statistics, normalisation. The one door for training and serving.

    Args:
        values_SN: [S, N] float32 bins in the order of `Equipment.sensors`, in the sensors' units, NaN where missing.
        equipment: the machine.
        spec: the checkpoint's feature spec.

    Returns:
        The features of the window.

    Raises:
        WindowError: the shape is not that of the equipment's window, or the spec does not fit the equipment.
    """
    expected = (len(equipment.sensors), equipment.bins)
    if values_SN.shape != expected:
        raise WindowError(
            f"expected values of {expected[0]} sensors x {expected[1]} bins for '{equipment.equipment_id}', found "
            f"{' x '.join(map(str, values_SN.shape))}: give every sensor's bins of the whole window, NaN where missing"
        )
    values_SN = np.where(np.isfinite(values_SN), values_SN, np.float32(np.nan)).astype(np.float32)
    faults = find_faults(values_SN, equipment, spec)
    raw_STF, coverage_ST = step_statistics(values_SN, equipment.steps, spec.statistics)
    return normalise(raw_STF, coverage_ST, equipment, spec, faults)


def range_excess(raw_TF: Floats, reference: Reference) -> float:
    """Return how far one sensor's window leaves the range of the training windows: 0 inside, at most 1.

    It is the mean over steps and statistics of the distance beyond the lowest and highest value of the training windows, in
    spreads, each capped at 1. For a machine that repeats a cycle the range is that of the same step, so a window that starts
    in mid-cycle leaves it although every value is a usual one. NaN when the sensor has no step.
    """
    there_T = np.isfinite(raw_TF).all(-1)
    if not there_T.any():
        return float("nan")
    low_RF, high_RF, spread_RF = (
        np.broadcast_to(np.array(table), raw_TF.shape)[there_T]
        for table in (reference.low, reference.high, reference.spread)
    )
    there_RF = raw_TF[there_T].astype(np.float64)
    beyond_RF = np.maximum(np.maximum(low_RF - there_RF, there_RF - high_RF), 0.0) / spread_RF
    return float(np.minimum(beyond_RF, 1.0).mean())


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
