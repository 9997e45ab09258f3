"""Derive labelled windows from labelled intervals: grade, health, degradation rate and RUL.

Pure. Invariant: a window has a grade or a labelled health only where one interval of the component
contains the whole window, and a RUL only where its end lies in an interval with a remaining life.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from app.core.errors import InputError
from app.features.binning import Floats
from app.schemas.equipment import Component, Equipment
from app.store.labels import ConditionLabel

Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

WORN = 0.98
"""Health below which a component counts as worn."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HOUR_US = 3_600_000_000


class History(NamedTuple):
    """Time span of a machine's readings, `[start_us, end_us)` in microseconds since 1970 (UTC)."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class WindowLabels:
    """Labels of W windows of V components, in order of machine and time.

    Args:
        machine_W: position of the window's machine among the machines.
        start_us_W: start of the window, microseconds since 1970 (UTC).
        grade_WV: position of the grade in the component's grades, -1 where unknown.
        health_WV: float32 in [0, 1], for a graded window the health of its grade; NaN where
            unknown.
        rate_WV: health lost per 1000 operating hours, signed; NaN where unknown.
        rul_WV: operating hours from the window's end to failure, capped; NaN where unknown.
        stable_W: false where any label of the window is not stable.
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
        """Return the chosen windows, by mask or rising positions."""
        return type(self)(*(getattr(self, each.name)[chosen_W] for each in fields(self)))


def label_windows(
    equipment: Equipment,
    labels: Iterable[ConditionLabel],
    *,
    machine: int = 0,
    rul_cap_h: float = 125.0,
    stride_s: float | None = None,
    history: History | None = None,
) -> WindowLabels:
    """Return the labelled windows of a machine.

    In an interval with a grade or a health, windows follow each other without overlap from its
    start. In a run to failure, or an interval with a remaining life at its end, one window ends at
    each stride, counted back from the last bin of interval and history; it may begin before both,
    but at least a fifth of its bins lie in them.
    Its labels are those at its end: RUL is the time to failure, capped; health is RUL / cap; the
    rate is 1000 h / cap while RUL is below the cap, else 0 (piecewise-linear RUL: Heimes,
    "Recurrent neural networks for remaining useful life estimation", 2008).

    Args:
        equipment: the machine; it gives the positions of the grades.
        labels: intervals of one component must not overlap.
        machine: position of the machine among the machines.
        rul_cap_h: largest RUL of a label, in operating hours.
        stride_s: time between the ends of windows of a run to failure, a multiple of the grid; None
            for the length of a window.
        history: time span of the readings, None for that of the labels; the failure may lie beyond
            it.

    Returns:
        The windows with at least one label.

    Raises:
        InputError: a label has an unknown component or grade, or not exactly one of grade, health,
            remaining life and run to failure; labels of a component overlap; or the stride is no
            multiple of the grid.
    """
    grid_us, window_us = equipment.grid_us, equipment.bins * equipment.grid_us
    stride_us = window_us if stride_s is None else round(stride_s * 1e6)
    if stride_us <= 0 or stride_us % grid_us:
        raise InputError(
            f"expected a stride that is a multiple of {equipment.grid_s} s, the grid of "
            f"'{equipment.equipment_id}', found {stride_s} s: give another stride",
            "stride_s",
        )
    rows = _by_component(equipment, labels)
    starts: set[int] = set()
    for intervals in rows.values():
        for each in intervals:
            if not _has_rul(each):
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
    for number, component in enumerate(equipment.components):
        if own := rows[component.component_id]:
            _label(found, component, number, own, window_us, rul_cap_h)
    is_labelled_W = ((found.grade_WV >= 0) | np.isfinite(found.health_WV)).any(axis=1)
    return found.only(np.asarray(is_labelled_W))


def join_labels(parts: Sequence[WindowLabels]) -> WindowLabels:
    """Concatenate the windows of several machines of one design."""
    names = [each.name for each in fields(WindowLabels)]
    return WindowLabels(*(np.concatenate([getattr(part, n) for part in parts]) for n in names))


def evenly_spaced(positions_W: Integers, most: int) -> Integers:
    """Return at most `most` of the positions, evenly spaced."""
    places = np.linspace(0, len(positions_W) - 1, min(most, len(positions_W)))
    return positions_W[places.astype(np.int64)]


def configurations(grade_WV: Integers) -> Integers:
    """Number the configurations, [W]: equal only where the grades of all components are."""
    _, number_W = np.unique(grade_WV, axis=0, return_inverse=True)
    return number_W.reshape(-1).astype(np.int64)


def warm_up(configuration_W: Integers, stable_W: Booleans, longest: int) -> Booleans:
    """Mark the windows of a warm-up: long runs of unstable windows of one configuration.

    A machine is unstable for a few windows after a change of condition, but for hours after a
    start.

    Args:
        configuration_W: in order of time.
        stable_W: in the same order.
        longest: number of windows from which a run is a warm-up.

    Returns:
        [W], true in a warm-up.
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


def _by_component(
    equipment: Equipment, labels: Iterable[ConditionLabel]
) -> dict[str, list[ConditionLabel]]:
    """Return the labels of each component, checked and in order of time."""
    grades = {
        component.component_id: [grade.name for grade in component.grades]
        for component in equipment.components
    }
    rows: dict[str, list[ConditionLabel]] = {component_id: [] for component_id in grades}
    for label in labels:
        known = grades.get(label.component_id)
        if known is None or (label.grade is not None and label.grade not in known):
            found = "a label" if label.grade is None else f"grade '{label.grade}'"
            raise InputError(
                f"expected a component and grade of '{equipment.equipment_id}' ({grades}), found "
                f"{found} of '{label.component_id}': correct the labels or add the grade to the "
                "topology",
                "component_id",
            )
        kinds = (label.grade, label.health, label.rul_h, label.run_to_failure or None)
        if sum(kind is not None for kind in kinds) != 1:
            raise InputError(
                f"expected a label of '{label.component_id}' with a grade, a health, a remaining "
                f"life or a run to failure, found grade {label.grade}, health {label.health}, "
                f"remaining life {label.rul_h}, run to failure {label.run_to_failure}: give "
                "exactly one",
                "grade",
            )
        rows[label.component_id].append(label)
    for component_id, intervals in rows.items():
        intervals.sort(key=lambda label: label.start_us)
        _check_apart(component_id, intervals)
    return rows


def _label(
    found: WindowLabels,
    component: Component,
    number: int,
    labels: Sequence[ConditionLabel],
    window_us: int,
    cap_h: float,
) -> None:
    """Write the labels of one component; a window has those of the interval at its end."""
    places = {None: -1} | {grade.name: place for place, grade in enumerate(component.grades)}
    grade_I = np.array([places[label.grade] for label in labels])
    start_I = np.array([label.start_us for label in labels])
    end_I = np.array([label.end_us for label in labels])
    stable_I = np.array([label.stable for label in labels])
    run_I = np.array([_has_rul(label) for label in labels])
    left_I = np.array([label.rul_h or 0.0 for label in labels])
    health_of_K = np.array([*(grade.health for grade in component.grades), np.nan])
    labelled_I = np.array([np.nan if label.health is None else label.health for label in labels])
    health_I = np.where(grade_I >= 0, health_of_K[grade_I], labelled_I)
    end_W = found.start_us_W + window_us
    at_W = np.searchsorted(start_I, end_W - 1, side="right") - 1
    age_W = end_W - start_I[at_W]
    inside_W = (at_W >= 0) & (end_W <= end_I[at_W])
    run_W = inside_W & run_I[at_W] & (5 * age_W >= window_us)
    graded_W = inside_W & ~run_I[at_W] & (age_W >= window_us)
    rul_h = np.minimum(((end_I[at_W] - end_W) / HOUR_US + left_I[at_W])[run_W], cap_h)
    found.rul_WV[run_W, number] = rul_h
    found.health_WV[run_W, number] = rul_h / cap_h
    found.rate_WV[run_W, number] = np.where(rul_h < cap_h, 1000.0 / cap_h, 0.0)
    found.grade_WV[graded_W, number] = grade_I[at_W][graded_W]
    found.health_WV[graded_W, number] = health_I[at_W][graded_W]
    found.stable_W[run_W | graded_W] &= stable_I[at_W][run_W | graded_W]


def _has_rul(label: ConditionLabel) -> bool:
    """Return whether a label gives the remaining life at each of its times."""
    return label.run_to_failure or label.rul_h is not None


def _check_apart(component_id: str, intervals: Sequence[ConditionLabel]) -> None:
    for earlier, later in pairwise(intervals):
        if later.start_us < earlier.end_us:
            at = (EPOCH + later.start_us * MICROSECOND).isoformat()
            raise InputError(
                f"expected one label of '{component_id}' at a time, found two labels at {at}: "
                "correct the labels",
                "start_time",
            )
