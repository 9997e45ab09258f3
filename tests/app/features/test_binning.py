"""Readings to bins."""

import numpy as np

from app.features.binning import bin_series

NAN = np.float32(np.nan)


def test_readings_of_a_bin_are_summed_in_time_order_and_not_pairwise() -> None:
    values = np.array([1e16, 1.0, -1e16, 1.0] * 40, np.float64)
    offsets = np.arange(len(values), dtype=np.int64)[::-1]
    total = 0.0
    for value in values[::-1].tolist():
        total += value
    assert bin_series(offsets, values, 1_000_000, 1).tolist() == [np.float32(total / len(values))]
    assert total != values.sum()


def test_bins_are_half_open_and_missing_without_readings() -> None:
    offsets = np.array([-1, 0, 999_999, 1_000_000, 3_000_000], np.int64)
    binned = bin_series(offsets, np.array([9.0, 1.0, 2.0, 5.0, 9.0]), 1_000_000, 3)
    np.testing.assert_array_equal(binned, np.array([1.5, 5.0, NAN], np.float32))
    assert binned.dtype == np.float32


def test_nan_reading_is_ignored() -> None:
    binned = bin_series(np.array([0, 1], np.int64), np.array([np.nan, 4.0]), 10, 1)
    assert binned.tolist() == [4.0]
