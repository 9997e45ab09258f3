"""Features against values worked out by hand, and properties over any readings."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from app.errors import WindowError
from app.features import (
    Fault,
    FeatureSpec,
    Floats,
    bin_series,
    find_faults,
    normalise,
    range_excess,
    step_statistics,
    window_features,
)
from tests.small import press, small, wave
from train.config import TrainConfig
from train.reference import fit_spec

ALL = ("mean", "shift", "spread", "dip", "peak", "slope", "start", "end")
NAN = np.float32(np.nan)


def statistics(values: list[float], steps: int = 1) -> Floats:
    return step_statistics(np.array([values], np.float32), steps, ALL)[0][0]


def test_readings_of_a_bin_are_summed_in_time_order_and_not_pairwise() -> None:
    values = np.array([1e16, 1.0, -1e16, 1.0] * 40, np.float64)
    offsets = np.arange(len(values), dtype=np.int64)[::-1]
    total = 0.0
    for value in values[::-1].tolist():
        total += value
    assert bin_series(offsets, values, 1_000_000, 1).tolist() == [np.float32(total / len(values))]
    assert total != values.sum()


def test_bins_are_half_open_and_those_without_readings_are_missing() -> None:
    offsets = np.array([-1, 0, 999_999, 1_000_000, 3_000_000], np.int64)
    binned = bin_series(offsets, np.array([9.0, 1.0, 2.0, 5.0, 9.0]), 1_000_000, 3)
    np.testing.assert_array_equal(binned, np.array([1.5, 5.0, NAN], np.float32))
    assert binned.dtype == np.float32


def test_a_reading_that_is_no_number_is_no_reading() -> None:
    binned = bin_series(np.array([0, 1], np.int64), np.array([np.nan, 4.0]), 10, 1)
    assert binned.tolist() == [4.0]


def test_statistics_of_one_step_by_hand() -> None:
    # 1 2 6 7: mean 4, deviations -3 -2 2 3, slope 2.2 a bin over 3 bins
    np.testing.assert_allclose(statistics([1, 2, 6, 7]), [[4, 0, np.sqrt(6.5), -3, 3, 6.6, -3, 3]], rtol=1e-6)


def test_shift_is_the_distance_from_the_mean_of_the_window() -> None:
    found = statistics([1, 1, 5, 5], steps=2)
    assert found[:, ALL.index("shift")].tolist() == [-2, 2]


def test_gaps_leave_statistics_of_what_is_there() -> None:
    found, coverage = step_statistics(np.array([[NAN, 2, NAN, 6, NAN, NAN, NAN, NAN]], np.float32), 2, ALL)
    # bins 1 and 3: mean 4, slope 2 a bin over 3 bins
    np.testing.assert_allclose(found[0, 0], [4, 0, 2, -2, 2, 6, -2, 2])
    assert np.isnan(found[0, 1]).all()
    assert coverage.tolist() == [[0.5, 0.0]]


def test_window_that_is_no_multiple_of_its_steps_is_refused() -> None:
    with pytest.raises(WindowError, match="whole multiple of 3 bins, found 7"):
        step_statistics(np.zeros((1, 7), np.float32), 3, ALL)


@given(arrays(np.float32, (2, 12), elements=st.floats(-1e6, 1e6, width=32)), st.floats(-1e3, 1e3))
def test_only_the_mean_moves_with_an_offset(values_SN: Floats, offset: float) -> None:
    moved = (values_SN.astype(np.float64) + offset).astype(np.float32)
    before, after = (step_statistics(each, 3, ALL)[0][..., 1:] for each in (values_SN, moved))
    np.testing.assert_allclose(before, after, atol=1.0)  # float32 at 1e6 resolves 0.06


@given(arrays(np.float32, (4, 12), elements=st.floats(-300, 300, width=32) | st.just(np.nan)))
def test_features_are_finite_clipped_and_zero_where_masked(values_SN: Floats) -> None:
    made = small()
    features = window_features(values_SN, made.equipment, made.spec)
    assert np.isfinite(features.x_STF).all()
    assert np.abs(features.x_STF[..., :-1]).max() <= made.spec.clip
    assert (features.x_STF[~features.mask_ST] == 0).all()
    assert set(features.missing) == {
        name for name, row in zip(made.equipment.sensor_ids, values_SN, strict=True) if np.isnan(row).all()
    }


@given(st.permutations(range(4)))
def test_features_of_a_sensor_do_not_depend_on_the_others(order: list[int]) -> None:
    made = small()
    values_SN = wave(1, 4)[0]
    whole = window_features(values_SN, made.equipment, made.spec)
    for index in order[:2]:
        alone_SN = np.full_like(values_SN, NAN)
        alone_SN[index] = values_SN[index]
        alone = window_features(alone_SN, made.equipment, made.spec)
        assert alone.x_STF[index].tobytes() == whole.x_STF[index].tobytes()


def test_normalisation_by_hand() -> None:
    made = small()
    reference = made.spec.references["press"]["P1"]
    raw_STF = np.zeros((4, 4, 3), np.float32)
    raw_STF[0] = np.array(reference.mean) + 2 * np.array(reference.spread)
    features = normalise(raw_STF, np.ones((4, 4), np.float32), made.equipment, made.spec)
    np.testing.assert_allclose(features.x_STF[0, :, :3], 2.0, rtol=1e-3)
    assert features.x_STF[0, :, 3].tolist() == [0.0] * 4


def test_sensor_without_a_reference_is_scaled_by_its_range_and_told() -> None:
    equipment = press().model_copy(update={"design": "other"})
    spec = small().spec
    values_SN = np.full((4, 12), 300.0, np.float32)
    values_SN[1] = 100.0
    features = window_features(values_SN, equipment, spec)
    assert features.unreferenced == equipment.sensor_ids
    assert features.x_STF[0, 0, 0] == 1.0  # upper end of -100 to 300
    assert features.x_STF[1, 0, 0] == 0.0  # its middle
    assert np.isnan(features.excess_S).all()


def test_frozen_rough_and_impossible_sensors_are_masked_and_told() -> None:
    made = small()
    values_SN = wave(1, 4)[0]
    values_SN[0] = 10.0
    values_SN[1] += 40 * (-1.0) ** np.arange(12)
    values_SN[2, 5] = 301.0
    features = window_features(values_SN, made.equipment, made.spec)
    assert features.faulty == (Fault("P1", "frozen"), Fault("Q1", "noisy"), Fault("P2", "out_of_range"))
    assert features.mask_ST.any(axis=1).tolist() == [False, False, False, True]
    assert np.isnan(features.excess_S[:3]).all()


def test_sensor_that_rests_by_nature_is_not_frozen() -> None:
    equipment = press()
    values_WSN = wave(20, 4)
    values_WSN[::2, 0] = 0.0
    spec = fit_spec(values_WSN, equipment, TrainConfig(equipment="press-1"))
    assert find_faults(values_WSN[0], equipment, spec) == ()


def test_excess_by_hand() -> None:
    reference = small().spec.references["press"]["P1"]
    inside = np.array(reference.low, np.float64)
    assert range_excess(inside, reference) == 0.0
    # half a spread beyond in one of 12 numbers
    beyond = inside.copy()
    beyond[1, 2] -= 0.5 * reference.spread[1][2]
    assert range_excess(beyond, reference) == pytest.approx(0.5 / 12, rel=1e-6)
    assert range_excess(np.full_like(inside, 1e9), reference) == 1.0
    assert np.isnan(range_excess(np.full_like(inside, np.nan), reference))


def test_values_of_another_shape_are_refused() -> None:
    made = small()
    with pytest.raises(WindowError, match="4 sensors x 12 bins for 'press-1', found 4 x 11"):
        window_features(np.zeros((4, 11), np.float32), made.equipment, made.spec)


def test_other_unit_or_steps_than_trained_are_refused() -> None:
    made = small()
    data = made.equipment.model_dump(mode="json")
    data["components"][0]["sensors"][0]["unit"] = "psi"
    with pytest.raises(WindowError, match=r"'press.P1' as pressure in bar, the equipment has it as pressure in psi"):
        window_features(wave(1, 4)[0], type(made.equipment).model_validate_json(json.dumps(data)), made.spec)
    with pytest.raises(WindowError, match=r"windows of 4 steps for 'press.P1', the equipment has 6"):
        window_features(wave(1, 4)[0], made.equipment.model_copy(update={"steps": 6}), made.spec)


def test_spec_survives_its_file() -> None:
    spec = small().spec
    assert FeatureSpec.model_validate_json(spec.model_dump_json()) == spec


def test_spec_with_a_table_of_another_width_is_refused() -> None:
    data = json.loads(small().spec.model_dump_json())
    data["references"]["press"]["P1"]["low"][0].pop()
    with pytest.raises(ValidationError, match=r"references.press.P1"):
        FeatureSpec.model_validate_json(json.dumps(data))
