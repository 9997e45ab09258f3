"""References fitted to training windows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.features.binning import Doubles, Floats
from app.features.references import Moments
from tests.small import graded, graded_windows, press, wave
from train.config import TrainConfig
from train.data import shards as parquet
from train.data.reference import fit_limits, fit_spec, spec_of
from train.data.windows import write_windows

CONFIG = TrainConfig(equipment="press-1", statistics=("mean", "spread"))


def test_machine_with_a_cycle_has_a_row_for_each_step() -> None:
    values_WSN = wave(30, 4)
    reference = spec_of([values_WSN], press(), CONFIG).references["press"]["P1"]
    steps_WT = values_WSN[:, 0].reshape(30, 4, 3).mean(-1)
    np.testing.assert_allclose([row[0] for row in reference.mean], steps_WT.mean(0), rtol=1e-6)
    np.testing.assert_allclose(
        [row[0] for row in reference.spread], np.maximum(steps_WT.std(0), 0.04), rtol=1e-4
    )
    np.testing.assert_allclose([row[0] for row in reference.low], steps_WT.min(0), rtol=1e-6)


def test_machine_without_a_cycle_has_one_row() -> None:
    equipment = press().model_copy(update={"cycle_s": None})
    assert len(spec_of([wave(5, 4)], equipment, CONFIG).references["press"]["P1"].mean) == 1


def test_spread_never_falls_below_its_floor() -> None:
    values_WSN = wave(5, 4)
    values_WSN[:, 1] = 0.0
    reference = spec_of([values_WSN], press(), CONFIG).references["press"]["Q1"]
    assert min(min(row) for row in reference.spread) == 1e-4 * 400
    assert reference.flat == 1.0


def test_sensor_without_readings_has_no_reference() -> None:
    values_WSN = wave(5, 4)
    values_WSN[:, 2] = np.nan
    assert set(spec_of([values_WSN], press(), CONFIG).references["press"]) == {"P1", "Q1", "T1"}


@pytest.mark.parametrize("cycle_s", [12.0, None])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_batches_equal_all_windows_at_once(cycle_s: float | None, size: int) -> None:
    equipment, values_WSN = (
        press().model_copy(update={"cycle_s": cycle_s}),
        with_holes(wave(40, 4) + 1000.0),
    )
    at_once = spec_of([values_WSN], equipment, CONFIG).references["press"]
    batches = [values_WSN[start : start + size] for start in range(0, 40, size)]
    streamed = spec_of(batches, equipment, CONFIG).references["press"]
    assert streamed.keys() == at_once.keys()
    for sensor_id, reference in at_once.items():
        for name in ("mean", "spread", "low", "high", "flat", "roughness", "steps"):
            # a level of 1000 and a spread of 1 leave 12 digits of float64; tables have 7
            np.testing.assert_allclose(
                getattr(streamed[sensor_id], name), getattr(reference, name), rtol=2e-7
            )


@pytest.mark.parametrize("cycle_s", [12.0, None])
def test_steps_are_the_fewest_with_readings_that_a_thousandth_of_windows_had(
    cycle_s: float | None,
) -> None:
    values_WSN = wave(2000, 4)
    values_WSN[:1000, 1, 6:] = np.nan  # readings in 2 of 4 steps
    values_WSN[1, 2, 3:] = np.nan  # readings in 1 of 4 steps, once in 2000
    values_WSN[:3, 3] = np.nan
    equipment = press().model_copy(update={"cycle_s": cycle_s})
    found = spec_of([values_WSN], equipment, CONFIG).references["press"]
    assert [found[name].steps for name in ("P1", "Q1", "P2", "T1")] == [1.0, 0.5, 1.0, 1.0]


def with_holes(values_WSN: Floats) -> Floats:
    values_WSN[3, :, :3] = np.nan
    values_WSN[5] = np.nan
    values_WSN[9, 2, 4:] = np.nan
    return values_WSN


def test_only_the_chosen_windows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 4 * 4 * 4 * 12)
    values_WSN = with_holes(wave(30, 4))
    values_WSN[20] = 250.0
    labels = graded(np.zeros((30, 3), np.int64))
    windows = write_windows(tmp_path, press(), ("press-1",), labels, [values_WSN])
    chosen = np.flatnonzero(np.arange(30) != 20)
    assert fit_spec(windows, chosen, CONFIG) == spec_of([values_WSN[chosen]], press(), CONFIG)


def test_no_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one window of 'press'"):
        fit_spec(graded_windows(tmp_path), np.empty(0, np.int64), CONFIG)


@given(
    st.lists(
        st.lists(st.one_of(st.just(np.nan), st.floats(-1e3, 1e3)), max_size=8),
        min_size=1,
        max_size=6,
    )
)
def test_merged_moments_are_those_of_all(parts: list[list[float]]) -> None:
    joined = Moments.of(
        np.array([value for part in parts for value in part], np.float64).reshape(-1, 1)
    )
    merged = Moments.of(np.array(parts[0], np.float64).reshape(-1, 1))
    for part in parts[1:]:
        merged = merged.merged(Moments.of(np.array(part, np.float64).reshape(-1, 1)))
    assert merged.count_X == joined.count_X
    if joined.count_X[0]:
        same(merged.mean_X, joined.mean_X)
        same(merged.spread_X, joined.spread_X)
        assert (merged.low_X, merged.high_X) == (joined.low_X, joined.high_X)


def same(found: Doubles, expected: Doubles) -> None:
    # sums of numbers up to 1000 differ by rounding; the root turns 1e-13 into 3e-7
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-5)


def test_limits_contain_most_holdout_windows() -> None:
    exceedance_WS = np.tile(np.linspace(0, 1, 101, dtype=np.float32)[:, None], (1, 4))
    exceedance_WS[:, 3] = np.nan
    limits = fit_limits(exceedance_WS, press(), share=0.9)
    assert limits.window == np.float32(0.9)
    assert set(limits.sensors) == {"P1", "Q1", "P2"}
