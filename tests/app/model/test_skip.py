"""The linear skip: values by hand, imputation of missing inputs, and where there is none."""

from dataclasses import replace

import numpy as np
import pytest

from app.features.binning import Floats
from app.model import skip as serving
from app.model.graph import CHANNELS, GraphGroup, SkipOutput
from app.model.skip import CircuitTables, LinearSkip, _conditional, impute
from tests.features import window_features
from tests.graphs import build_graph, predict, random_skip, with_topology
from tests.small import press, small, wave


def windows(count: int = 4, seed: int = 0) -> GraphGroup:
    made = small()
    values_WSN = wave(count, 4, seed=seed)
    return GraphGroup.merge(
        [
            build_graph(made.equipment, window_features(each, made.equipment, made.spec), made.spec)
            for each in values_WSN
        ]
    )


def by_hand(tables: CircuitTables, x_WL: Floats) -> Floats:
    """Return the skip of complete inputs, [W, P, C]."""
    apart_WL = (x_WL - tables.mean_L).astype(np.float64)
    return np.einsum("wl,lpc->wpc", apart_WL, tables.weight_LPC) + tables.bias_PC


def without(group: GraphGroup, sensor: int, steps: slice) -> GraphGroup:
    found = group.take(slice(None))
    x_WSTF, mask_WST = found.x_WSTF.copy(), found.mask_WST.copy()
    x_WSTF[:, sensor, steps], mask_WST[:, sensor, steps] = 0.0, False
    return GraphGroup(group.topology, x_WSTF, mask_WST)


def assert_none(found: SkipOutput) -> None:
    assert not found.skip_WVC.any()
    assert (found.deep_share_WVC == 1.0).all()


def test_skip_is_linear_in_the_features_of_its_sensors() -> None:
    made, group = small(), windows()
    skip = random_skip(made.config)
    found = skip.output(group)
    expected_WPC = by_hand(skip.circuits[0], group.x_WSTF[:, :3].reshape(4, -1))
    np.testing.assert_allclose(found.skip_WVC[:, :2], expected_WPC, rtol=1e-5, atol=1e-5)
    assert not found.skip_WVC[:, 2].any()  # the tank has no weights
    shares = found.deep_share_WVC[0, :, 0].tolist()
    assert shares == pytest.approx([0.3, 0.3, 1.0])
    assert found.skip_WVC.dtype == found.deep_share_WVC.dtype == np.float32


def test_sensor_that_the_circuit_does_not_read_changes_nothing() -> None:
    skip, group = random_skip(small().config), windows()
    other = GraphGroup(group.topology, group.x_WSTF.copy(), group.mask_WST)
    other.x_WSTF[:, 3] += 5.0
    np.testing.assert_array_equal(skip.output(group).skip_WVC, skip.output(other).skip_WVC)


@pytest.mark.parametrize(("sensor", "steps"), [(0, slice(None)), (1, slice(1, 3)), (2, slice(3))])
def test_missing_inputs_are_imputed_as_in_training(sensor: int, steps: slice) -> None:
    skip, group = random_skip(small().config), windows()
    tables = skip.circuits[0]
    gapped = without(group, sensor, steps)
    present_WL = gapped.mask_WST[:, :3].repeat(gapped.x_WSTF.shape[-1], axis=2).reshape(4, -1)
    x_WL = gapped.x_WSTF[:, :3].reshape(4, -1)
    complete_WL = impute(x_WL, present_WL, tables.mean_L, tables.axes_LA, tables.noise_A)
    np.testing.assert_array_equal(complete_WL[present_WL], x_WL[present_WL])
    expected_WPC = by_hand(tables, complete_WL)
    found = skip.output(gapped)
    np.testing.assert_allclose(found.skip_WVC[:, :2], expected_WPC, rtol=1e-4, atol=1e-4)
    # what a masked input holds does not matter
    gapped.x_WSTF[~gapped.mask_WST] = np.nan
    np.testing.assert_array_equal(skip.output(gapped).skip_WVC, found.skip_WVC)


def test_imputed_input_is_the_conditional_mean_of_the_normal_distribution() -> None:
    axes_LA, noise_A = np.array([[0.6], [0.8]], np.float32), np.array([0.25], np.float32)
    # covariance U diag(4) U' + I in units of the other variance; x1 given x0
    covariance_LL = 4.0 * axes_LA @ axes_LA.T + np.eye(2)
    expected = 1.0 + covariance_LL[1, 0] / covariance_LL[0, 0] * (3.0 - 2.0)
    found_WL = impute(
        np.array([[3.0, 99.0]], np.float32),
        np.array([[True, False]]),
        np.array([2.0, 1.0], np.float32),
        axes_LA,
        noise_A,
    )
    np.testing.assert_allclose(found_WL, [[3.0, expected]], rtol=1e-6)


def test_windows_with_too_few_inputs_have_no_skip() -> None:
    skip, group = random_skip(small().config), windows()
    one = without(group, 0, slice(None))
    assert skip.output(one).skip_WVC.any()
    assert_none(skip.output(without(one, 1, slice(None))))


def test_windows_of_other_steps_have_no_skip() -> None:
    skip, group = random_skip(small().config), windows()
    assert_none(
        skip.output(GraphGroup(group.topology, group.x_WSTF[:, :, 1:], group.mask_WST[:, :, 1:]))
    )


def test_design_without_weights_has_no_skip() -> None:
    skip, group = random_skip(small().config), windows()
    topology = group.topology
    unknown = {
        "sensor_slot_S": np.full(topology.sensors, -1),
        "component_slot_V": np.full(topology.components, -1),
    }
    assert_none(skip.output(with_topology(group, unknown)))


def test_machine_without_a_sensor_is_one_whose_sensor_is_missing() -> None:
    skip, group = random_skip(small().config), windows()
    lacking = {"sensor_slot_S": np.where(np.arange(4) == 1, -1, group.topology.sensor_slot_S)}
    np.testing.assert_array_equal(
        skip.output(with_topology(group, lacking)).skip_WVC,
        skip.output(without(group, 1, slice(None))).skip_WVC,
    )


def test_order_of_components_does_not_matter() -> None:
    made = small()
    skip = random_skip(made.config)
    other = press(("valve", "tank", "pump"))
    by_id = dict(zip(press().sensor_ids, wave(1, 4)[0], strict=True))
    values_SN = np.stack([by_id[sensor_id] for sensor_id in other.sensor_ids])
    moved = build_graph(other, window_features(values_SN, other, made.spec), made.spec)
    np.testing.assert_allclose(
        skip.output(moved).skip_WVC[:, [2, 0, 1]], skip.output(windows(1)).skip_WVC, rtol=1e-5
    )


def test_windows_together_equal_windows_alone() -> None:
    skip, group = random_skip(small().config), windows(5)
    group.mask_WST[2, 0] = group.mask_WST[4, 1, :2] = False
    together = skip.output(group).skip_WVC
    alone = [skip.output(group.take([each])).skip_WVC for each in range(5)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-6)


def test_patterns_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 8 * small().config.features * 12 * 2 * CHANNELS
    monkeypatch.setattr(serving, "MAX_CACHED_BYTES", 2 * size)
    skip, group = random_skip(small().config), windows()
    for step in range(4):
        skip.output(without(group, 0, slice(step, step + 1)))
    assert len(skip._patterns) == 2


def test_prediction_is_that_of_network_and_skip_together() -> None:
    made, group = small(), windows()
    skip = random_skip(made.config, share=1.0)
    still = [
        each._replace(weight_LPC=0 * each.weight_LPC, bias_PC=0 * each.bias_PC)
        for each in skip.circuits
    ]
    alone = predict(made.model._replace(skip=None), group)
    np.testing.assert_array_equal(
        predict(made.model._replace(skip=LinearSkip(still, made.config)), group).health_WV,
        alone.health_WV,
    )
    # a skip that only lowers the logit of health
    lower = [each._replace(bias_PC=np.tile(np.float32([0.0, -1.0, 0.0]), (2, 1))) for each in still]
    found = predict(made.model._replace(skip=LinearSkip(lower, made.config)), group)
    assert (found.health_WV[:, :2] < alone.health_WV[:, :2]).all()
    np.testing.assert_array_equal(found.health_WV[:, 2], alone.health_WV[:, 2])
    np.testing.assert_allclose(found.probability_WVK, alone.probability_WVK, atol=1e-7)


def test_arrays_of_a_checkpoint_give_the_same_skip() -> None:
    made, group = small(), windows()
    skip = random_skip(made.config)
    again = LinearSkip.of_arrays(made.config, skip.arrays())
    assert again is not None
    np.testing.assert_array_equal(again.output(group).skip_WVC, skip.output(group).skip_WVC)
    assert LinearSkip.of_arrays(replace(made.config, circuits=()), {}) is None


def test_many_missing_inputs_have_the_conditional_mean_of_few() -> None:
    random = np.random.default_rng(0)
    axes_LA = np.linalg.qr(random.normal(size=(60, 8)))[0]
    noise_A = np.exp(random.uniform(-8.0, 2.0, 8))
    covariance_LL = np.eye(60) + (axes_LA / noise_A) @ axes_LA.T
    x_L = random.normal(size=60)
    for missing in (5, 40):
        m, o = slice(0, missing), slice(missing, 60)
        expected_m = covariance_LL[m, o] @ np.linalg.solve(covariance_LL[o, o], x_L[o])
        found_m1 = _conditional(axes_LA[m], noise_A, axes_LA[o].T @ x_L[o, None])
        np.testing.assert_allclose(found_m1[:, 0], expected_m, atol=1e-9)
