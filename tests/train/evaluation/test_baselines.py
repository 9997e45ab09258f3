"""Classical baselines: rules of remaining life by hand, and which windows they are fitted to."""

from pathlib import Path

import numpy as np
import pytest

from app.features.binning import Floats
from tests.small import graded_windows, small
from train.data.labels import HOUR_US, WindowLabels
from train.evaluation.baselines import (
    EXTRA_TREES,
    ORDINAL,
    STEP_DISCRIMINANT,
    WINDOW_DISCRIMINANT,
    baselines,
    life_less_age,
)
from train.evaluation.holdout import predict_holdout


def lives(machines: list[list[float]]) -> WindowLabels:
    """Return labels of one component per machine with these RULs, one window an hour."""
    rul_W1: Floats = np.array([[hours] for each in machines for hours in each], np.float32)
    unknown_W1 = np.full_like(rul_W1, np.nan)
    return WindowLabels(
        machine_W=np.repeat(np.arange(len(machines)), [len(each) for each in machines]),
        start_us_W=HOUR_US * np.concatenate([np.arange(len(each)) for each in machines]),
        grade_WV=np.full(rul_W1.shape, -1, np.int64),
        health_WV=unknown_W1,
        rate_WV=unknown_W1,
        rul_WV=rul_W1,
        stable_W=np.ones(len(rul_W1), np.bool_),
    )


def test_each_run_of_a_machine_is_a_life_of_its_own() -> None:
    # lives of 3 h and 5 h on one machine: 4 h on average, less the age in the run
    labels = lives([[3, 2, 1, 0, 5, 4, 3, 2, 1, 0], [4, 3, 2]])
    rul_h_W = life_less_age(labels, np.arange(10), np.array([4, 6, 10, 12]), 0)
    assert rul_h_W.tolist() == [4.0, 2.0, 4.0, 2.0]


def test_life_is_counted_from_its_beginning_where_a_fit_saw_only_its_end() -> None:
    labels = lives([[4, 4, 4, 3, 2, 1, 0], [4, 4, 4]])  # cut at 4: the first fails after 6 h
    rul_h_W = life_less_age(labels, np.array([4, 5]), np.array([7, 9]), 0)
    assert rul_h_W.tolist() == [4.0, 4.0]
    assert life_less_age(labels, np.array([4, 5]), np.array([3]), 0).tolist() == [3.0]


def test_machines_without_a_known_end_of_life_give_no_prediction() -> None:
    labels = lives([[4, 4, 4, 3, 2], [4, 4]])
    assert np.isnan(life_less_age(labels, np.array([0, 1, 2]), np.arange(7), 0)).all()
    assert life_less_age(labels, np.arange(5), np.array([6]), 0) == pytest.approx([4.0])


def test_grade_is_the_most_probable_of_those_that_the_fit_saw(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    seen_W = np.flatnonzero(windows.labels.grade_WV[:, 0] != 1)[
        ::2
    ]  # no window of the second of the pump's three grades
    part = predict_holdout(
        small().model,
        small().spec,
        windows,
        "all",
        seen_W,
        np.arange(60),
        probes=0,
        removal_probes=0,
    )
    found = baselines(windows, [part], ("mean", "spread"), trees=20)
    assert set(found) == {ORDINAL, STEP_DISCRIMINANT, WINDOW_DISCRIMINANT, EXTRA_TREES}
    for each in found.values():
        np.testing.assert_allclose(each.probability_RVK[:, :2].sum(-1), 1.0, atol=1e-5)
        assert not each.probability_RVK[:, 0, 1].any()
        assert set(np.unique(each.grade_RV[:, 0])) == {0, 2}
        assert (each.grade_RV[:, 2] == -1).all()  # the tank has no grades
    probability_WK = found[EXTRA_TREES].probability_RVK[:, 0]
    assert ((probability_WK > 0.0) & (probability_WK < 1.0)).any()


def test_baselines_are_fitted_to_the_training_windows_alone(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    one_grade_W = np.flatnonzero(windows.labels.grade_WV[:, 0] == 0)
    part = predict_holdout(
        small().model,
        small().spec,
        windows,
        "all",
        one_grade_W,
        np.arange(60),
        probes=0,
        removal_probes=0,
    )
    for each in baselines(windows, [part], ("mean",), trees=5).values():
        assert (each.grade_RV[:, 0] == -1).all()  # one grade only
        assert (each.grade_RV[:, 1] >= 0).all()
