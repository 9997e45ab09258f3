"""The split: no configuration on both sides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InputError
from tests.small import START_US, graded, graded_windows, press
from train.config import TrainConfig
from train.data.labels import Integers, configurations
from train.data.split import (
    choose_split,
    not_overlapping,
    set_apart,
    split,
    split_folds,
    training_windows,
    whole,
)
from train.data.windows import Windows, groups


def plan(kind: str = "group", **settings: int) -> TrainConfig:
    config = TrainConfig.model_validate({"equipment": "press-1", **settings})
    return config.model_copy(update={"split": kind})


def factorial(repeats: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    grids = np.meshgrid(range(3), range(4), range(3), range(4), indexing="ij")
    return np.repeat(np.stack([grid.ravel() for grid in grids], axis=1), repeats, axis=0).astype(
        np.int64
    )


@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 3)), min_size=40, max_size=80),
    st.integers(0, 5),
)
def test_a_configuration_is_in_one_fold(grades: list[tuple[int, int]], seed: int) -> None:
    grade_WV = np.array(grades, np.int64)
    configuration_W = configurations(grade_WV)
    if configuration_W.max() < 1:
        return
    fold_W = split_folds(grade_WV, configuration_W, 2, seed)
    for number in range(configuration_W.max() + 1):
        assert len(set(fold_W[configuration_W == number].tolist())) == 1


def test_every_grade_is_spread_over_the_folds() -> None:
    grade_WV = factorial()
    fold_W = split_folds(grade_WV, configurations(grade_WV), 5, 0)
    for component, grades in enumerate((3, 4, 3, 4)):
        for grade in range(grades):
            share = np.bincount(fold_W[grade_WV[:, component] == grade], minlength=5)
            assert share.min() > 0.7 * share.mean()


def test_same_seed_same_folds() -> None:
    grade_WV = factorial(1)
    first, again, other = (
        split_folds(grade_WV, configurations(grade_WV), 5, seed) for seed in (1, 1, 2)
    )
    assert first.tolist() == again.tolist() != other.tolist()


def test_fewer_configurations_than_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5 configurations for 5 folds, found 2"):
        split_folds(np.array([[0], [1]]), np.array([0, 1]), 5, 0)


def test_training_has_no_holdout_and_few_warm_up_windows() -> None:
    configuration_W = np.repeat([0, 1, 2], 20)
    warm_up_W = np.zeros(60, np.bool_)
    warm_up_W[:15] = True
    warm_up_W[20:35] = True
    seen = training_windows(configuration_W == 1, warm_up_W, configuration_W, 4, 0)
    assert (configuration_W[seen] != 1).all()
    assert (seen < 15).sum() == 4
    assert set(range(15, 20)) | set(range(40, 60)) <= set(seen.tolist())


PLANS = ("group", "machine", "time", "leave-level:pump", "leave-block:pump+valve")


def made(
    grades: np.ndarray[tuple[int, ...], np.dtype[np.int64]], machines: int = 1, stride: int = 12
) -> Windows:
    """Return windows of alternating machines, 12 s long, one every `stride` seconds."""
    labels = graded(grades)
    machine_W = np.arange(len(grades)) * machines // max(1, len(grades))
    place_W = np.arange(len(grades)) - np.searchsorted(machine_W, machine_W)
    labels = replace(
        labels, machine_W=machine_W, start_us_W=START_US + 1_000_000 * stride * place_W
    )
    configuration_W = configurations(grades)
    return Windows(
        directory=Path("nowhere"),
        equipment=press(),
        machines=tuple(f"press-{number}" for number in range(machines)),
        labels=labels,
        configuration_W=configuration_W,
        group_W=groups(labels, configuration_W),
        warm_up_W=np.zeros(len(grades), np.bool_),
        baseline_W=np.zeros(len(grades), np.bool_),
    )


@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 1)), min_size=12, max_size=60),
    st.integers(1, 4),
    st.sampled_from([3, 12]),
    st.sampled_from(PLANS),
    st.integers(0, 5),
)
def test_holdout_is_never_in_training(
    grades: list[tuple[int, int]], machines: int, stride: int, kind: str, seed: int
) -> None:
    windows = made(np.array([(*pair, -1) for pair in grades], np.int64), machines, stride)
    try:
        parts = split(windows, plan(kind, folds=2, seed=seed))
    except InputError:
        return  # too little to part
    again = split(windows, plan(kind, folds=2, seed=seed))
    labels = windows.labels
    for part, same in zip(parts, again, strict=True):
        assert part.holdout_W.size
        assert not set(part.train_W.tolist()) & set(part.holdout_W.tolist())
        assert (np.diff(part.train_W) > 0).all()
        assert (part.train_W.tolist(), part.holdout_W.tolist()) == (
            same.train_W.tolist(),
            same.holdout_W.tolist(),
        )
        of_what = {
            "group": windows.group_W,
            "machine": labels.machine_W,
            "leave-level:pump": labels.grade_WV[:, 0],
        }
        if kind in of_what:
            assert not set(of_what[kind][part.train_W].tolist()) & set(
                of_what[kind][part.holdout_W].tolist()
            )
        if kind == "leave-block:pump+valve":
            holdout, train = (
                {tuple(row) for row in labels.grade_WV[side, :2].tolist()}
                for side in (part.holdout_W, part.train_W)
            )
            assert len(holdout) == 1
            assert not holdout & train
        if kind == "time":
            for machine in range(machines):
                seen_us, held_us = (
                    labels.start_us_W[side[labels.machine_W[side] == machine]]
                    for side in (part.train_W, part.holdout_W)
                )
                if seen_us.size and held_us.size:
                    # end of training, and a gap of one window, before the holdout
                    assert seen_us.max() + 2 * 12_000_000 <= held_us.min()
    if kind in {"group", "machine", "leave-level:pump", "leave-block:pump+valve"}:
        everything = np.concatenate([part.holdout_W for part in parts])
        assert len(set(everything.tolist())) == len(everything)


def shares_a_moment(windows: Windows, first_W: Integers, second_W: Integers) -> bool:
    """Return whether a window of 12 s overlaps one of the others on its machine, pair by pair."""
    labels = windows.labels
    return any(
        labels.machine_W[first] == labels.machine_W[second]
        and abs(int(labels.start_us_W[first] - labels.start_us_W[second])) < 12_000_000
        for first in first_W.tolist()
        for second in second_W.tolist()
    )


@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 1)), min_size=12, max_size=40),
    st.integers(1, 4),
    st.sampled_from([1, 5, 11, 12]),
    st.sampled_from(PLANS),
    st.integers(0, 5),
)
def test_no_training_window_overlaps_the_holdout_of_its_machine(
    grades: list[tuple[int, int]], machines: int, stride: int, kind: str, seed: int
) -> None:
    windows = made(np.array([(*pair, -1) for pair in grades], np.int64), machines, stride)
    try:
        parts = split(windows, plan(kind, folds=2, seed=seed))
    except InputError:
        return  # too little to part
    for part in parts:
        assert not shares_a_moment(windows, part.train_W, part.holdout_W)
        if stride == 12 and kind == "group":
            # windows that touch do not overlap: nothing is lost
            assert len(part.train_W) + len(part.holdout_W) == len(windows)
        if len(np.unique(windows.group_W[part.train_W])) > 1:
            rest_W, apart_W = set_apart(windows, part.train_W, 0.3, seed)
            assert not shares_a_moment(windows, rest_W, apart_W)


def test_only_overlapping_windows_are_removed() -> None:
    windows = made(np.zeros((12, 3), np.int64), machines=2, stride=5)
    assert not_overlapping(windows, np.array([0, 1, 2, 4, 5, 6, 9]), np.array([3])).tolist() == [
        0,
        6,
        9,
    ]
    assert not_overlapping(windows, np.array([0, 1]), np.empty(0, np.int64)).tolist() == [0, 1]


def test_parts_are_named() -> None:
    windows = made(
        np.array([(pump, valve, -1) for pump in range(3) for valve in range(2)], np.int64)
    )
    names = {
        kind: [part.name for part in split(windows, plan(kind, folds=2))]
        for kind in (PLANS[0], *PLANS[3:])
    }
    assert names["group"] == ["fold 1/2", "fold 2/2"]
    assert names["leave-level:pump"] == ["pump=new", "pump=worn", "pump=failed"]
    assert names["leave-block:pump+valve"][:2] == ["pump=new+valve=new", "pump=new+valve=worn"]


def test_random_split_is_refused_unless_its_leak_is_named() -> None:
    windows = made(factorial(1)[:, :3] % 2)
    with pytest.raises(
        InputError, match=r"found random, which scores memorised windows.*random-leaky"
    ):
        split(windows, plan("random"))
    with pytest.warns(UserWarning, match="near-duplicates, so the figures are too good"):
        parts = split(windows, plan("random-leaky", folds=3))
    assert sorted(position for part in parts for position in part.holdout_W.tolist()) == list(
        range(len(windows))
    )


def test_one_group_is_split_by_time_and_the_reason_is_given() -> None:
    windows = made(np.full((40, 3), -1, np.int64))
    chosen, reason = choose_split(windows, plan("auto"))
    assert (chosen.split, [part.name for part in split(windows, plan("auto"))]) == (
        "time",
        ["time"],
    )
    assert "the last 20% of each machine" in reason
    assert "5 folds need as many groups" in reason
    assert reason.endswith("there is 1.")
    (part,) = split(windows, chosen)
    assert part.train_W.max() < part.holdout_W.min() - 1
    with pytest.raises(InputError, match="at least 5 groups for 5 folds, found 1"):
        split(windows, plan("group"))
    windows = made(factorial(1)[:, :3] % 2)
    assert choose_split(windows, plan("auto")) == (plan("group"), "")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("by-moon", "expected a split of auto, group, machine, time, .* found 'by-moon'"),
        ("leave-level:tank", "a component with grades of pump, valve, found 'tank'"),
        ("leave-block:pump", "two components, joined by .* found 'pump'"),
        ("machine", "at least 5 machines for 5 folds, found 1"),
    ],
)
def test_impossible_split_is_refused_with_its_reason(kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(made(factorial(1)[:, :3] % 2), plan(kind))


def test_whole_excludes_only_most_of_a_warm_up() -> None:
    windows = replace(made(np.zeros((30, 3), np.int64)), warm_up_W=np.arange(30) < 20)
    part = whole(windows, plan(warm_up_windows=4))
    assert part.holdout_W.size == 0
    assert (part.train_W < 20).sum() == 4
    assert set(range(20, 30)) <= set(part.train_W.tolist())


def test_validation_windows_are_whole_groups() -> None:
    windows = made(factorial(2)[:, :3] % 2)
    seen_W = np.arange(0, len(windows), 2)
    rest_W, apart_W = set_apart(windows, seen_W, 0.25, 0)
    assert sorted([*rest_W.tolist(), *apart_W.tolist()]) == seen_W.tolist()
    assert not set(windows.group_W[rest_W].tolist()) & set(windows.group_W[apart_W].tolist())
    assert len(np.unique(windows.group_W[apart_W])) == 2
    assert set_apart(windows, seen_W, 0.0, 0)[1].size == 0


def test_validation_of_one_group_is_the_end_of_each_history_after_a_gap() -> None:
    windows = made(np.zeros((30, 3), np.int64))
    rest_W, apart_W = set_apart(windows, np.arange(20), 0.25, 0)
    assert apart_W.tolist() == [15, 16, 17, 18, 19]
    assert rest_W.tolist() == list(range(14))
    with pytest.raises(InputError, match="change validation_share") as caught:
        set_apart(windows, np.array([0]), 0.25, 0)
    assert caught.value.field == "validation_share"


def test_holdout_is_one_part_of_whole_groups(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    (part,) = split(windows, plan("holdout"))
    assert part.name == "holdout"
    assert set(windows.group_W[part.train_W]).isdisjoint(windows.group_W[part.holdout_W])
    groups_out = len(set(windows.group_W[part.holdout_W].tolist()))
    assert groups_out == max(1, round(0.2 * len(set(windows.group_W.tolist()))))
