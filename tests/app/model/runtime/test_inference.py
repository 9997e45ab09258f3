"""The network as serving runs it, held against the network as it is trained."""

from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from app.model.runtime.inference import MAX_KEPT_TOPOLOGIES, InferenceNetwork
from app.model.runtime.selection import warm_up_graphs

from app.checkpoint import manifest as files
from app.checkpoint.files import Checkpoint, load
from app.demo.rig.equipment import rig_equipment
from app.experiments.pairs import score
from app.features.extraction import window_features
from app.model.graph import (
    Contributions,
    GraphBatch,
    ModelOutput,
    build_graph,
    concatenate,
    without_sensor,
)
from app.model.network import UniversalTemporalGNN, occlude
from tests.rig import rig_block
from tests.small import small

CLOSE = 1e-6  # the same float32 sums in another order, of numbers near 1
SHIPPED = Path(files.__file__).parents[1] / "weights"


@cache
def shipped(version: str) -> Checkpoint:
    return load(SHIPPED / version)


@cache
def rig_graphs(version: str) -> tuple[GraphBatch, ...]:
    equipment, spec, block = rig_equipment(), shipped(version).feature_spec, rig_block()
    values_WSN = np.stack(
        [block.values_CR[name][211::170] for name in equipment.sensor_ids], axis=1
    ).astype(np.float32)
    values_WSN[1, 3] = np.nan  # a sensor that is not there
    values_WSN[2, 5, 10:20] = np.nan  # a gap
    return tuple(
        build_graph(equipment, window_features(each, equipment, spec), spec) for each in values_WSN
    )


def close_for(name: str, tolerance: float = CLOSE) -> float:
    """Return how near an output must be: the network computes in units, so rate and remaining life are as many times as far off."""
    config = shipped("1").config
    units = {
        "rate_V": config.rate_unit,
        "rul_V": config.rul_unit_h,
        "rul_spread_V": config.rul_unit_h,
    }
    return tolerance * max(1.0, units.get(name, 1.0))


def relative_for(name: str) -> float:
    """Return how far answers may be apart in relation to themselves: far from training a distance is large."""
    return 1e-4 if name == "distance_V" else 0.0


def assert_same(found: ModelOutput, expected: ModelOutput, tolerance: float = CLOSE) -> None:
    for field in fields(ModelOutput):
        np.testing.assert_allclose(
            getattr(found, field.name),
            getattr(expected, field.name),
            atol=close_for(field.name, tolerance),
            rtol=relative_for(field.name),
            err_msg=field.name,
        )


@pytest.mark.parametrize("version", ["1", "2"])
def test_shipped_networks_answer_as_they_were_trained(version: str) -> None:
    model, graphs = shipped(version).model, rig_graphs(version)
    network = InferenceNetwork(model)
    assert_same(score(network, concatenate(graphs)), score(model, concatenate(graphs)))
    for graph in graphs[:4]:
        assert_same(score(network, graph), score(model, graph))


def test_batch_of_many_equals_singles_in_any_company() -> None:
    network = InferenceNetwork(shipped("1").model)
    graphs = rig_graphs("1")
    alone = [score(network, graph) for graph in graphs]
    other = replace(
        graphs[0],
        edge_index_2E=graphs[0].edge_index_2E[:, 1:],
        edge_relation_E=graphs[0].edge_relation_E[1:],
    )
    for company in (graphs, (graphs[0], other, *graphs[1:])):
        together = score(network, concatenate(company))
        parts = [alone[0], *([score(network, other)] if company is not graphs else []), *alone[1:]]
        for field in fields(ModelOutput):
            np.testing.assert_allclose(
                getattr(together, field.name),
                np.concatenate([getattr(part, field.name) for part in parts]),
                atol=close_for(field.name),
                rtol=relative_for(field.name),
            )


def test_relabelling_the_components_only_moves_the_answers() -> None:
    network, graph = InferenceNetwork(shipped("1").model), rig_graphs("1")[1]
    order_V = np.random.default_rng(0).permutation(len(graph.component_type_V))
    place_V = np.argsort(order_V)
    turned = replace(
        graph,
        sensor_component_S=place_V[graph.sensor_component_S],
        component_type_V=graph.component_type_V[order_V],
        grade_set_V=graph.grade_set_V[order_V],
        edge_index_2E=place_V[graph.edge_index_2E],
    )
    found, expected = score(network, turned), score(network, graph)
    for field in fields(ModelOutput):
        np.testing.assert_allclose(
            getattr(found, field.name),
            getattr(expected, field.name)[order_V],
            atol=close_for(field.name),
            rtol=0,
        )


def of_fewer_sensors(graph: GraphBatch, sensors: int) -> GraphBatch:
    """Return the graph of a topology that never had its first sensors."""
    return replace(
        graph,
        x_STF=graph.x_STF[sensors:],
        mask_ST=graph.mask_ST[sensors:],
        sensor_component_S=graph.sensor_component_S[sensors:],
        sensor_quantity_S=graph.sensor_quantity_S[sensors:],
        sensor_slot_S=graph.sensor_slot_S[sensors:],
        sensor_graph_S=graph.sensor_graph_S[sensors:],
    )


@pytest.mark.parametrize("members", [1, 3])
def test_every_part_of_a_network_is_run_as_trained(members: int) -> None:
    torch.manual_seed(3)
    config = replace(
        small().config,
        members=members,
        attention_layers=3,
        lstm_layers=2,
        opinion_weight=0.4,
        rate_unit=0.5,
        rul_unit_h=2.0,
    )
    model = UniversalTemporalGNN(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.grade.temperature_G.uniform_(0.5, 2.0)
        model.opinion.temperature_G.uniform_(0.5, 2.0)
        model.opinion.weight_GAQTFK.normal_(0.0, 0.1)
        model.opinion.bias_GAK[:, :4, :2] = torch.randn(2, 4, 2)
        model.opinion.place_GR[0] = torch.tensor([1, -1, 0, 2])
        model.opinion.place_GR[1, 1:] = torch.arange(3)
    batch = warm_up_graphs(config, 6)
    assert_same(score(InferenceNetwork(model), batch), score(model, batch))
    one = warm_up_graphs(config, 1)
    pairs = [
        without_sensor(without_sensor(one, first), second)
        for first in range(4)
        for second in range(4)
    ]
    other = replace(
        one, edge_index_2E=one.edge_index_2E[:, 1:], edge_relation_E=one.edge_relation_E[1:]
    )
    for masked in (concatenate(pairs), concatenate([without_sensor(other, 1), *pairs])):
        assert_same(score(InferenceNetwork(model), masked), score(model, masked))
    for fewer in (of_fewer_sensors(one, 1), of_fewer_sensors(one, 2)):
        assert_same(score(InferenceNetwork(model), fewer), score(model, fewer))
        masked = concatenate([fewer, without_sensor(fewer, 2), fewer])
        assert_same(score(InferenceNetwork(model), masked), score(model, masked))
    shorter = replace(batch, x_STF=batch.x_STF[:, 1:], mask_ST=batch.mask_ST[:, 1:])
    assert_same(score(InferenceNetwork(model), shorter), score(model, shorter))


def with_edges(graph: GraphBatch, ends: list[tuple[int, int]]) -> GraphBatch:
    edge_index_2E = np.array(ends, np.int64).reshape(-1, 2).T.copy()
    return replace(graph, edge_index_2E=edge_index_2E, edge_relation_E=np.arange(len(ends)))


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param([], id="none"),
        pytest.param([(node, 0) for node in range(1, 7)], id="star"),
        pytest.param([(0, 1), (0, 1), (1, 0), (2, 2)], id="two lines between the same components"),
    ],
)
def test_edges_of_any_shape_are_attended_to_as_trained(ends: list[tuple[int, int]]) -> None:
    model, graph = shipped("1").model, with_edges(rig_graphs("1")[0], ends)
    network = InferenceNetwork(model)
    assert_same(score(network, graph), score(model, graph))
    assert_same(score(network, concatenate([graph] * 3)), score(model, concatenate([graph] * 3)))


def test_features_of_absent_steps_are_not_read() -> None:
    network, graph = InferenceNetwork(shipped("2").model), rig_graphs("2")[1]
    assert not graph.mask_ST.all()
    noisy = replace(graph, x_STF=np.where(graph.mask_ST[..., None], graph.x_STF, np.float32(5.0)))
    assert_same(score(network, noisy), score(network, graph))


def test_evidence_is_what_the_trained_network_gives() -> None:
    model, graph = shipped("1").model, rig_graphs("1")[0]
    found, expected = (
        Contributions.joined(occlude(each, graph)) for each in (InferenceNetwork(model), model)
    )
    np.testing.assert_allclose(found.health_VS, expected.health_VS, atol=2 * CLOSE)
    np.testing.assert_allclose(found.distance_VS, expected.distance_VS, rtol=1e-3, atol=1e-4)
    assert np.isfinite(found.distance_VS).any()


def test_sensor_whose_readings_are_changed_leads_what_is_unusual_of_those_that_are_read_from_it() -> (
    None
):
    equipment = rig_equipment()
    checkpoint = shipped("1")
    block = rig_block()
    values_SN = np.stack([block.values_CR[name][600] for name in equipment.sensor_ids]).astype(
        np.float32
    )
    changed = equipment.sensor_ids.index("PS1")
    values_SN[changed] = values_SN[changed].mean() + 1.5 * (
        values_SN[changed] - values_SN[changed].mean()
    )
    spec, network = checkpoint.feature_spec, InferenceNetwork(checkpoint.model)
    graph = build_graph(equipment, window_features(values_SN, equipment, spec), spec)
    found = Contributions.joined(occlude(network, graph))
    names = [component.component_id for component in equipment.components]
    for name in ("pump", "valve", "accumulator"):
        assert score(network, graph).distance_V[names.index(name)] > 1.0
        assert int(found.distance_VS[names.index(name)].argmax()) == changed


def test_arrays_that_are_read_only_are_read_and_given_ones_left_alone() -> None:
    network, graph = InferenceNetwork(shipped("1").model), rig_graphs("1")[0]
    before = score(network, graph)
    frozen = replace(graph, x_STF=graph.x_STF.copy(), sensor_slot_S=graph.sensor_slot_S.copy())
    for array in (frozen.x_STF, frozen.sensor_slot_S):
        array.flags.writeable = False
    assert_same(score(network, frozen), before, 0.0)
    assert_same(score(network, graph), before, 0.0)


def test_topology_that_changes_in_the_callers_arrays_is_a_new_one() -> None:
    network, graph = InferenceNetwork(shipped("1").model), rig_graphs("1")[0]
    mine = replace(graph, edge_index_2E=graph.edge_index_2E.copy())
    before = score(network, mine)
    mine.edge_index_2E[:] = mine.edge_index_2E[::-1].copy()
    assert np.abs(score(network, mine).health_V - before.health_V).max() > CLOSE
    assert_same(score(network, graph), before, 0.0)


def test_topologies_that_are_kept_are_bounded() -> None:
    made = small()
    network, graph = InferenceNetwork(made.model), warm_up_graphs(made.config, 1)
    for order in range(MAX_KEPT_TOPOLOGIES + 5):
        edge_relation_E = graph.edge_relation_E.copy()
        edge_relation_E[order % 16] = order // 16
        score(network, replace(graph, edge_relation_E=edge_relation_E))
    assert len(network._kept) == MAX_KEPT_TOPOLOGIES


def test_bfloat16_products_stay_near() -> None:
    model, graphs = shipped("1").model, rig_graphs("1")
    found = score(InferenceNetwork(model, torch.bfloat16), concatenate(graphs))
    expected = score(model, concatenate(graphs))
    off = np.abs(found.health_V - expected.health_V).max()
    assert 1e-5 < off < 1e-2
