"""What a request is about: its machine, its window as bins of the grid, and inline readings.

A window is `window_s` long, starts at the start of a bin and not in the future. Pure: machines and
the clock are arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np

from app.core.errors import InputError, WindowError
from app.diagnosis.cost import check_explainable, check_pass, diagnosis_cells, pass_cells
from app.features.binning import Floats, bin_series
from app.schemas.diagnosed_input import Window
from app.schemas.diagnosis import DiagnosisRequest
from app.schemas.equipment import Equipment
from app.schemas.places import shown
from app.schemas.readings import InlineReadings
from app.schemas.topology import parse_equipment

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CLOCK_SKEW = timedelta(seconds=5)
UNIT_WEIGHT = 1_020
"""`Resolved.weight` of a window of the rig: 17 sensors with 60 bins."""
HEAVY_WEIGHT = 100_000
"""`Resolved.weight` above which a request is heavy; one of the rig has 1,020, with an explanation
18,360."""


class Bins(NamedTuple):
    """A window as bins of its equipment's grid.

    Args:
        first: number of its first bin since 1970-01-01T00:00Z.
        length: number of bins.
    """

    first: int
    length: int


def window_before(equipment: Equipment, at: datetime | None, now: datetime) -> Bins:
    """Return the stored window that a request means.

    Args:
        equipment: the machine.
        at: end of the window, rounded down to the start of a bin; None for the last complete
            window before now, which for a machine that repeats a cycle ends where a cycle does.
        now: UTC.

    Raises:
        WindowError: the window ends in the future, or starts before 1970.
    """
    if at is not None and at > now + CLOCK_SKEW:
        raise WindowError(
            f"expected a time up to now ({now.isoformat(timespec='seconds')}), found "
            f"{at.isoformat()}: leave `at` out for the last complete window",
            "at",
        )
    end_us = ((at or now) - EPOCH) // MICROSECOND
    if at is None and equipment.cycle_s is not None:
        cycle_us = round(equipment.cycle_s * 1_000_000)
        end_us -= end_us % cycle_us
    last = end_us // equipment.grid_us
    if last < equipment.bins:
        raise WindowError(
            "expected a time after "
            f"{(EPOCH + timedelta(seconds=equipment.window_s)).isoformat()}, found {at}: correct "
            "`at`",
            "at",
        )
    return Bins(last - equipment.bins, equipment.bins)


def interval_of(bins: Bins, equipment: Equipment) -> Window:
    """Return a window's times."""
    start = EPOCH + bins.first * equipment.grid_us * MICROSECOND
    return Window(start=start, end=start + bins.length * equipment.grid_us * MICROSECOND)


def inline_window(
    equipment: Equipment, readings: InlineReadings, now: datetime
) -> tuple[Bins, Floats]:
    """Put inline readings into the bins of their window.

    A window that has started is accepted even if it ends in the future: a caller may send a window
    while it is measured, with null for later values, and clocks differ.

    Args:
        equipment: the machine.
        readings: value i of each sensor was read at start + i * step_s.
        now: UTC.

    Returns:
        The window's bins, and [S, N] float32 means in the order of `Equipment.sensors`, NaN where
        there is no value.

    Raises:
        WindowError: an unknown sensor, a length that does not fill the window, only nulls, or a
            start in the future.
    """
    known = equipment.sensor_ids
    for sensor_id in readings.values:
        if sensor_id not in known:
            raise WindowError(
                f"expected sensors of '{equipment.equipment_id}', found {shown(sensor_id)}: there "
                f"are {', '.join(known[:50])}",
                f"readings.values.{sensor_id}",
            )
    step_us = round(readings.step_s * 1_000_000)
    window_us = equipment.bins * equipment.grid_us
    if step_us <= 0 or window_us % step_us:
        raise WindowError(
            f"expected a step that divides the window of {equipment.window_s:g} s, found "
            f"{readings.step_s:g} s: resample",
            "readings.step_s",
        )
    count = window_us // step_us
    for sensor_id, values in readings.values.items():
        if len(values) != count:
            raise WindowError(
                f"expected {count} values ({equipment.window_s:g} s at step_s "
                f"{readings.step_s:g}), found {len(values)}: give the whole window, null where a "
                "value is missing",
                f"readings.values.{sensor_id}",
            )
    if readings.start > now + CLOCK_SKEW:
        raise WindowError(
            f"expected readings that begin by now ({now.isoformat(timespec='seconds')}), found a "
            f"start of {readings.start.isoformat()}: correct the clock of their source",
            "readings.start",
        )
    start_us = (readings.start - EPOCH) // MICROSECOND
    if start_us < 0:
        raise WindowError(
            "expected readings after 1970-01-01T00:00:00Z, found a start of "
            f"{readings.start.isoformat()}",
            "readings.start",
        )
    first = start_us // equipment.grid_us
    offsets_us = start_us - first * equipment.grid_us + np.arange(count, dtype=np.int64) * step_us
    values_SN = np.full((len(known), equipment.bins), np.nan, np.float32)
    for position, sensor_id in enumerate(known):
        given = readings.values.get(sensor_id)
        if given is not None:
            series = np.array(given, np.float64)  # NaN for None
            values_SN[position] = bin_series(offsets_us, series, equipment.grid_us, equipment.bins)
    if np.isnan(values_SN).all():
        raise WindowError(
            "expected at least one reading in the window, found none: give numbers, not only null",
            "readings.values",
        )
    return Bins(first, equipment.bins), values_SN


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request whose machine and window are known.

    Args:
        request: of the caller.
        equipment: the machine.
        bins: of its window.
        inline: means of the request's own readings in bins, [S, N]; None for stored readings.
    """

    request: DiagnosisRequest
    equipment: Equipment
    bins: Bins
    inline: Floats | None

    @property
    def weight(self) -> int:
        """Return the work: the sensor bins that are read, and the cells that are computed.

        A cell takes about the time of two sensor bins.
        """
        explain = self.request.explain
        passes = len(self.equipment.sensors) + 1 if explain else 1
        bins = len(self.equipment.sensors) * self.bins.length * passes
        return max(1, bins, 2 * diagnosis_cells(self.equipment, explain=explain))

    @property
    def units(self) -> int:
        """Return what the request costs its key: 1 for a diagnosis of the size of the rig's."""
        return -(-self.weight // UNIT_WEIGHT)

    @property
    def is_heavy(self) -> bool:
        """Whether the request takes so long by itself that it must not share what others use."""
        return self.weight > HEAVY_WEIGHT


def resolve(request: DiagnosisRequest, registered: Equipment | None, now: datetime) -> Resolved:
    """Resolve a request.

    Args:
        request: of the caller.
        registered: the machine's registered topology; None when the request brings its own.
        now: UTC.

    Raises:
        HydraulicDiagnosticsError: the request can't be diagnosed.
    """
    equipment = (
        registered if request.equipment is None else _inline_equipment(request, request.equipment)
    )
    assert equipment is not None
    check_pass(pass_cells(equipment))
    if request.explain:
        check_explainable(diagnosis_cells(equipment, explain=True))
    if request.readings is None:
        return Resolved(request, equipment, window_before(equipment, request.at, now), None)
    if request.at is not None:
        raise InputError("expected either `at` or `readings`, found both: leave one out", "at")
    bins, values_SN = inline_window(equipment, request.readings, now)
    return Resolved(request, equipment, bins, values_SN)


def _inline_equipment(request: DiagnosisRequest, topology: Mapping[str, Any]) -> Equipment:
    if request.readings is None:
        raise InputError(
            "expected `readings` beside an inline `equipment`, found none: add them", "readings"
        )
    equipment = parse_equipment({"equipment_id": request.equipment_id, **topology}, "equipment")
    if equipment.equipment_id != request.equipment_id:
        raise InputError(
            f"expected equipment.equipment_id '{request.equipment_id}', found "
            f"'{equipment.equipment_id}': make them equal",
            "equipment.equipment_id",
        )
    return equipment
