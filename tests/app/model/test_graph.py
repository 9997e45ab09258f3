"""Topologies, groups of windows and predictions."""

import pickle

import numpy as np
import pytest

from app.core.errors import WindowError
from app.features.extraction import batch_features
from app.features.spec import plan_features
from app.model.graph import Contributions, GraphGroup, Prediction, build_topology, group_rows
from app.schemas.equipment import MEDIA
from tests.graphs import with_topology
from tests.small import press, small, wave


def group(windows: int = 3) -> GraphGroup:
    made = small()
    features = batch_features(wave(windows, 4), plan_features(made.equipment, made.spec))
    topology = build_topology(made.equipment, made.spec)
    return GraphGroup(topology, features.x_WSTF, features.mask_WST)


def test_edges_follow_the_evidence_of_the_connections() -> None:
    topology = build_topology(press(), small().spec)
    line, back = MEDIA.index("pressure_line"), MEDIA.index("return_line")
    assert topology.edge_index_2E.tolist() == [[0, 1, 1], [1, 0, 2]]
    assert topology.edge_relation_E.tolist() == [2 * line, 2 * line + 1, 2 * back]


def test_shapes_and_numbers() -> None:
    found = group()
    assert found.x_WSTF.shape == (3, 4, 4, 4)
    assert (found.windows, found.steps) == (3, 4)
    assert (found.topology.sensors, found.topology.components) == (4, 3)
    assert found.topology.sensor_component_S.tolist() == [0, 0, 1, 2]
    assert found.topology.grade_set_V.tolist() == [0, 1, -1]


def test_a_machine_without_connections_has_no_edges() -> None:
    equipment = press().model_copy(update={"connections": ()})
    assert build_topology(equipment, small().spec).edge_index_2E.shape == (2, 0)


def test_topologies_are_equal_by_their_arrays() -> None:
    spec = small().spec
    topology, again = build_topology(press(), spec), build_topology(press(), spec)
    other = build_topology(press(("tank", "valve", "pump")), spec)
    assert topology == again
    assert hash(topology) == hash(again)
    assert topology != other
    assert pickle.loads(pickle.dumps(topology)) == topology


def test_topology_does_not_follow_the_arrays_it_was_made_of() -> None:
    mine = np.array([[0, 1, 1], [1, 0, 2]])
    turned = with_topology(group(), {"edge_index_2E": mine}).topology
    mine[:] = 0
    assert turned.edge_index_2E.tolist() == [[0, 1, 1], [1, 0, 2]]
    with pytest.raises(ValueError, match="read-only"):
        turned.edge_index_2E[0, 0] = 1


def test_windows_are_taken_and_merged_in_order() -> None:
    whole = group(5)
    parts = [whole.take([3, 0]), whole.take(slice(4, None))]
    merged = GraphGroup.merge(parts)
    np.testing.assert_array_equal(merged.x_WSTF, whole.x_WSTF[[3, 0, 4]])
    np.testing.assert_array_equal(merged.mask_WST, whole.mask_WST[[3, 0, 4]])


def test_windows_of_different_topologies_or_steps_are_not_merged() -> None:
    whole = group()
    shorter = GraphGroup(whole.topology, whole.x_WSTF[:, :, 1:], whole.mask_WST[:, :, 1:])
    other = with_topology(whole, {"component_type_V": np.zeros(3, np.int64)})
    for groups in ([whole, shorter], [whole, other]):
        with pytest.raises(WindowError, match="found 2 different ones"):
            GraphGroup.merge(groups)


def test_left_out_sensor_is_masked_in_a_copy() -> None:
    whole = group()
    without = whole.without_sensor(1)
    assert not without.mask_WST[:, 1].any()
    assert (without.x_WSTF[:, 1] == 0).all()
    assert whole.mask_WST[:, 1].all()


def test_predictions_and_contributions_are_taken_and_merged() -> None:
    columns = [np.arange(6.0).reshape(3, 2) for _ in range(6)]
    whole = Prediction(np.ones((3, 2, 4)), *columns)
    again = Prediction.merge([whole.take([0]), whole.take(slice(1, 3))])
    assert again.windows == 3
    for mine, theirs in zip(again, whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    parts = [Contributions(np.full((2, 1), n), np.full((2, 1), -n)) for n in range(3)]
    assert Contributions.merge(parts).health_VS.tolist() == [[0, 1, 2]] * 2


def test_equal_rows_are_found() -> None:
    found = group_rows(np.array([[1, 2], [3, 4], [1, 2]]))
    assert list(found.values()) == [[0, 2], [1]]


def test_medium_that_the_checkpoint_does_not_know_is_named() -> None:
    spec = small().spec.model_copy(update={"media": ("shaft",)})
    with pytest.raises(
        WindowError, match=r"medium that the checkpoint knows \(shaft\), found 'pressure_line'"
    ):
        build_topology(press(), spec)
