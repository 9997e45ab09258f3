"""Windows on disk are read as written, in order and in bounded batches."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InputError
from tests.small import graded, graded_windows, press, wave
from train.data import shards as parquet
from train.data import windows as stored
from train.data.windows import groups, open_windows, write_windows


def test_windows_are_read_as_written(tmp_path: Path) -> None:
    values_WSN = wave(30, 4)
    values_WSN[3, 1, 4:] = np.nan
    labels = graded(np.tile(np.array([[0, 1, -1]]), (30, 1)))
    written = write_windows(
        tmp_path, press(), ("press-1",), labels, [values_WSN[:7], values_WSN[7:]]
    )
    found = open_windows(tmp_path)
    assert len(found) == 30
    assert found.machines == ("press-1",)
    assert found.equipment == written.equipment == press()
    for name in (
        "machine_W",
        "start_us_W",
        "grade_WV",
        "health_WV",
        "rate_WV",
        "rul_WV",
        "stable_W",
    ):
        there, given = getattr(found.labels, name), getattr(labels, name)
        assert there.dtype == given.dtype
        np.testing.assert_array_equal(there, given)
    np.testing.assert_array_equal(found.values(np.arange(30)), values_WSN)


def test_windows_pickle_small(tmp_path: Path) -> None:
    assert len(pickle.dumps(graded_windows(tmp_path))) < 20_000


def test_values_are_in_the_given_order(tmp_path: Path) -> None:
    found = graded_windows(tmp_path)
    all_WSN = found.values(np.arange(60))
    np.testing.assert_array_equal(found.values(np.array([40, 3, 3, 59])), all_WSN[[40, 3, 3, 59]])


def test_batches_cross_row_groups_and_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "SHARD_BYTES", 25 * 4 * 4 * 12)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 4 * 4 * 4 * 12)
    found = graded_windows(tmp_path)
    assert len(parquet.shards(tmp_path)) == 3
    all_WSN = found.values(np.arange(60))
    chosen = np.array([1, 2, 24, 25, 26, 49, 50, 59])
    batches = list(found.batches(chosen, 3))
    assert [positions.tolist() for positions, _ in batches] == [[1, 2, 24], [25, 26, 49], [50, 59]]
    for positions, values in batches:
        np.testing.assert_array_equal(values, all_WSN[positions])


@given(st.lists(st.integers(0, 59), max_size=80), st.integers(1, 70))
def test_batches_hold_each_chosen_window_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[int], size: int
) -> None:
    directory = tmp_path_factory.getbasetemp() / "batches"
    found = open_windows(directory) if directory.exists() else graded_windows(directory)
    read = [positions.tolist() for positions, _ in found.batches(np.array(chosen, np.int64), size)]
    assert [position for positions in read for position in positions] == sorted(set(chosen))
    assert all(len(positions) == size for positions in read[:-1])


def test_too_many_windows_at_once_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "MOST_BYTES", 2 * 4 * 4 * 12)
    with pytest.raises(ValueError, match="at most 2 windows at once, found 3"):
        graded_windows(tmp_path).values(np.arange(3))


def test_windows_of_graded_machines_are_grouped_by_configuration_and_others_by_machine(
    tmp_path: Path,
) -> None:
    found = graded_windows(tmp_path)
    assert len(np.unique(found.group_W)) == 6
    assert found.warm_up_W.sum() == 8
    labels = graded(np.array([[0, 0, -1], [-1, -1, -1], [0, 0, -1], [-1, -1, -1]]))
    labels.machine_W[:] = [0, 0, 1, 1]
    assert groups(labels, found.configuration_W[:4] * 0).tolist() == [0, 1, 0, 2]


def test_unfinished_directory_is_refused(tmp_path: Path) -> None:
    graded_windows(tmp_path)
    (tmp_path / stored.HEAD).unlink()
    with pytest.raises(InputError, match=r"expected prepared windows with 'equipment\.json'"):
        open_windows(tmp_path)


def test_missing_shard_is_refused(tmp_path: Path) -> None:
    graded_windows(tmp_path)
    parquet.shards(tmp_path)[0].unlink()
    with pytest.raises(InputError, match=r"expected 60 windows .* found 0"):
        open_windows(tmp_path)


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    labels = graded(np.zeros((5, 3), np.int64))
    with pytest.raises(ValueError, match="expected values of 5 windows, found 4"):
        write_windows(tmp_path, press(), ("press-1",), labels, [wave(4, 4)])
    with pytest.raises(ValueError, match="windows x sensors x bins"):
        write_windows(tmp_path, press(), ("press-1",), labels, [wave(5, 3)])
