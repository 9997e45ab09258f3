"""From labelled intervals to what is known of every window: which windows there are, and grade, health, rate and RUL in them.

It reads no store and knows no machine; unknown components and grades are errors, not gaps.
Invariant: a window has a grade or a labelled health only where one interval of the component holds the whole window, and a RUL only where
its end lies in a run to failure.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from app.core.errors import InputError
from app.features.binning import Floats
from app.schemas.equipment import Equipment

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Label:
    """What is known of one component in `[start, end)`: its grade, or its health, or that it ran from `start` until it failed at `end`.

    `stable` tells whether the machine was at rest with it.
    """

    component_id: str
    start: datetime
    end: datetime
    grade: str | None = None
    stable: bool = True
    health: float | None = None
    run_to_failure: bool = False


class History(NamedTuple):
    """The time that a machine has readings of, `[start_us, end_us)` microseconds since 1970 (UTC)."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class WindowLabels:
    """What is known of W windows of V components, in order of machine and time.

    Args:
        machine_W: place of the window's machine among the machines.
        start_us_W: start of the window, microseconds since 1970 (UTC).
        grade_WV: position of the grade in the component's grades, -1 where none is known.
        health_WV: float32 in [0, 1]; of a graded window the health of its grade; NaN where none is known.
        rate_WV: health lost per 1000 operating hours, signed; NaN where unknown.
        rul_WV: operating hours to failure from the window's end, at most the cap; NaN where unknown.
        stable_W: false where any of the window's labels is not.
    """

    machine_W: Integers
    start_us_W: Integers
    grade_WV: Integers
    health_WV: Floats
    rate_WV: Floats
    rul_WV: Floats
    stable_W: Booleans

    def __len__(self) -> int:
        """Return W."""
        return len(self.start_us_W)

    def only(self, chosen_W: Booleans | Integers) -> Self:
        """Return the chosen windows, by a mask or by rising positions."""
        return type(self)(*(getattr(self, each.name)[chosen_W] for each in fields(self)))


def label_windows(
    equipment: Equipment,
    labels: Iterable[Label],
    *,
    machine: int = 0,
    rul_cap_h: float = 125.0,
    stride_s: float | None = None,
    history: History | None = None,
) -> WindowLabels:
    """Find the windows of a machine's labels and what each says.

    Where a grade or a health is labelled, windows tile the interval: they start at its start and follow each other without
    overlap while it holds them whole. Where a component ran to failure, one window ends at each stride, counted back from the
    last bin that the interval and the history have in common; a window may begin before both do, but at least a fifth of its bins lie in
    them. Its labels are those at its end: RUL is the time to failure, at most the cap; health is RUL by the cap; the rate is a
    thousand hours by the cap while RUL is below it, else 0 (Heimes, "Recurrent neural networks for remaining useful life
    estimation", 2008, for the piecewise-linear RUL).

    Args:
        equipment: the machine; its grades give the grades' positions.
        labels: intervals of one component must not overlap.
        machine: place of the machine among the machines.
        rul_cap_h: operating hours; further ahead nothing is told.
        stride_s: time between the ends of windows of a run to failure, a multiple of the grid; None for one window.
        history: time that the machine has readings of; None for all that is labelled. The failure may lie beyond it.

    Returns:
        The windows that have at least one label.

    Raises:
        InputError: a label names a component or a grade that the equipment has not, says not exactly one thing, or two labels of a
            component overlap; or the stride is no multiple of the grid.
    """
    grid_us, window_us = equipment.grid_us, equipment.bins * equipment.grid_us
    stride_us = window_us if stride_s is None else round(stride_s * 1e6)
    if stride_us <= 0 or stride_us % grid_us:
        raise InputError(
            f"expected a stride of a whole multiple of {equipment.grid_s} s, the grid of '{equipment.equipment_id}', found "
            f"{stride_s} s: give another stride",
            "stride_s",
        )
    rows = _by_component(equipment, labels)
    starts: set[int] = set()
    for intervals in rows.values():
        for each in intervals:
            if not each.run_to_failure:
                starts.update(range(each.start_us, each.end_us - window_us + 1, window_us))
                continue
            begin = each.start_us if history is None else max(each.start_us, history.start_us)
            last = each.end_us if history is None else min(each.end_us, history.end_us)
            least = -(-begin // grid_us) * grid_us + -(-equipment.bins // 5) * grid_us
            starts.update(
                end - window_us for end in range(last // grid_us * grid_us, least - 1, -stride_us)
            )
    start_us_W = np.array(sorted(starts), np.int64)
    shape = (len(start_us_W), len(equipment.components))
    found = WindowLabels(
        machine_W=np.full(shape[0], machine, np.int64),
        start_us_W=start_us_W,
        grade_WV=np.full(shape, -1, np.int64),
        health_WV=np.full(shape, np.nan, np.float32),
        rate_WV=np.full(shape, np.nan, np.float32),
        rul_WV=np.full(shape, np.nan, np.float32),
        stable_W=np.ones(shape[0], np.bool_),
    )
    for component, intervals in enumerate(rows.values()):
        begins = [each.start_us for each in intervals]
        for window, start_us in enumerate(start_us_W.tolist()):
            # the label of a window is the one at its end, which is its last moment
            place = bisect_right(begins, start_us + window_us - 1) - 1
            if place >= 0:
                _say(found, window, component, intervals[place], start_us, window_us, rul_cap_h)
    return found.only(_has_label(found))


def join_labels(parts: Sequence[WindowLabels]) -> WindowLabels:
    """Put the windows of several machines of one design one after the other."""
    return WindowLabels(
        *(
            np.concatenate([getattr(part, each.name) for part in parts])
            for each in fields(WindowLabels)
        )
    )


def configurations(grade_WV: Integers) -> Integers:
    """Number the configurations, all components' grades together: [W], equal where and only where all grades are."""
    _, number_W = np.unique(grade_WV, axis=0, return_inverse=True)
    return number_W.reshape(-1).astype(np.int64)


def warm_up(configuration_W: Integers, stable_W: Booleans, longest: int) -> Booleans:
    """Mark the windows of a machine's warm-up: unbroken runs of unstable windows of one configuration.

    A machine that is switched to another condition is unstable for a few windows; one that warms up stays so for hours.

    Args:
        configuration_W: in order of time.
        stable_W: in the same order.
        longest: runs of at least this many windows are a warm-up.

    Returns:
        [W] true in a warm-up.
    """
    marked_W = np.zeros(len(configuration_W), np.bool_)
    breaks = (
        np.flatnonzero((np.diff(configuration_W) != 0) | (np.diff(stable_W.astype(np.int8)) != 0))
        + 1
    )
    for run in np.split(np.arange(len(configuration_W)), breaks):
        if len(run) >= longest and not stable_W[run[0]]:
            marked_W[run] = True
    return marked_W


class _Interval(NamedTuple):
    start_us: int
    end_us: int
    grade: int
    health: float
    stable: bool
    run_to_failure: bool


def _by_component(equipment: Equipment, labels: Iterable[Label]) -> dict[str, list[_Interval]]:
    """Return each component's intervals in order of time, in the order of components."""
    components = {component.component_id: component for component in equipment.components}
    rows: dict[str, list[_Interval]] = {component_id: [] for component_id in components}
    for label in labels:
        component = components.get(label.component_id)
        grades = (
            {grade.name: place for place, grade in enumerate(component.grades)} if component else {}
        )
        if component is None or (label.grade is not None and label.grade not in grades):
            known = {
                each: [grade.name for grade in found.grades] for each, found in components.items()
            }
            said = "a label" if label.grade is None else f"grade '{label.grade}'"
            raise InputError(
                f"expected a component and grade of '{equipment.equipment_id}' ({known}), found "
                f"{said} of '{label.component_id}': correct the "
                "labels or add the grade to the topology",
                "component_id",
            )
        if (label.grade is not None) + (label.health is not None) + label.run_to_failure != 1:
            raise InputError(
                f"expected a label of '{label.component_id}' to say a grade, a health or a run to failure, found "
                f"grade {label.grade}, health {label.health}, run to failure {label.run_to_failure}: say exactly one",
                "grade",
            )
        place = -1 if label.grade is None else grades[label.grade]
        health = component.grades[place].health if place >= 0 else label.health
        start_us, end_us = (label.start - EPOCH) // MICROSECOND, (label.end - EPOCH) // MICROSECOND
        rows[label.component_id].append(
            _Interval(
                start_us,
                end_us,
                place,
                float("nan") if health is None else health,
                label.stable,
                label.run_to_failure,
            )
        )
    for component_id, intervals in rows.items():
        intervals.sort()
        _check_apart(component_id, intervals)
    return rows


def _say(
    found: WindowLabels,
    window: int,
    component: int,
    label: _Interval,
    start_us: int,
    window_us: int,
    cap_h: float,
) -> None:
    """Write what an interval says of a window that ends in it or after it."""
    end_us = start_us + window_us
    if end_us > label.end_us or (start_us < label.start_us and not label.run_to_failure):
        return
    if label.run_to_failure:
        if 5 * (end_us - label.start_us) < window_us:
            return
        rul_h = min((label.end_us - end_us) / HOUR_US, cap_h)
        found.rul_WV[window, component] = rul_h
        found.health_WV[window, component] = rul_h / cap_h
        found.rate_WV[window, component] = 1000.0 / cap_h if rul_h < cap_h else 0.0
    else:
        found.grade_WV[window, component] = label.grade
        found.health_WV[window, component] = label.health
    found.stable_W[window] &= label.stable


def _has_label(found: WindowLabels) -> Booleans:
    return np.asarray(((found.grade_WV >= 0) | np.isfinite(found.health_WV)).any(axis=1))


def _check_apart(component_id: str, intervals: list[_Interval]) -> None:
    for earlier, later in pairwise(intervals):
        if later.start_us < earlier.end_us:
            at = (EPOCH + later.start_us * MICROSECOND).isoformat()
            raise InputError(
                f"expected one label of '{component_id}' at a time, found two labels at {at}: correct the labels",
                "start_time",
            )
