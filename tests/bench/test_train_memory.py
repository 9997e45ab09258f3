"""The history of the measurement is repeated without overlap."""

from pathlib import Path

import numpy as np

from tests.bench.train_memory import CYCLE_US, _repeated
from tests.small import graded_windows


def test_repeated_history_has_the_same_windows_later(tmp_path: Path) -> None:
    first = graded_windows(tmp_path / "1", repeats=3)
    windows = _repeated(first, tmp_path / "3", 3)
    assert len(windows) == 3 * len(first)
    assert (np.diff(windows.labels.start_us_W) > 0).all()
    span_us = int(first.labels.start_us_W[-1] - first.labels.start_us_W[0]) + CYCLE_US
    assert windows.labels.start_us_W[2 * len(first)] == first.labels.start_us_W[0] + 2 * span_us
    values_WSN = first.values(np.arange(len(first)))
    np.testing.assert_array_equal(
        windows.values(np.arange(len(windows))), np.concatenate([values_WSN] * 3)
    )
    np.testing.assert_array_equal(windows.labels.grade_WV[-1], first.labels.grade_WV[-1])
