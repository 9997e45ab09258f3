"""Statistics of steps against hand-computed values, and properties over any bins."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.core.errors import WindowError
from app.features.binning import Floats
from app.features.statistics import (
    ALL_STATISTICS,
    STATISTICS,
    Statistic,
    flatness,
    roughness,
    step_statistics,
)
from train.config import TrainConfig

ALL = ("mean", "shift", "spread", "dip", "peak", "slope", "start", "end")
NAN = np.float32(np.nan)


def statistics(values: list[float], steps: int = 1) -> Floats:
    return step_statistics(np.array([values], np.float32), steps, ALL)[0][0]


def test_table_of_statistics_defines_every_name_of_the_spec() -> None:
    assert get_args(Statistic) == ALL_STATISTICS
    assert set(TrainConfig(equipment="press-1").statistics) <= set(STATISTICS)


def test_new_statistic_needs_only_an_entry_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATISTICS, "count", lambda step: step.count_ST.astype(np.float64))
    values_SN = np.array([[NAN, 2, 4, 6]], np.float32)
    found_STF, _ = step_statistics(values_SN, 2, ("mean", "count"))
    assert found_STF[0].tolist() == [[2, 1], [5, 2]]


def test_statistics_of_one_step_have_the_hand_computed_values() -> None:
    # 1 2 6 7: mean 4, deviations -3 -2 2 3, slope 2.2 a bin over 3 bins
    np.testing.assert_allclose(
        statistics([1, 2, 6, 7]), [[4, 0, np.sqrt(6.5), -3, 3, 6.6, -3, 3]], rtol=1e-6
    )


def test_shift_is_the_distance_from_the_mean_of_the_window() -> None:
    found = statistics([1, 1, 5, 5], steps=2)
    assert found[:, ALL.index("shift")].tolist() == [-2, 2]


def test_statistics_ignore_gaps() -> None:
    found, coverage = step_statistics(
        np.array([[NAN, 2, NAN, 6, NAN, NAN, NAN, NAN]], np.float32), 2, ALL
    )
    # bins 1 and 3: mean 4, slope 2 a bin over 3 bins
    np.testing.assert_allclose(found[0, 0], [4, 0, 2, -2, 2, 6, -2, 2])
    assert np.isnan(found[0, 1]).all()
    assert coverage.tolist() == [[0.5, 0.0]]


def test_window_that_is_no_multiple_of_its_steps_raises() -> None:
    with pytest.raises(WindowError, match="whole multiple of 3 bins, found 7"):
        step_statistics(np.zeros((1, 7), np.float32), 3, ALL)


@given(arrays(np.float32, (2, 12), elements=st.floats(-1e6, 1e6, width=32)), st.floats(-1e3, 1e3))
def test_offset_changes_only_the_mean(values_SN: Floats, offset: float) -> None:
    moved = (values_SN.astype(np.float64) + offset).astype(np.float32)
    before, after = (step_statistics(each, 3, ALL)[0][..., 1:] for each in (values_SN, moved))
    np.testing.assert_allclose(before, after, atol=1.0)  # float32 at 1e6 resolves 0.06


def test_flatness_is_the_share_of_the_longest_run_of_readings() -> None:
    # a gap does not end a run; fewer than three readings give NaN
    rows = [
        [1, 1, NAN, 1, 2, 2],
        [1, 2, 3, 4, 5, 5],
        [NAN, 3, NAN, NAN, 3, NAN],
        [7, 7, 7, 7, 7, 7],
    ]
    np.testing.assert_array_equal(flatness(np.array(rows, np.float32)), [3 / 5, 2 / 6, np.nan, 1.0])
    np.testing.assert_array_equal(flatness(np.full((2, 6), NAN)), [np.nan, np.nan])


@pytest.mark.parametrize(("bins", "steps"), [(8, 1), (60, 12), (20_000, 20), (100, 100)])
def test_statistics_of_many_windows_equal_those_of_single_windows_bitwise(
    bins: int, steps: int
) -> None:
    generator = np.random.default_rng(bins)
    values_WSN = generator.normal(5, 3, (3, 2, bins)).astype(np.float32)
    values_WSN[generator.random(values_WSN.shape) < 0.2] = np.nan
    raw_WSTF, coverage_WST = step_statistics(values_WSN, steps, ALL)
    for values_SN, raw_STF, coverage_ST in zip(values_WSN, raw_WSTF, coverage_WST, strict=True):
        for mine, row_TF, row_T in zip(values_SN, raw_STF, coverage_ST, strict=True):
            alone_TF, alone_T = (each[0] for each in step_statistics(mine[None], steps, ALL))
            assert (alone_TF.tobytes(), alone_T.tobytes()) == (row_TF.tobytes(), row_T.tobytes())
    assert roughness(values_WSN)[1].tobytes() == roughness(values_WSN[1]).tobytes()
    assert flatness(values_WSN)[1].tobytes() == flatness(values_WSN[1]).tobytes()
