"""Labels to windows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InputError
from app.schemas.equipment import Equipment
from app.store.labels import ConditionLabel
from tests.small import START_US, press
from train.data.labels import (
    HOUR_US,
    History,
    WindowLabels,
    configurations,
    join_labels,
    label_windows,
    warm_up,
)


def label(
    component_id: str, start_s: float, end_s: float, grade: str, *, stable: bool = True
) -> ConditionLabel:
    start_us, end_us = (START_US + round(1e6 * seconds) for seconds in (start_s, end_s))
    return ConditionLabel(component_id, start_us, end_us, grade, stable)


def test_windows_tile_an_interval_and_leave_its_rest() -> None:
    found = label_windows(press(), [label("pump", 0, 30, "worn")])
    starts = [START_US, START_US + 12_000_000]
    assert found.start_us_W.tolist() == starts
    assert found.grade_WV.tolist() == [[1, -1, -1], [1, -1, -1]]


def test_grades_of_all_components_meet_in_a_window() -> None:
    found = label_windows(
        press(), [label("pump", 0, 12, "failed"), label("valve", 0, 12, "worn", stable=False)]
    )
    assert found.grade_WV.tolist() == [[2, 1, -1]]
    assert found.stable_W.tolist() == [False]


def test_a_change_of_grade_inside_a_window_leaves_it_without() -> None:
    found = label_windows(
        press(),
        [label("pump", 0, 12, "new"), label("valve", 0, 6, "new"), label("valve", 6, 18, "worn")],
    )
    assert found.grade_WV.tolist() == [[0, -1, -1], [-1, 1, -1]]


def test_unknown_grade_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        InputError, match=r"'pump': \['new', 'worn', 'failed'\].*found grade '7' of 'pump'"
    ):
        label_windows(press(), [label("pump", 0, 12, "7")])
    with pytest.raises(InputError, match="found grade 'new' of 'motor'"):
        label_windows(press(), [label("motor", 0, 12, "new")])


def test_two_grades_at_one_time_are_refused() -> None:
    with pytest.raises(
        InputError, match="one label of 'pump' at a time, found two labels at 2025-01-01T00:00:06"
    ):
        label_windows(press(), [label("pump", 0, 12, "new"), label("pump", 6, 18, "worn")])


def test_only_the_chosen_windows_are_kept() -> None:
    found = label_windows(press(), [label("pump", 0, 36, "worn")]).only(
        np.array([True, False, True])
    )
    assert len(found) == 2


def test_configurations_are_equal_where_all_grades_are() -> None:
    number_W = configurations(np.array([[0, 1], [1, 1], [0, 1]]))
    assert number_W[0] == number_W[2] != number_W[1]


def test_long_unstable_runs_alone_are_warm_up() -> None:
    configuration_W = np.array([0] * 5 + [1] * 4 + [2] * 2 + [2] * 5)
    stable_W = np.array([False] * 5 + [True] * 4 + [False] * 2 + [True] * 5)
    assert np.flatnonzero(warm_up(configuration_W, stable_W, 4)).tolist() == [0, 1, 2, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60), st.integers(1, 10))
def test_stable_windows_are_never_warm_up(windows: list[tuple[int, bool]], longest: int) -> None:
    configuration_W = np.array([number for number, _ in windows], np.int64)
    stable_W = np.array([stable for _, stable in windows], np.bool_)
    assert not (warm_up(configuration_W, stable_W, longest) & stable_W).any()


HOUR_S = 3600.0


def engine(bins: int = 10) -> Equipment:
    """Return the machine with windows of some hours."""
    return press().model_copy(
        update={"grid_s": HOUR_S, "window_s": bins * HOUR_S, "steps": bins // 5, "cycle_s": None}
    )


def failing(start_h: float, end_h: float, *, stable: bool = True) -> ConditionLabel:
    start_us, end_us = (START_US + round(HOUR_US * hours) for hours in (start_h, end_h))
    return ConditionLabel("pump", start_us, end_us, stable=stable, run_to_failure=True)


def hours(start_h: float, end_h: float) -> History:
    start_us = START_US
    return History(start_us + round(start_h * HOUR_US), start_us + round(end_h * HOUR_US))


def ends_h(found: WindowLabels, bins: int = 10) -> list[float]:
    return ((found.start_us_W - START_US) / HOUR_US + bins).tolist()


def test_run_to_failure_by_hand() -> None:
    found = label_windows(engine(), [failing(0, 8)], rul_cap_h=4.0, stride_s=HOUR_S)
    # a fifth of 10 bins lies in the history when a window ends 2 hours after the start
    assert ends_h(found) == [2, 3, 4, 5, 6, 7, 8]
    assert found.rul_WV[:, 0].tolist() == [4, 4, 4, 3, 2, 1, 0]
    assert found.health_WV[:, 0].tolist() == [1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert found.rate_WV[:, 0].tolist() == [0, 0, 0, 250, 250, 250, 250]
    assert np.isnan(found.rul_WV[:, 1:]).all()
    assert (found.grade_WV == -1).all()


def test_windows_of_a_run_to_failure_end_with_the_readings_where_the_failure_is_later() -> None:
    found = label_windows(
        engine(), [failing(0, 50)], rul_cap_h=25.0, stride_s=4 * HOUR_S, history=hours(0, 30.5)
    )
    assert ends_h(found) == [2, 6, 10, 14, 18, 22, 26, 30]
    assert found.rul_WV[-2:, 0].tolist() == [24, 20]


def test_remaining_life_is_that_of_a_failure_so_long_after_the_interval() -> None:
    known = failing(0, 8)._replace(run_to_failure=False, rul_h=2.5)
    found = label_windows(engine(), [known], rul_cap_h=6.0, stride_s=HOUR_S)
    assert ends_h(found) == [2, 3, 4, 5, 6, 7, 8]
    assert found.rul_WV[:, 0].tolist() == [6, 6, 6, 5.5, 4.5, 3.5, 2.5]
    assert found.rate_WV[:, 0].tolist()[:4] == [0, 0, 0, np.float32(1000 / 6)]


def test_stride_is_one_window_unless_it_is_given() -> None:
    assert ends_h(label_windows(engine(), [failing(0, 25)])) == [5, 15, 25]


def test_history_that_starts_later_than_the_label_counts_from_there() -> None:
    found = label_windows(engine(), [failing(0, 25)], stride_s=HOUR_S, history=hours(20, 25))
    assert ends_h(found) == [22, 23, 24, 25]


def test_stride_that_is_no_multiple_of_the_grid_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"a multiple of 3600.0 s, the grid of 'press-1', found 5400.0 s"
    ):
        label_windows(engine(), [failing(0, 25)], stride_s=5400.0)


def test_labelled_health_gives_no_grade_rate_or_rul() -> None:
    found = label_windows(
        press(),
        [
            ConditionLabel("tank", START_US, START_US + 30_000_000, health=0.4),
            label("pump", 0, 12, "worn"),
        ],
    )
    assert found.health_WV[:, 2].tolist() == [np.float32(0.4)] * 2
    assert found.health_WV[0, 0] == np.float32(0.5)
    assert (found.grade_WV[:, 2] == -1).all()
    assert np.isnan(found.rate_WV).all()
    assert np.isnan(found.rul_WV).all()


@pytest.mark.parametrize(
    "given_labels",
    [
        {},
        {"grade": "new", "health": 0.5},
        {"health": 0.5, "run_to_failure": True},
        {"rul_h": 1.0, "run_to_failure": True},
    ],
)
def test_label_has_exactly_one_kind(given_labels: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a grade, a health, a remaining life or a run to failure"):
        label_windows(
            press(), [ConditionLabel("pump", START_US, START_US + 12_000_000, **given_labels)]
        )


def test_machines_are_concatenated() -> None:
    first, second = (
        label_windows(press(), [label("pump", 0, 24, "worn")], machine=machine)
        for machine in (0, 1)
    )
    joined = join_labels([first, second])
    assert joined.machine_W.tolist() == [0, 0, 1, 1]
    assert joined.start_us_W.tolist() == [*first.start_us_W.tolist(), *second.start_us_W.tolist()]


@given(st.integers(1, 60), st.integers(0, 30), st.integers(1, 7), st.floats(0.5, 50.0))
def test_run_to_failure_of_any_length(
    life_h: int, beyond_h: int, stride_h: int, cap_h: float
) -> None:
    found = label_windows(
        engine(),
        [failing(0, life_h + beyond_h)],
        rul_cap_h=cap_h,
        stride_s=stride_h * HOUR_S,
        history=hours(0, life_h),
    )
    ends = np.array(ends_h(found))
    assert len(found) == max(0, (life_h - 2) // stride_h + 1)
    if len(found):
        assert ends[-1] == life_h
        assert ends[0] >= 2
        assert (np.diff(ends) == stride_h).all()
    rul_W, health_W, rate_W = found.rul_WV[:, 0], found.health_WV[:, 0], found.rate_WV[:, 0]
    np.testing.assert_allclose(rul_W, np.minimum(life_h + beyond_h - ends, cap_h), rtol=1e-6)
    assert ((health_W >= 0) & (health_W <= 1)).all()
    assert (np.diff(health_W) <= 1e-6).all()
    np.testing.assert_allclose(
        rate_W, np.where(life_h + beyond_h - ends < cap_h, 1000 / cap_h, 0.0), rtol=1e-6
    )
