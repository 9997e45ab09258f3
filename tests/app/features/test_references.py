"""Moments of sensors over windows, and baselines made from them."""

import numpy as np

from app.features.references import LEAST_WINDOWS, baseline_of, observe
from app.features.statistics import ALL_STATISTICS
from tests.small import press, wave


def test_baseline_has_every_statistic_of_each_sensor_with_enough_windows() -> None:
    values_WSN = wave(LEAST_WINDOWS, 4)
    values_WSN[0, 2] = np.nan  # one window too few
    baseline = baseline_of(observe(values_WSN, press()), press())
    assert baseline.statistics == ALL_STATISTICS
    assert set(baseline.sensors) == {"P1", "Q1", "T1"}
    moments = baseline.sensors["P1"]
    steps_WT = values_WSN[:, 0].reshape(LEAST_WINDOWS, 4, 3).mean(-1)
    np.testing.assert_allclose([row[0] for row in moments.mean], steps_WT.mean(0), rtol=1e-6)
    np.testing.assert_allclose([row[0] for row in moments.spread], steps_WT.std(0), rtol=1e-4)
    np.testing.assert_allclose(moments.deviation, values_WSN[:, 0].std(), rtol=1e-4)
    assert moments.windows == LEAST_WINDOWS


def test_equal_baselines_have_equal_digests_and_survive_json() -> None:
    first, second, other = (
        baseline_of(observe(wave(30, 4, seed=seed), press()), press()) for seed in (0, 0, 1)
    )
    assert first.digest == second.digest != other.digest
    again = type(first).model_validate_json(first.model_dump_json())
    assert again == first
    assert again.digest == first.digest
