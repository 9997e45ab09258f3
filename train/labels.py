"""From labelled intervals to the condition of every window: which windows there are and which grade each component had in them.

It reads no store and knows no machine; unknown components and grades are errors, not gaps.
Invariant: a window has a grade only where one labelled interval of the component holds the whole window.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.errors import InputError
from app.schemas.equipment import Equipment

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Label:
    """One component had this grade throughout `[start, end)`; `stable` tells whether the machine was at rest with it."""

    component_id: str
    start: datetime
    end: datetime
    grade: str
    stable: bool


@dataclass(frozen=True, slots=True)
class WindowLabels:
    """What is known of W windows in order of time.

    `start_us_W` is microseconds since 1970 (UTC); `grade_WV` the position of the grade in the component's grades, -1 where none is
    known; `stable_W` false where any of the window's labels is not.
    """

    start_us_W: Integers
    grade_WV: Integers
    stable_W: Booleans

    def __len__(self) -> int:
        """Return W."""
        return len(self.start_us_W)

    def only(self, chosen_W: Booleans) -> Self:
        """Return the chosen windows."""
        return replace(
            self,
            start_us_W=self.start_us_W[chosen_W],
            grade_WV=self.grade_WV[chosen_W],
            stable_W=self.stable_W[chosen_W],
        )


def label_windows(equipment: Equipment, labels: Iterable[Label]) -> WindowLabels:
    """Tile the labelled time by windows and give each its grades.

    Windows start at the starts of labelled intervals and follow each other without overlap while the interval holds them whole.

    Args:
        equipment: the machine; its grades give the grades' positions.
        labels: intervals of one component must not overlap.

    Returns:
        The windows that have at least one grade.

    Raises:
        InputError: a label names a component or a grade that the equipment has not, or two labels of a component overlap.
    """
    positions = {
        component.component_id: {grade.name: position for position, grade in enumerate(component.grades)}
        for component in equipment.components
    }
    window_us = equipment.bins * equipment.grid_us
    rows: dict[str, list[tuple[int, int, int, bool]]] = {component_id: [] for component_id in positions}
    starts: set[int] = set()
    for label in labels:
        if label.grade not in positions.get(label.component_id, {}):
            known = {component: list(grades) for component, grades in positions.items() if grades}
            raise InputError(
                f"expected a component and grade of '{equipment.equipment_id}' ({known}), found grade '{label.grade}' of "
                f"'{label.component_id}': correct the labels or add the grade to the topology",
                "component_id",
            )
        start, end = (label.start - EPOCH) // MICROSECOND, (label.end - EPOCH) // MICROSECOND
        rows[label.component_id].append((start, end, positions[label.component_id][label.grade], label.stable))
        starts.update(range(start, end - window_us + 1, window_us))
    start_us_W = np.array(sorted(starts), np.int64)
    grade_WV = np.full((len(start_us_W), len(equipment.components)), -1, np.int64)
    stable_W = np.ones(len(start_us_W), np.bool_)
    for component, (component_id, intervals) in enumerate(rows.items()):
        intervals.sort()
        _check_apart(component_id, intervals)
        begins = [begin for begin, *_ in intervals]
        for window, start in enumerate(start_us_W.tolist()):
            place = bisect_right(begins, start) - 1
            if place >= 0 and start + window_us <= intervals[place][1]:
                grade_WV[window, component] = intervals[place][2]
                stable_W[window] &= intervals[place][3]
    return WindowLabels(start_us_W, grade_WV, stable_W)


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
    breaks = np.flatnonzero((np.diff(configuration_W) != 0) | (np.diff(stable_W.astype(np.int8)) != 0)) + 1
    for run in np.split(np.arange(len(configuration_W)), breaks):
        if len(run) >= longest and not stable_W[run[0]]:
            marked_W[run] = True
    return marked_W


def _check_apart(component_id: str, intervals: list[tuple[int, int, int, bool]]) -> None:
    for earlier, later in pairwise(intervals):
        if later[0] < earlier[1]:
            at = (EPOCH + later[0] * MICROSECOND).isoformat()
            raise InputError(
                f"expected one grade of '{component_id}' at a time, found two labels at {at}: correct the labels",
                "start_time",
            )
