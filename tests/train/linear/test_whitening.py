"""Whitening of a circuit's features, and which components have a skip."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.features.extraction import batch_features
from app.features.spec import plan_features
from tests.fleet import two_designs
from tests.small import graded_windows, small
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.linear import whitening
from train.linear.whitening import Circuit, fit_circuits

CONFIG = TrainConfig(equipment="press-1", shrinkage=1e-4)


def fitted(directory: Path, **changes: object) -> tuple[Circuit, np.ndarray]:
    """Return the circuit of the small machine, and the inputs it was fitted to."""
    windows, made = graded_windows(directory), small()
    values_WSN = windows.values(np.arange(60))
    (circuit,) = fit_circuits(
        Fleet((windows,)), [np.arange(60)], made.spec, CONFIG.model_copy(update=changes)
    )
    x_WSTF = batch_features(values_WSN, plan_features(made.equipment, made.spec)).x_WSTF
    return circuit, x_WSTF[:, circuit.sensor_Q].reshape(60, -1).astype(np.float64)


def whitened(circuit: Circuit, x_WL: np.ndarray) -> np.ndarray:
    apart_WL = x_WL - circuit.mean_L
    along_WX = apart_WL @ circuit.axes_LX
    return (
        circuit.rest * apart_WL + (along_WX * (circuit.gain_X - circuit.rest)) @ circuit.axes_LX.T
    )


def test_components_read_the_sensors_with_a_path_to_them(tmp_path: Path) -> None:
    circuit, _ = fitted(tmp_path)
    assert circuit.sensor_Q.tolist() == [0, 1, 2]  # pump and valve; the tank's evidence ends there
    assert circuit.component_P.tolist() == [0, 1]
    assert circuit.is_labelled_PC.tolist() == [[True, True, False]] * 2
    assert circuit.size == (3, 4, 2, len(circuit.noise_A))


def test_remaining_life_has_no_skip_where_that_of_health_is_fitted_first(tmp_path: Path) -> None:
    windows, made = graded_windows(tmp_path), small()
    shape = windows.labels.grade_WV.shape
    health_WV = np.random.default_rng(0).uniform(0.2, 1.0, shape).astype(np.float32)
    labels = replace(
        windows.labels,
        grade_WV=np.full(shape, -1, np.int64),
        health_WV=health_WV,
        rul_WV=100.0 * health_WV,
    )
    equipment = windows.equipment.model_copy(update={"cycle_s": None})
    with_lives = replace(windows, labels=labels, equipment=equipment)
    found = fit_circuits(Fleet((with_lives,)), [np.arange(60)], made.spec, CONFIG)
    assert len(found) == 2, "pump and valve, and the tank, which reads more sensors"
    for circuit in found:
        assert (circuit.is_labelled_PC == [False, True, False]).all()
        assert circuit.first is not None
        assert circuit.first.weight_XPC[:, :, 1].any()
        assert not circuit.first.weight_XPC[:, :, 2].any()
    lives_alone = replace(
        with_lives, labels=replace(labels, health_WV=np.full(shape, np.nan, np.float32))
    )
    assert fit_circuits(Fleet((lives_alone,)), [np.arange(60)], made.spec, CONFIG) == ()


def test_whitened_features_have_one_variance_in_all_directions(tmp_path: Path) -> None:
    circuit, x_WL = fitted(tmp_path)
    used = whitened(circuit, x_WL)[:, circuit.is_used_L]
    variance_L = np.linalg.eigvalsh(used.T @ used / len(used))
    # of directions in which windows differ by more than the shrinkage
    assert variance_L[variance_L > 0.5].max() == pytest.approx(1.0, rel=0.01)
    assert (variance_L > 0.9).sum() > 20
    assert not circuit.axes_LX[~circuit.is_used_L].any()  # the coverage of a step has no weight


def test_fewer_axes_whiten_what_varies_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, x_WL = fitted(tmp_path / "1", shrinkage=0.3)
    monkeypatch.setattr(whitening, "MOST_AXES", 10)
    few, _ = fitted(tmp_path / "2", shrinkage=0.3)
    assert few.axes_LX.shape[1] == 10
    assert len(few.noise_A) == 5
    along = slice(0, 5)
    np.testing.assert_allclose(few.gain_X[along], whole.gain_X[along], rtol=1e-4)
    np.testing.assert_allclose(
        np.abs(whitened(few, x_WL) @ few.axes_LX[:, along]),
        np.abs(whitened(whole, x_WL) @ whole.axes_LX[:, along]),
        rtol=1e-2, atol=1e-3,
    )  # fmt: skip


def test_network_alone_has_no_circuit(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    config = CONFIG.model_copy(update={"deep_share": 1.0})
    assert fit_circuits(Fleet((windows,)), [np.arange(60)], small().spec, config) == ()


def test_too_few_whole_windows_give_no_circuit(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    few = np.arange(whitening.FEWEST_WINDOWS - 1)
    assert fit_circuits(Fleet((windows,)), [few], small().spec, CONFIG) == ()


def test_designs_have_circuits_of_their_own(tmp_path: Path) -> None:
    fleet = two_designs(tmp_path)
    chosen = [np.arange(len(windows)) for windows in fleet.designs]
    from train.data.reference import fit_fleet_spec

    spec = fit_fleet_spec(fleet, chosen, CONFIG)
    found = fit_circuits(fleet, chosen, spec, CONFIG)
    assert [circuit.design for circuit in found] == [0, 1]
    slots = spec.component_slots()
    designs = [{slots[place][0] for place in circuit.place_P.tolist()} for circuit in found]
    assert designs == [{"mill"}, {"press"}]


def test_fewer_windows_than_inputs_give_the_axes_of_the_covariance() -> None:
    x_WL = np.random.default_rng(0).normal(size=(12, 30)) * np.linspace(0.5, 3.0, 30)
    found = whitening._axes(x_WL, np.ones(30, np.bool_), 0.1)
    axes_LX, rest = found.axes_LX, found.other
    apart_WL = x_WL - x_WL.mean(0)
    covariance_LL = apart_WL.T @ apart_WL / 12
    floor = 0.1 * covariance_LL.trace() / 30
    expected_LL = 0.9 * covariance_LL + floor * np.eye(30)
    np.testing.assert_allclose(found.mean_L, x_WL.mean(0))
    assert rest == pytest.approx(floor)
    assert found.rest == pytest.approx(floor**-0.5)
    found_LL = rest * np.eye(30) + (axes_LX * (found.variance_X - rest)) @ axes_LX.T
    np.testing.assert_allclose(found_LL, expected_LL, atol=1e-9)


def test_axes_of_means_are_the_same_in_all_steps_and_of_unit_length() -> None:
    x_WQTF = np.random.default_rng(0).normal(size=(400, 2, 5, 3)) * [2.0, 0.1, 1.0]
    is_used_TF = np.broadcast_to(np.array([True, True, False]), (5, 3))
    found = whitening._axes_of_means(x_WQTF, is_used_TF, 1e-6)
    np.testing.assert_allclose(found.axes_LX.T @ found.axes_LX, np.eye(4), atol=1e-12)
    by_step_QTFX = found.axes_LX.reshape(2, 5, 3, 4)
    np.testing.assert_array_equal(by_step_QTFX, by_step_QTFX[:, :1].repeat(5, axis=1))
    assert not by_step_QTFX[:, :, 2].any()
    z_WX = (x_WQTF.reshape(400, -1) - found.mean_L) @ (found.axes_LX * found.variance_X**-0.5)
    np.testing.assert_allclose(z_WX.T @ z_WX / 400, np.eye(4), atol=1e-3)
    assert found.rest == 0.0
    # what the axes leave is the variance between steps
    apart_WQTF = x_WQTF - found.mean_L.reshape(2, 5, 3)
    total = (apart_WQTF[..., :2] ** 2).sum() / 400
    assert found.variance_X.sum() + 16 * found.other == pytest.approx(total, rel=0.01)
