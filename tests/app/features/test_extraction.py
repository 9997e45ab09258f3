"""Features of windows against a plain implementation, and properties over any bins."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.features.binning import Floats
from app.features.extraction import (
    VALUES_AT_ONCE,
    batch_features,
    normalise,
)
from app.features.normalisation import Reference
from app.features.sensor_faults import FAULT_REASONS
from app.features.sensor_screening import screen
from app.features.spec import FeatureSpec, plan_features
from app.schemas.equipment import Equipment
from tests.features import SensorFeatures, window_features, window_of
from tests.small import Small, press, small, wave
from train.config import TrainConfig
from train.data.reference import spec_of

ALL = ("mean", "shift", "spread", "dip", "peak", "slope", "start", "end")
NAN = np.float32(np.nan)


@cache
def fitted() -> Small:
    """Return the machine with its spec, fitted once for all examples."""
    return small()


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


def test_normalisation_has_the_hand_computed_values() -> None:
    made = small()
    reference = made.spec.references["press"]["P1"]
    raw_WSTF = np.zeros((1, 4, 4, 3), np.float32)
    raw_WSTF[0, 0] = np.array(reference.mean) + 2 * np.array(reference.spread)
    plan = plan_features(made.equipment, made.spec)
    bins_WSN, whole_WS = np.zeros((1, 4, 12), np.float32), np.ones((1, 4), np.float32)
    screening = screen(bins_WSN, whole_WS, np.zeros((1, 4), np.uint8), plan)
    features = normalise(raw_WSTF, np.ones((1, 4, 4), np.float32), plan, screening)
    np.testing.assert_allclose(features.x_WSTF[0, 0, :, :3], 2.0, rtol=1e-3)
    assert features.x_WSTF[0, 0, :, 3].tolist() == [0.0] * 4


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
        by_name = {
            "mean": mean,
            "shift": mean - level,
            "spread": np.sqrt((centred**2).sum() / count),
            "dip": centred[there].min(),
            "peak": centred[there].max(),
            "slope": (place * centred).sum() / (power or 1.0) * (width - 1),
            "start": centred[first],
            "end": centred[last],
        }
        found[step] = [by_name[name] for name in names]
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
    """Return for each sensor the bytes of its features and range exceedance, and its fault."""
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
        exceedance = beyond.mean() if there_T.any() and fault is None else np.nan
        rows.append((x_TF.astype(np.float32).tobytes(), np.float32(exceedance).tobytes(), fault))
    return rows


def as_bytes(
    features: SensorFeatures, equipment: Equipment
) -> list[tuple[bytes, bytes, str | None]]:
    faults = {fault.sensor_id: fault.reason for fault in features.faulty}
    return [
        (x_TF.tobytes(), exceedance.tobytes(), faults.get(sensor_id))
        for x_TF, exceedance, sensor_id in zip(
            features.x_STF, features.exceedance_S, equipment.sensor_ids, strict=True
        )
    ]


def disturbed(windows: int, seed: int) -> Floats:
    """Return waves, most with gaps, a frozen, noisy or out-of-range sensor, or another level."""
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
def test_features_of_a_batch_equal_the_plain_implementation_bitwise(seed: int) -> None:
    equipment, spec = whole(ALL)
    plan = plan_features(equipment, spec)
    values_WSN = disturbed(48, seed)
    expected = [plain_features(values_SN, equipment, spec) for values_SN in values_WSN]
    assert {fault for rows in expected for _, _, fault in rows} == {None, *FAULT_REASONS[:-1]}
    for size in (1, 5, 48):
        for start in range(0, 48, size):
            batch = batch_features(values_WSN[start : start + size], plan)
            for index in range(len(batch.x_WSTF)):
                assert as_bytes(window_of(batch, index, plan), equipment) == expected[start + index]


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


def test_batch_larger_than_one_pass_and_empty_batch() -> None:
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


def test_usable_steps_are_those_with_readings_of_a_sensor_without_fault() -> None:
    made = fitted()
    slow = made.spec.references["press"]["T1"].model_copy(update={"steps": 0.5})
    references = {"press": {**made.spec.references["press"], "T1": slow}}
    values_SN = wave(1, 4)[0]
    values_SN[0, 3:7] = np.nan  # all of the second step, and a bin of the third
    values_SN[1, 5] = 3e38
    values_SN[2] = np.nan
    values_SN[3, 6:] = np.nan
    spec = made.spec.model_copy(update={"references": references})
    found = window_features(values_SN, made.equipment, spec)
    assert found.usable_S.tolist() == [0.75, 0.0, 0.0, 1.0]
