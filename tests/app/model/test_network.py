"""The network: independence of batches and order, and values by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.model.graph import Contributions, GraphGroup
from app.model.network import GraphTensors, build_model
from app.model.trained import TrainedModel
from tests.features import window_features
from tests.graphs import assert_close, build_graph, predict, untrained, with_topology
from tests.small import Small, press, small, wave

CLOSE = 1e-5  # sums over a batch are taken in another order than over a window alone


def graph(
    made: Small, components: tuple[str, ...] = ("pump", "valve", "tank"), seed: int = 0
) -> GraphGroup:
    equipment = press(components)
    by_id = dict(zip(press().sensor_ids, wave(1, 4, seed=seed)[0], strict=True))
    values_SN = np.stack([by_id[sensor_id] for sensor_id in equipment.sensor_ids])
    return build_graph(equipment, window_features(values_SN, equipment, made.spec), made.spec)


def test_prediction_has_a_row_for_a_window_and_a_column_for_a_component() -> None:
    made = small()
    found = predict(made.model, GraphGroup.merge([graph(made)] * 2))
    assert found.health_WV.shape == (2, 3)
    assert found.probability_WVK.shape == (2, 3, 3)
    assert {array.dtype for array in found} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found.probability_WVK[0, 0].sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(found.probability_WVK[0, 1, :2].sum(), 1.0, rtol=1e-6)
    assert np.isnan(found.probability_WVK[:, 1, 2]).all()
    assert np.isnan(found.probability_WVK[:, 2]).all()
    assert np.isnan(found.distance_WV).all()


def test_numbers_are_the_mixture_of_the_members_in_the_units_of_the_config() -> None:
    made = small(members=2)
    model = untrained(replace(made.config, rate_unit=8.0, rul_unit_h=125.0))
    biases = [[2.0, -1.0, 0.5, 3.0, -2.0], [0.0, 0.0, -0.25, -1.0, -3.0]]
    with torch.no_grad():
        for member, bias in zip(model.ensemble.members, biases, strict=True):
            member.trend.weight.zero_()
            member.trend.bias.copy_(torch.tensor(bias))
    found = predict(model, graph(made))
    health_M, rul_M = 1 / (1 + np.exp([-2.0, 0.0])), np.log1p(np.exp([3.0, -1.0]))
    expected = {
        "health_WV": health_M.mean(),
        "spread_WV": np.sqrt(np.exp([-1.0, 0.0]).mean() + health_M.var()),
        "rate_WV": 8.0 * 0.125,
        "rul_WV": 125.0 * rul_M.mean(),
        "rul_spread_WV": 125.0 * np.sqrt(np.exp([-2.0, -3.0]).mean() + rul_M.var()),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name)[0], [value] * 3, rtol=1e-6, err_msg=name)


def test_windows_together_equal_windows_alone() -> None:
    made = small()
    groups = [graph(made, seed=seed) for seed in range(4)]
    groups.append(graph(made, ("valve", "tank", "pump"), 9))
    together = made.model.predictor().predict(groups)
    for group, found in zip(groups, together, strict=True):
        assert_close(found, predict(made.model, group), CLOSE)


def test_disjoint_union_of_graphs_is_one_window_of_them() -> None:
    made = small()
    one, other = graph(made), graph(made, ("tank", "pump", "valve"), 1)
    parts = [GraphTensors.of_group(each) for each in (one, other)]
    joined = GraphTensors(
        *(torch.cat(each, 1) for each in list(zip(*parts, strict=True))[:2]),
        torch.cat((parts[0].sensor_component_S, parts[1].sensor_component_S + 3)),
        *(
            torch.cat([getattr(each, name) for each in parts])
            for name in ("sensor_quantity_S", "component_type_V", "grade_set_V")
        ),
        torch.cat((parts[0].edge_index_2E, parts[1].edge_index_2E + 3), 1),
        torch.cat((parts[0].edge_relation_E, parts[1].edge_relation_E)),
    )
    with torch.inference_mode():
        found_MVC = made.model.ensemble(joined).of_batch().latent_VWC
        alone_MVC = torch.cat([made.model.ensemble(each).latent_VWC[:, :, 0] for each in parts], 1)
    np.testing.assert_allclose(found_MVC.numpy(), alone_MVC.numpy(), atol=CLOSE)


def test_renaming_the_components_only_moves_the_outputs() -> None:
    made = small()
    straight = predict(made.model, graph(made)).health_WV
    turned = predict(made.model, graph(made, ("tank", "valve", "pump"))).health_WV
    np.testing.assert_allclose(straight, turned[:, [2, 1, 0]], atol=CLOSE)


def test_evidence_travels_along_the_connections_only() -> None:
    made = small()
    whole = graph(made)
    x_WSTF = whole.x_WSTF.copy()
    x_WSTF[:, 3] += 1.0  # the tank's sensor: its only line out carries no evidence
    moved = replace(whole, x_WSTF=x_WSTF)
    apart_V = (predict(made.model, moved).health_WV - predict(made.model, whole).health_WV)[0]
    assert apart_V[:2].tolist() == [0.0, 0.0]
    assert apart_V[2] != 0.0


def test_steps_are_read_in_their_order() -> None:
    made = small()
    whole = graph(made)
    turned = replace(whole, x_WSTF=whole.x_WSTF[:, :, ::-1].copy())
    apart_WV = predict(made.model, whole).health_WV - predict(made.model, turned).health_WV
    assert np.abs(apart_WV).max() > 1e-6


def test_features_of_absent_steps_are_not_read() -> None:
    made = small()
    whole = graph(made)
    mask_WST = whole.mask_WST.copy()
    mask_WST[:, 1, :2] = False
    quiet, noisy = (
        GraphGroup(whole.topology, np.where(mask_WST[..., None], whole.x_WSTF, value), mask_WST)
        for value in (np.float32(0.0), np.float32(5.0))
    )
    assert_close(predict(made.model, quiet), predict(made.model, noisy))


def test_component_without_sensor_or_reading_still_has_an_output() -> None:
    made = small()
    whole = graph(made)
    blind = GraphGroup(whole.topology, np.zeros_like(whole.x_WSTF), np.zeros_like(whole.mask_WST))
    assert np.isfinite(predict(made.model, blind).health_WV).all()


def test_members_are_averaged() -> None:
    made = small(members=2)
    whole = graph(made)
    singles = []
    for member in made.model.ensemble.members:
        single = build_model(replace(made.config, members=1)).eval()
        single.members[0].load_state_dict(member.state_dict())
        singles.append(predict(TrainedModel(single), whole).probability_WVK[0, 0])
    found_K = predict(made.model, whole).probability_WVK[0, 0]
    np.testing.assert_allclose(found_K, np.mean(singles, axis=0), atol=CLOSE)


def test_temperature_flattens_the_grades() -> None:
    made = small()
    whole = graph(made)
    made.model.ensemble.temperature_G[:] = 100.0
    found_K = predict(made.model, whole).probability_WVK[0, 0]
    # both cuts are near the middle of a flat link
    np.testing.assert_allclose(found_K[[0, 2]], 0.5, atol=0.05)


def test_occlusion_is_the_difference_that_a_sensor_makes() -> None:
    made = small()
    whole, predictor = graph(made), made.model.predictor()
    found_VS = Contributions.merge(predictor.contributions(whole)).health_VS
    without, with_all = predictor.predict([whole.without_sensor(2), whole])
    expected_V = (without.health_WV - with_all.health_WV)[0]
    np.testing.assert_allclose(found_VS[:, 2], expected_V, atol=CLOSE)
    assert found_VS[0, 3] == pytest.approx(0.0, abs=CLOSE)  # the tank's evidence stays there
    with pytest.raises(ValueError, match="expected one window, found 2"):
        list(predictor.contributions(GraphGroup.merge([whole, whole])))


def test_tensors_are_copies_on_the_device() -> None:
    whole = graph(small())
    GraphTensors.of_group(whole).x_WSTF.zero_()
    assert np.abs(whole.x_WSTF).max() > 0


def test_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of heads=2, found 7"):
        build_model(replace(small().config, hidden=7))


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="model_type among universal_temporal_gnn, found 'mlp'"):
        build_model(replace(small().config, model_type="mlp"))


def test_edges_of_one_pair_count_each() -> None:
    made = small()
    twice = with_topology(
        graph(made),
        {"edge_index_2E": np.array([[0, 0], [1, 1]]), "edge_relation_E": np.array([0, 1])},
    )
    once = with_topology(
        graph(made), {"edge_index_2E": np.array([[0], [1]]), "edge_relation_E": np.array([0])}
    )
    apart_WV = predict(made.model, twice).health_WV - predict(made.model, once).health_WV
    assert abs(apart_WV[0, 1]) > 0
