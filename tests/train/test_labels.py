"""Labels to windows."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InputError
from tests.small import press
from train.labels import EPOCH, MICROSECOND, Label, configurations, label_windows, warm_up

START = datetime(2025, 1, 1, tzinfo=UTC)


def label(component_id: str, start_s: float, end_s: float, grade: str, *, stable: bool = True) -> Label:
    return Label(component_id, START + timedelta(seconds=start_s), START + timedelta(seconds=end_s), grade, stable)


def test_windows_tile_an_interval_and_leave_its_rest() -> None:
    found = label_windows(press(), [label("pump", 0, 30, "worn")])
    starts = [(START + timedelta(seconds=seconds) - EPOCH) // MICROSECOND for seconds in (0, 12)]
    assert found.start_us_W.tolist() == starts
    assert found.grade_WV.tolist() == [[1, -1, -1], [1, -1, -1]]


def test_grades_of_all_components_meet_in_a_window() -> None:
    found = label_windows(press(), [label("pump", 0, 12, "failed"), label("valve", 0, 12, "worn", stable=False)])
    assert found.grade_WV.tolist() == [[2, 1, -1]]
    assert found.stable_W.tolist() == [False]


def test_a_change_of_grade_inside_a_window_leaves_it_without() -> None:
    found = label_windows(
        press(), [label("pump", 0, 12, "new"), label("valve", 0, 6, "new"), label("valve", 6, 18, "worn")]
    )
    assert found.grade_WV.tolist() == [[0, -1, -1], [-1, 1, -1]]


def test_unknown_grade_names_what_there_is() -> None:
    with pytest.raises(InputError, match=r"'pump': \['new', 'worn', 'failed'\].*found grade '7' of 'pump'"):
        label_windows(press(), [label("pump", 0, 12, "7")])
    with pytest.raises(InputError, match="found grade 'new' of 'motor'"):
        label_windows(press(), [label("motor", 0, 12, "new")])


def test_two_grades_at_one_time_are_refused() -> None:
    with pytest.raises(InputError, match="one label of 'pump' at a time, found two labels at 2025-01-01T00:00:06"):
        label_windows(press(), [label("pump", 0, 12, "new"), label("pump", 6, 18, "worn")])


def test_only_the_chosen_windows_are_kept() -> None:
    found = label_windows(press(), [label("pump", 0, 36, "worn")]).only(np.array([True, False, True]))
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
