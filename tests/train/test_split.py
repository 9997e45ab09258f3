"""The split: no configuration on both sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.labels import configurations
from train.split import split_folds, training_windows


def factorial(repeats: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    grids = np.meshgrid(range(3), range(4), range(3), range(4), indexing="ij")
    return np.repeat(np.stack([grid.ravel() for grid in grids], axis=1), repeats, axis=0).astype(np.int64)


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 3)), min_size=40, max_size=80), st.integers(0, 5))
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
    first, again, other = (split_folds(grade_WV, configurations(grade_WV), 5, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_fewer_configurations_than_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5 configurations for 5 folds, found 2"):
        split_folds(np.array([[0], [1]]), np.array([0, 1]), 5, 0)


def test_a_fit_sees_nothing_held_out_and_little_of_a_warm_up() -> None:
    configuration_W = np.repeat([0, 1, 2], 20)
    warm_up_W = np.zeros(60, np.bool_)
    warm_up_W[:15] = True
    warm_up_W[20:35] = True
    seen = training_windows(configuration_W == 1, warm_up_W, configuration_W, 4, 0)
    assert (configuration_W[seen] != 1).all()
    assert (seen < 15).sum() == 4
    assert set(range(15, 20)) | set(range(40, 60)) <= set(seen.tolist())
