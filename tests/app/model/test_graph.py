"""Graphs of one machine and of many."""

import numpy as np
import pytest

from app.core.errors import WindowError
from app.features.extraction import batch_features, window_features
from app.features.spec import plan_features
from app.model.graph import (
    GraphBatch,
    build_graph,
    concatenate,
    plan_graph,
    split_graphs,
    take_graphs,
    tile_graphs,
    without_sensor,
)
from app.schemas.equipment import MEDIA
from tests.small import press, small, wave


def graph(components: tuple[str, ...] = ("pump", "valve", "tank"), seed: int = 0) -> GraphBatch:
    made = small()
    equipment = press(components)
    return build_graph(
        equipment, window_features(wave(1, 4, seed=seed)[0], equipment, made.spec), made.spec
    )


def test_edges_follow_the_evidence_of_the_connections() -> None:
    built = graph()
    line, back = MEDIA.index("pressure_line"), MEDIA.index("return_line")
    assert built.edge_index_2E.tolist() == [[0, 1, 1], [1, 0, 2]]
    assert built.edge_relation_E.tolist() == [2 * line, 2 * line + 1, 2 * back]


def test_shapes_and_numbers_of_a_graph() -> None:
    built = graph()
    assert built.x_STF.shape == (4, 4, 4)
    assert built.sensor_component_S.tolist() == [0, 0, 1, 2]
    assert built.grade_set_V.tolist() == [0, 1, -1]
    assert built.graphs == 1


def test_a_machine_without_connections_has_no_edges() -> None:
    made = small()
    equipment = press().model_copy(update={"connections": ()})
    built = build_graph(equipment, window_features(wave(1, 4)[0], equipment, made.spec), made.spec)
    assert built.edge_index_2E.shape == (2, 0)


def test_graphs_of_different_size_are_put_side_by_side_and_taken_apart() -> None:
    one, other = graph(), graph(("tank", "pump", "valve"), seed=1)
    both = concatenate([one, other, one])
    assert both.graphs == 3
    assert both.edge_index_2E[:, 3:6].tolist() == (other.edge_index_2E + 3).tolist()
    for part, expected in zip(split_graphs(both), (one, other, one), strict=True):
        for name in GraphBatch.__slots__:
            np.testing.assert_array_equal(getattr(part, name), getattr(expected, name))


def equal(mine: GraphBatch, theirs: GraphBatch) -> None:
    for name in GraphBatch.__slots__:
        one, other = np.asarray(getattr(mine, name)), np.asarray(getattr(theirs, name))
        assert (one.dtype, one.shape, one.tobytes()) == (
            other.dtype,
            other.shape,
            other.tobytes(),
        ), name


@pytest.mark.parametrize("connected", [True, False])
def test_windows_of_one_topology_are_what_their_graphs_side_by_side_are(connected: bool) -> None:
    made = small()
    equipment = (
        made.equipment if connected else made.equipment.model_copy(update={"connections": ()})
    )
    values_WSN = wave(5, 4, seed=3)
    features = batch_features(values_WSN, plan_features(equipment, made.spec))
    tiled = tile_graphs(plan_graph(equipment, made.spec), features.x_WSTF, features.mask_WST)
    singles = [
        build_graph(equipment, window_features(each, equipment, made.spec), made.spec)
        for each in values_WSN
    ]
    equal(tiled, concatenate(singles))
    equal(take_graphs(tiled, [3, 0, 4]), concatenate([singles[3], singles[0], singles[4]]))
    equal(take_graphs(tiled, [2]), singles[2])


def test_graphs_of_other_steps_are_not_joined() -> None:
    other = graph()
    longer = GraphBatch(
        **{
            name: getattr(other, name)
            for name in GraphBatch.__slots__
            if name not in ("x_STF", "mask_ST")
        },
        x_STF=np.zeros((4, 5, 4), np.float32),
        mask_ST=np.ones((4, 5), np.bool_),
    )
    with pytest.raises(
        WindowError,
        match=r"one number of steps and features in a batch, found \[\(4, 4\), \(5, 4\)\]",
    ):
        concatenate([other, longer])


def test_left_out_sensor_is_masked_in_a_copy() -> None:
    built = graph()
    without = without_sensor(built, 1)
    assert not without.mask_ST[1].any()
    assert (without.x_STF[1] == 0).all()
    assert built.mask_ST[1].all()


def test_medium_that_the_checkpoint_does_not_know_is_named() -> None:
    made = small()
    spec = made.spec.model_copy(update={"media": ("shaft",)})
    with pytest.raises(
        WindowError, match=r"medium that the checkpoint knows \(shaft\), found 'pressure_line'"
    ):
        build_graph(made.equipment, window_features(wave(1, 4)[0], made.equipment, spec), spec)
