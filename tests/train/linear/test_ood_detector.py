"""The OOD detector's tables give the distance of the fit, also with sensors missing.

The limit is measured on groups of windows that the fit did not see.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.features.binning import Doubles, Floats
from app.features.extraction import batch_features
from app.features.spec import plan_features
from app.model.graph import GraphGroup, build_topology
from app.model.trained import TrainedModel
from tests.graphs import predict as predict_group
from tests.graphs import with_topology
from tests.small import Small, graded, press, small, wave
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.labels import Booleans, Integers
from train.data.windows import Windows, write_windows
from train.evaluation.ordinal import covariance, measure
from train.evaluation.predict import predict
from train.linear.ood_detector import (
    AXES,
    DistanceFit,
    distances,
    fit_distance,
    fit_ood_detector,
    most_axes,
)

CONFIG = TrainConfig(equipment="press-1", sensor_offset=0.0, oil_warming_k=0.0)
HEALTH_K = np.array([1.0, 0.5, 0.1])
FittedDetector = tuple[Small, Windows]


def shown(directory: Path, groups: int = 12) -> Windows:
    """Return windows in groups; the pressure depends on the three grades of the pump."""
    grade_WV = np.full((240, 3), -1, np.int64)
    grade_WV[:, 0] = np.arange(240) % 3
    grade_WV[:, 1] = 0
    values_WSN = wave(240, 4)
    values_WSN[:, 0] += 0.3 * grade_WV[:, :1].astype(np.float32)
    windows = write_windows(
        directory / "w", press(), ("press-1",), graded(grade_WV), [values_WSN], warm_up_run=0
    )
    return replace(windows, group_W=np.arange(240) // 3 % groups)


def fitted(made: Small, windows: Windows, chosen_W: Integers) -> Small:
    """Return the machine with a detector fitted to windows."""
    detector = fit_ood_detector(made.config, made.spec, Fleet((windows,)), [chosen_W], CONFIG)
    return replace(made, model=TrainedModel(made.model.ensemble, None, detector))


@pytest.fixture
def fitted_detector(tmp_path: Path) -> FittedDetector:
    windows = shown(tmp_path)
    return fitted(small(), windows, np.arange(len(windows))), windows


def graphs_of(values_WSN: Floats, made: Small) -> GraphGroup:
    found = batch_features(values_WSN, plan_features(made.equipment, made.spec))
    return GraphGroup(build_topology(made.equipment, made.spec), found.x_WSTF, found.mask_WST)


def distance_of(model: TrainedModel, group: GraphGroup) -> Floats:
    assert model.detector is not None
    return model.detector.distance(group)


def inputs(values_WSN: Floats, made: Small, sensors: list[int]) -> Doubles:
    found = batch_features(values_WSN, plan_features(made.equipment, made.spec))
    return found.x_WSTF[:, sensors].reshape(len(values_WSN), -1).astype(np.float64)


def fit_by_hand(windows: Windows, made: Small, is_scored_W: Booleans | None = None) -> DistanceFit:
    sensors = list(made.equipment.sensors_in_reach(0))
    x_WL, grade_W = (
        inputs(windows.values(np.arange(len(windows))), made, sensors),
        windows.labels.grade_WV[:, 0],
    )
    nothing_DL = np.empty((0, x_WL.shape[1]))
    found = fit_distance(
        x_WL, grade_W, windows.group_W, HEALTH_K, nothing_DL,
        np.ones(len(windows), np.bool_) if is_scored_W is None else is_scored_W,
        made.config.ood_axes, CONFIG.seed,
    )  # fmt: skip
    assert found is not None
    return found


def test_tables_give_the_distance_of_the_fit(fitted_detector: FittedDetector) -> None:
    made, windows = fitted_detector
    values_WSN = windows.values(np.arange(0, 240, 7))
    values_WSN[::2] += np.linspace(0, 2, values_WSN.shape[2], dtype=np.float32)
    found = fit_by_hand(windows, made)
    expected_W = (
        distances(inputs(values_WSN, made, list(made.equipment.sensors_in_reach(0))), found)
        / found.limit
    )
    batch = graphs_of(values_WSN, made)
    np.testing.assert_allclose(
        distance_of(made.model, batch)[:, 0], expected_W, rtol=2e-3, atol=2e-4
    )


def test_distance_with_all_axes_is_mahalanobis(fitted_detector: FittedDetector) -> None:
    made, windows = fitted_detector
    sensors = list(made.equipment.sensors_in_reach(0))
    x_WL, grade_W = (
        inputs(windows.values(np.arange(240)), made, sensors),
        windows.labels.grade_WV[:, 0],
    )
    moments = measure(x_WL, grade_W, windows.group_W, HEALTH_K)
    covariance_LL = covariance(moments, np.arange(x_WL.shape[1]))
    variance_C, axes_LC = np.linalg.eigh(covariance_LL)
    whole = DistanceFit(moments.middle_L + moments.apart_KL, axes_LC, variance_C, 1.0, 1.0)
    away_KWL = x_WL[None] - whole.mean_KL[:, None]
    exact_KW = np.einsum("kwl,lm,kwm->kw", away_KWL, np.linalg.inv(covariance_LL), away_KWL)
    np.testing.assert_allclose(distances(x_WL, whole), exact_KW.min(0) / x_WL.shape[1], rtol=1e-6)


def covariance_of(found: DistanceFit) -> Doubles:
    """Return the covariance that a fit represents."""
    L = len(found.axes_LC)
    return (
        found.rest * np.eye(L) + (found.axes_LC * (found.variance_C - found.rest)) @ found.axes_LC.T
    )


@pytest.mark.parametrize(
    ("sensors", "steps"),
    [
        ([0], slice(None)),
        ([1], slice(None)),
        ([0, 1], slice(None)),
        ([0, 1, 2, 3], slice(1, 2)),
        ([1], slice(2)),
    ],
)  # fmt: skip
def test_missing_inputs_are_left_out_of_the_covariance_too(
    fitted_detector: FittedDetector, sensors: list[int], steps: slice
) -> None:
    made, windows = fitted_detector
    read, found = list(made.equipment.sensors_in_reach(0)), fit_by_hand(windows, made)
    values_WSN = windows.values(np.arange(0, 240, 31))
    values_WSN[::2] += np.linspace(0, 2, values_WSN.shape[2], dtype=np.float32)
    batch = graphs_of(values_WSN, made)
    F = batch.x_WSTF.shape[3]
    mask_WST = np.ones_like(batch.mask_WST)
    mask_WST[:, sensors, steps] = False
    there_J = np.repeat(mask_WST[0, read].reshape(-1), F)
    x_WJ = inputs(values_WSN, made, read)[:, there_J]
    precision_JJ = np.linalg.inv(covariance_of(found)[np.ix_(there_J, there_J)])
    away_KWJ = x_WJ[None] - found.mean_KL[:, None, there_J]
    exact_KW = np.einsum("kwi,ij,kwj->kw", away_KWJ, precision_JJ, away_KWJ)
    expected_W = exact_KW.min(0) / there_J.sum() / found.limit
    x_WSTF = np.where(mask_WST[..., None], batch.x_WSTF, np.float32(np.nan))
    gaps = replace(batch, mask_WST=mask_WST, x_WSTF=x_WSTF)
    np.testing.assert_allclose(
        distance_of(made.model, gaps)[:, 0], expected_W, rtol=2e-3, atol=2e-4
    )


def test_components_without_grades_or_sensors_have_no_distance(
    fitted_detector: FittedDetector,
) -> None:
    made, windows = fitted_detector
    batch = graphs_of(windows.values(np.arange(2)), made)
    assert np.isnan(
        distance_of(made.model, batch)[:, 1:]
    ).all()  # the valve has labels of one grade only
    for sensor in range(batch.topology.sensors):
        batch = batch.without_sensor(sensor)
    assert np.isnan(distance_of(made.model, batch)).all()


def test_window_without_sensors_has_no_distance(fitted_detector: FittedDetector) -> None:
    made, windows = fitted_detector
    group = graphs_of(windows.values(np.arange(1)), made)
    none_S = np.empty(0, np.int64)
    names = ("sensor_component_S", "sensor_quantity_S", "sensor_slot_S")
    bare = with_topology(
        GraphGroup(group.topology, group.x_WSTF[:, :0], group.mask_WST[:, :0]),
        dict.fromkeys(names, none_S),
    )
    assert np.isnan(distance_of(made.model, bare)).all()
    assert np.isnan(predict_group(made.model, bare).distance_WV).all()


def test_non_finite_features_are_far_and_change_no_other_component(
    fitted_detector: FittedDetector,
) -> None:
    made, windows = fitted_detector
    batch = graphs_of(windows.values(np.arange(1)), made)
    read = set(made.equipment.sensors_in_reach(0))
    unread = set(range(batch.topology.sensors)) - read
    assert read
    assert unread
    for sensor in (*read, *unread):
        x_WSTF = batch.x_WSTF.copy()
        x_WSTF[:, sensor] = np.nan
        found = distance_of(made.model, replace(batch, x_WSTF=x_WSTF))[0, 0]
        assert found == (
            np.inf if sensor in read else pytest.approx(distance_of(made.model, batch)[0, 0])
        )


def test_serving_gives_the_same_distances_in_any_batch(fitted_detector: FittedDetector) -> None:
    made, windows = fitted_detector
    values_WSN = windows.values(np.arange(5))
    values_WSN[2, 0] = np.nan
    expected_WV = distance_of(made.model, graphs_of(values_WSN, made))
    found_WV = predict_group(made.model, graphs_of(values_WSN, made)).distance_WV
    np.testing.assert_array_equal(found_WV, expected_WV)
    alone_WV = [distance_of(made.model, graphs_of(values_WSN[[w]], made))[0] for w in range(5)]
    np.testing.assert_allclose(np.stack(alone_WV), expected_WV, rtol=1e-3, atol=1e-4)


def test_usual_windows_are_within_the_limit_and_other_conditions_beyond(
    fitted_detector: FittedDetector,
) -> None:
    made, windows = fitted_detector
    usual_WSN = windows.values(np.arange(240))
    assert (distance_of(made.model, graphs_of(usual_WSN, made))[:, 0] <= 1.0).mean() > 0.97
    other_WSN = usual_WSN.copy()
    other_WSN[:, 1] += 5.0  # what Q1 never did
    assert (distance_of(made.model, graphs_of(other_WSN, made))[:, 0] > 1.0).all()


def limit_of(
    windows: Windows, made: Small, group_W: Integers, is_scored_W: Booleans | None = None
) -> float:
    return fit_by_hand(replace(windows, group_W=group_W), made, is_scored_W).limit


def shaken(tmp_path: Path) -> tuple[Windows, Integers]:
    """Return windows of twelve courses with offsets of their own, and each window's course."""
    windows, course_W = shown(tmp_path), np.arange(240) // 3 % 12
    phase_QS1 = np.random.default_rng(1).uniform(0.0, 2.0 * np.pi, (12, 4, 1))
    course_QSN = (2.0 * np.sin(np.arange(12) + phase_QS1)).astype(np.float32)
    values_WSN = windows.values(np.arange(240)) + course_QSN[course_W]
    made = write_windows(
        tmp_path / "s", press(), ("press-1",), windows.labels, [values_WSN], warm_up_run=0
    )
    return made, course_W


def test_limit_is_measured_on_held_out_groups(tmp_path: Path) -> None:
    made, (windows, course_W) = small(), shaken(tmp_path)
    # the same windows: in one case each group is a course of its own, in the other each shows all
    # courses
    mixed_W = np.arange(240) // 36
    assert limit_of(windows, made, course_W) > 2 * limit_of(windows, made, mixed_W)


def test_warm_ups_do_not_widen_the_limit(tmp_path: Path) -> None:
    made, (windows, course_W) = small(), shaken(tmp_path)
    warm_W = course_W >= 8
    group_W = np.where(warm_W, course_W, np.arange(240) // 36)
    assert limit_of(windows, made, group_W, ~warm_W) < 0.5 * limit_of(windows, made, group_W)


def test_limit_contains_most_holdout_windows_where_nearly_all_are_alike(tmp_path: Path) -> None:
    made, windows = small(), shown(tmp_path)
    loud_W = np.arange(240) % 5 < 2
    values_WSN = windows.values(np.arange(240))
    mean_WS1 = values_WSN.mean(2, keepdims=True)
    values_WSN = np.where(
        loud_W[:, None, None], values_WSN, mean_WS1 + 0.05 * (values_WSN - mean_WS1)
    )
    uneven = write_windows(
        tmp_path / "u", press(), ("press-1",), windows.labels, [values_WSN], warm_up_run=0
    )
    uneven = replace(uneven, group_W=windows.group_W)
    made = fitted(made, uneven, np.arange(240))
    assert (distance_of(made.model, graphs_of(values_WSN, made))[:, 0] > 1.0).mean() <= 0.06


def test_grade_without_training_windows_is_never_the_nearest(tmp_path: Path) -> None:
    made, windows = small(), shown(tmp_path)
    shown_W = np.flatnonzero(windows.labels.grade_WV[:, 0] > 0)
    made = fitted(made, windows, shown_W)
    far_WSN = windows.values(shown_W[:4]) + np.float32(5.0)
    assert (distance_of(made.model, graphs_of(far_WSN, made))[:, 0] > 1.0).all()
    assert np.isfinite(
        distance_of(made.model, graphs_of(windows.values(shown_W), made))[:, 0]
    ).all()


def test_evaluation_gives_the_same_distances(fitted_detector: FittedDetector) -> None:
    made, windows = fitted_detector
    chosen_W = np.arange(0, 240, 17)
    expected_WV = distance_of(made.model, graphs_of(windows.values(chosen_W), made))
    found = predict(made.model, made.spec, windows, chosen_W).distance_WV
    assert np.isfinite(expected_WV[:, 0]).all()
    np.testing.assert_allclose(found, expected_WV, rtol=1e-4, atol=1e-5)


def test_too_few_groups_give_no_limit(tmp_path: Path) -> None:
    made, windows = small(), shown(tmp_path, groups=4)
    made = fitted(made, windows, np.arange(len(windows)))
    assert made.model.detector is not None
    assert np.isposinf(made.model.detector.tables.limit_G).all()
    assert np.isnan(distance_of(made.model, graphs_of(windows.values(np.arange(2)), made))).all()


def test_same_windows_give_the_same_fit(tmp_path: Path) -> None:
    windows = shown(tmp_path)
    first, again = (fit_by_hand(windows, small()) for _ in range(2))
    assert first.limit == again.limit
    np.testing.assert_array_equal(first.axes_LC, again.axes_LC)


@pytest.mark.parametrize(
    ("sizes", "axes"),
    [((4, 17, 108, 4), AXES), ((100, 30, 108, 4), 20), ((400, 75, 108, 4), 0), ((0, 0, 108, 2), 0)],
)
def test_tables_are_bounded(sizes: tuple[int, int, int, int], axes: int) -> None:
    assert most_axes(*sizes) == axes
