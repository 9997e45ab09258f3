"""Features against values worked out by hand, and properties over any readings."""

import json
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from app.core.errors import WindowError
from app.features.binning import Floats, bin_series, flatness, roughness, step_statistics
from app.features.extraction import (
    FAULT_REASONS,
    VALUES_AT_ONCE,
    Fault,
    SensorFeatures,
    batch_features,
    find_faults,
    normalise,
    plan_features,
    range_exceedance,
    window_features,
)
from app.features.spec import FeatureSpec, Reference
from app.schemas.equipment import Equipment
from tests.small import Small, press, small, wave
from train.config import TrainConfig
from train.data.reference import spec_of

ALL = ("mean", "shift", "spread", "dip", "peak", "slope", "start", "end")
NAN = np.float32(np.nan)


@cache
def fitted() -> Small:
    """Return the machine, made once: an example of a property must not wait for a fit."""
    return small()


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
    np.testing.assert_allclose(
        statistics([1, 2, 6, 7]), [[4, 0, np.sqrt(6.5), -3, 3, 6.6, -3, 3]], rtol=1e-6
    )


def test_shift_is_the_distance_from_the_mean_of_the_window() -> None:
    found = statistics([1, 1, 5, 5], steps=2)
    assert found[:, ALL.index("shift")].tolist() == [-2, 2]


def test_gaps_leave_statistics_of_what_is_there() -> None:
    found, coverage = step_statistics(
        np.array([[NAN, 2, NAN, 6, NAN, NAN, NAN, NAN]], np.float32), 2, ALL
    )
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
    made = fitted()
    features = window_features(values_SN, made.equipment, made.spec)
    assert np.isfinite(features.x_STF).all()
    assert np.abs(features.x_STF[..., :-1]).max() <= made.spec.clip
    assert (features.x_STF[~features.mask_ST] == 0).all()
    assert set(features.missing) == {
        name
        for name, row in zip(made.equipment.sensor_ids, values_SN, strict=True)
        if np.isnan(row).all()
    }


@given(st.permutations(range(4)))
def test_features_of_a_sensor_do_not_depend_on_the_others(order: list[int]) -> None:
    made = fitted()
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
    raw_WSTF = np.zeros((1, 4, 4, 3), np.float32)
    raw_WSTF[0, 0] = np.array(reference.mean) + 2 * np.array(reference.spread)
    plan = plan_features(made.equipment, made.spec)
    features = normalise(raw_WSTF, np.ones((1, 4, 4), np.float32), plan, np.zeros((1, 4), np.uint8))
    np.testing.assert_allclose(features.x_WSTF[0, 0, :, :3], 2.0, rtol=1e-3)
    assert features.x_WSTF[0, 0, :, 3].tolist() == [0.0] * 4


def test_sensor_without_a_reference_is_scaled_by_its_range_and_told() -> None:
    equipment = press().model_copy(update={"design": "other"})
    spec = small().spec
    values_SN = np.full((4, 12), 300.0, np.float32)
    values_SN[1] = 100.0
    features = window_features(values_SN, equipment, spec)
    assert features.unreferenced == equipment.sensor_ids
    assert features.x_STF[0, 0, 0] == 1.0  # upper end of -100 to 300
    assert features.x_STF[1, 0, 0] == 0.0  # its middle
    assert np.isnan(features.exceedance_S).all()


def test_frozen_rough_and_impossible_sensors_are_masked_and_told() -> None:
    made = small()
    values_SN = wave(1, 4)[0]
    values_SN[0] = 10.0
    values_SN[1] += 40 * (-1.0) ** np.arange(12)
    values_SN[2, 5] = 301.0
    features = window_features(values_SN, made.equipment, made.spec)
    assert features.faulty == (
        Fault("P1", "frozen"),
        Fault("Q1", "noisy"),
        Fault("P2", "out_of_range"),
    )
    assert features.mask_ST.any(axis=1).tolist() == [False, False, False, True]
    assert np.isnan(features.exceedance_S[:3]).all()


def test_sensor_that_rests_by_nature_is_not_frozen() -> None:
    equipment = press()
    values_WSN = wave(20, 4)
    values_WSN[::2, 0] = 0.0
    spec = spec_of([values_WSN], equipment, TrainConfig(equipment="press-1"))
    assert not find_faults(values_WSN, plan_features(equipment, spec)).any()


def test_excess_by_hand() -> None:
    made = small()
    plan = plan_features(made.equipment, made.spec)
    reference = made.spec.references["press"]["P1"]
    inside = np.array(reference.low, np.float64)

    def excess(raw_TF: Floats) -> float:
        there_T = np.isfinite(raw_TF).all(-1)
        return float(
            range_exceedance(np.tile(raw_TF, (1, 4, 1, 1)), np.tile(there_T, (1, 4, 1)), plan)[0, 0]
        )

    assert excess(inside) == 0.0
    # half a spread beyond in one of 12 numbers
    beyond = inside.copy()
    beyond[1, 2] -= 0.5 * reference.spread[1][2]
    assert excess(beyond) == pytest.approx(0.5 / 12, rel=1e-6)
    assert excess(np.full_like(inside, 1e9)) == 1.0
    assert np.isnan(excess(np.full_like(inside, np.nan)))


def test_values_of_another_shape_are_refused() -> None:
    made = small()
    with pytest.raises(WindowError, match="4 sensors x 12 bins for 'press-1', found 4 x 11"):
        window_features(np.zeros((4, 11), np.float32), made.equipment, made.spec)


def test_other_unit_or_steps_than_trained_are_refused() -> None:
    made = small()
    data = made.equipment.model_dump(mode="json")
    data["components"][0]["sensors"][0]["unit"] = "psi"
    with pytest.raises(
        WindowError, match=r"'press.P1' as pressure in bar, the equipment has it as pressure in psi"
    ):
        window_features(
            wave(1, 4)[0], type(made.equipment).model_validate_json(json.dumps(data)), made.spec
        )
    with pytest.raises(
        WindowError, match=r"windows of 4 steps for 'press.P1', the equipment has 6"
    ):
        window_features(wave(1, 4)[0], made.equipment.model_copy(update={"steps": 6}), made.spec)


def test_flatness_is_the_share_of_the_longest_run_of_readings() -> None:
    # a gap does not end a run, below three readings nothing is told
    rows = [
        [1, 1, NAN, 1, 2, 2],
        [1, 2, 3, 4, 5, 5],
        [NAN, 3, NAN, NAN, 3, NAN],
        [7, 7, 7, 7, 7, 7],
    ]
    np.testing.assert_array_equal(flatness(np.array(rows, np.float32)), [3 / 5, 2 / 6, np.nan, 1.0])
    np.testing.assert_array_equal(flatness(np.full((2, 6), NAN)), [np.nan, np.nan])


def plain_statistics(values_N: Floats, steps: int, names: tuple[str, ...]) -> Floats:
    bins_TN = values_N.astype(np.float64).reshape(steps, -1)
    width = bins_TN.shape[1]
    found = np.full((steps, len(names)), np.nan, np.float32)
    level = np.where(np.isnan(values_N), 0.0, values_N.astype(np.float64)).sum() / max(
        1, np.isfinite(values_N).sum()
    )
    for step, bins_N in enumerate(bins_TN):
        there = ~np.isnan(bins_N)
        count = there.sum()
        if not count:
            continue
        mean = np.where(there, bins_N, 0.0).sum() / count
        centred = np.where(there, bins_N - mean, 0.0)
        place = np.where(
            there,
            np.arange(width) - np.where(there, np.arange(float(width)), 0.0).sum() / count,
            0.0,
        )
        power = (place**2).sum()
        first, last = np.flatnonzero(there)[[0, -1]]
        told = {
            "mean": mean,
            "shift": mean - level,
            "spread": np.sqrt((centred**2).sum() / count),
            "dip": centred[there].min(),
            "peak": centred[there].max(),
            "slope": (place * centred).sum() / (power or 1.0) * (width - 1),
            "start": centred[first],
            "end": centred[last],
        }
        found[step] = [told[name] for name in names]
    return found


def plain_fault(values_N: Floats, limits: tuple[float, float], reference: Reference) -> str | None:
    there_R = values_N[np.isfinite(values_N)]
    if (there_R < limits[0]).any() or (there_R > limits[1]).any():
        return "out_of_range"
    if len(there_R) < 3:
        return None
    longest = run = 1
    for before, after in pairwise(there_R):
        run = run + 1 if after == before else 1
        longest = max(longest, run)
    flat = longest / len(there_R)
    if flat > reference.flat + 0.2 or (flat == 1.0 and reference.flat < 1.0):
        return "frozen"
    bend_N = np.abs(np.diff(values_N.astype(np.float64), n=2))
    there_N = np.isfinite(bend_N)
    rough = np.where(there_N, bend_N, 0.0).sum() / max(1, there_N.sum())
    return "noisy" if rough > 2.0 * reference.roughness else None


def plain_features(
    values_SN: Floats, equipment: Equipment, spec: FeatureSpec
) -> list[tuple[bytes, bytes, str | None]]:
    """Return of each sensor the bytes of its features and of its excess, and its fault."""
    T, rows = equipment.steps, []
    for (_, sensor), row_N in zip(equipment.sensors, values_SN, strict=True):
        values_N = np.where(np.isfinite(row_N), row_N, NAN)
        reference = spec.references[equipment.design][sensor.sensor_id]
        raw_TF = plain_statistics(values_N, T, spec.statistics)
        coverage_T = (np.isfinite(values_N).reshape(T, -1).sum(1) / (equipment.bins // T)).astype(
            np.float32
        )
        fault = plain_fault(values_N, sensor.range, reference)
        z_TF = np.clip(
            (raw_TF - np.array(reference.mean)) / np.array(reference.spread), -spec.clip, spec.clip
        )
        x_TF = np.concatenate((z_TF, coverage_T[:, None] - 1.0), axis=1)
        there_T = coverage_T > 0
        x_TF[~there_T | (fault is not None)] = 0.0
        low, high, spread = (
            np.broadcast_to(np.array(table), raw_TF.shape)[there_T]
            for table in (reference.low, reference.high, reference.spread)
        )
        there_RF = raw_TF[there_T].astype(np.float64)
        beyond = np.minimum(
            np.maximum(np.maximum(low - there_RF, there_RF - high), 0.0) / spread, 1.0
        )
        excess = beyond.mean() if there_T.any() and fault is None else np.nan
        rows.append((x_TF.astype(np.float32).tobytes(), np.float32(excess).tobytes(), fault))
    return rows


def told(features: SensorFeatures, equipment: Equipment) -> list[tuple[bytes, bytes, str | None]]:
    faults = {fault.sensor_id: fault.reason for fault in features.faulty}
    return [
        (x_TF.tobytes(), excess.tobytes(), faults.get(sensor_id))
        for x_TF, excess, sensor_id in zip(
            features.x_STF, features.exceedance_S, equipment.sensor_ids, strict=True
        )
    ]


def disturbed(windows: int, seed: int) -> Floats:
    """Return waves of which most have gaps, a still sensor, a rough one, an impossible value or another level."""
    generator = np.random.default_rng(seed)
    values_WSN = wave(windows, 4, seed=seed)
    for index, values_SN in enumerate(values_WSN):
        sensor = int(generator.integers(4))
        match index % 6:
            case 1:
                values_SN[generator.random(values_SN.shape) < generator.random()] = np.nan
            case 2:
                values_SN[sensor] = 10.0
            case 3:
                values_SN[sensor] += 40 * (-1.0) ** np.arange(values_SN.shape[1])
            case 4:
                values_SN[sensor, 5], values_SN[:, :4] = 301.0, np.inf
            case 5:
                values_WSN[index] *= np.float32(generator.normal(1, 0.1))
    return values_WSN


def whole(statistics: tuple[str, ...]) -> tuple[Equipment, FeatureSpec]:
    equipment = press()
    config = TrainConfig.model_validate({"equipment": "press-1", "statistics": statistics})
    return equipment, spec_of([wave(40, 4)], equipment, config)


@pytest.mark.parametrize("seed", range(3))
def test_many_windows_at_once_have_bitwise_the_features_of_plain_words(seed: int) -> None:
    equipment, spec = whole(ALL)
    plan = plan_features(equipment, spec)
    values_WSN = disturbed(48, seed)
    expected = [plain_features(values_SN, equipment, spec) for values_SN in values_WSN]
    assert {fault for rows in expected for _, _, fault in rows} == {None, *FAULT_REASONS}
    for size in (1, 5, 48):
        for start in range(0, 48, size):
            batch = batch_features(values_WSN[start : start + size], plan)
            for index in range(len(batch.x_WSTF)):
                assert told(batch.window(index, plan), equipment) == expected[start + index]


@given(
    arrays(
        np.float32,
        (3, 4, 12),
        elements=st.floats(-300, 300, width=32) | st.just(np.nan) | st.just(np.inf),
    ),
    st.permutations(range(3)),
)
def test_features_of_a_window_do_not_depend_on_the_others(
    values_WSN: Floats, order: list[int]
) -> None:
    made = fitted()
    plan = plan_features(made.equipment, made.spec)
    together = batch_features(values_WSN[order], plan)
    for index, place in enumerate(order):
        alone = batch_features(values_WSN[place : place + 1], plan)
        for name in alone.__slots__:
            assert getattr(alone, name)[0].tobytes() == getattr(together, name)[index].tobytes()


@pytest.mark.parametrize(("bins", "steps"), [(8, 1), (60, 12), (20_000, 20), (100, 100)])
def test_statistics_of_many_windows_are_bitwise_those_of_each(bins: int, steps: int) -> None:
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


def test_more_windows_than_are_worked_on_in_one_pass_and_none_at_all() -> None:
    made = small()
    plan = plan_features(made.equipment, made.spec)
    windows = VALUES_AT_ONCE // (4 * 12) + 7
    values_WSN = np.resize(disturbed(12, 0), (windows, 4, 12))
    features = batch_features(values_WSN, plan)
    assert features.x_WSTF.shape == (windows, 4, 4, 4)
    for name in features.__slots__:
        few = getattr(batch_features(values_WSN[-9:], plan), name)
        assert getattr(features, name)[-9:].tobytes() == few.tobytes()
    assert batch_features(values_WSN[:0], plan).x_WSTF.shape == (0, 4, 4, 4)


def test_spec_survives_its_file() -> None:
    spec = small().spec
    assert FeatureSpec.model_validate_json(spec.model_dump_json()) == spec


def test_spec_with_a_table_of_another_width_is_refused() -> None:
    data = json.loads(small().spec.model_dump_json())
    data["references"]["press"]["P1"]["low"][0].pop()
    with pytest.raises(ValidationError, match=r"references.press.P1"):
        FeatureSpec.model_validate_json(json.dumps(data))
