"""The linear second opinion: fitted in closed form, heard only where all its sensors are there."""

from pathlib import Path

import numpy as np
import pytest
import torch

from app import model
from app.bins import Floats
from app.features import batch_features, plan_features
from app.graph import GraphBatch, concatenate, plan_graph, split_graphs, tile_graphs, without_sensor
from app.model import UniversalTemporalGNN, score, to_tensors
from tests.small import Small, graded, press, small, wave
from train.labels import Integers
from train.opinion import fit_opinion
from train.ordinal import fit_ordinal
from train.reach import sensors_in_reach
from train.windows import Windows, write_windows


def graphs_of(values_WSN: Floats, made: Small) -> tuple[GraphBatch, ...]:
    features = batch_features(values_WSN, plan_features(made.equipment, made.spec))
    return split_graphs(tile_graphs(plan_graph(made.equipment, made.spec), features.x_WSTF, features.mask_WST))


def told_windows(directory: Path) -> Windows:
    """Return windows of a machine whose pump has three grades that its pressure tells."""
    grade_WV = np.full((90, 3), -1, np.int64)
    grade_WV[:, 0] = np.arange(90) % 3
    grade_WV[:, 1] = 0
    values_WSN = wave(90, 4)
    values_WSN[:, 0] += 0.3 * grade_WV[:, :1].astype(np.float32)
    values_WSN[-1, 2] = np.nan  # this one is not fitted to
    return write_windows(directory, press(), ("press-1",), graded(grade_WV), [values_WSN])


Taught = tuple[Small, tuple[GraphBatch, ...], Integers]


@pytest.fixture
def taught(tmp_path: Path) -> Taught:
    """Return the machine with a fitted opinion, graphs of its windows and their grades."""
    made, windows = small(), told_windows(tmp_path)
    fit_opinion(made.model, made.spec, windows, np.arange(90))
    return made, graphs_of(windows.values(np.arange(89)), made), windows.labels.grade_WV[:89]


def said(model: UniversalTemporalGNN, graph: GraphBatch) -> Floats:
    with torch.inference_mode():
        logit_VK: Floats = model.opinion(to_tensors(graph)).numpy()
    return logit_VK


def test_opinion_is_the_ordinal_reading_of_the_sensors_in_reach(taught: Taught) -> None:
    made, graphs, grade_WV = taught
    sensors = sensors_in_reach(made.equipment, 0)
    x_WL = np.stack([graph.x_STF[sensors] for graph in graphs]).reshape(len(graphs), -1).astype(np.float64)
    health_K = np.array([grade.health for grade in made.equipment.components[0].grades])
    group_W = np.unique(grade_WV[:, 0], return_inverse=True)[1]
    reading = fit_ordinal(x_WL, grade_WV[:, 0], group_W, health_K)
    told_WK = np.stack([said(made.model, graph)[0] for graph in graphs])
    np.testing.assert_allclose(told_WK, x_WL @ reading.weight_LK + reading.bias_K, rtol=1e-3, atol=1e-3)
    assert (told_WK.argmax(-1) == grade_WV[:, 0]).mean() > 0.95


def test_component_with_one_grade_or_none_has_no_opinion(taught: Taught) -> None:
    made, graphs, _ = taught
    assert np.isnan(said(made.model, graphs[0])[1:]).all()


def test_network_without_place_for_an_opinion_is_left_alone(tmp_path: Path) -> None:
    made, windows = small(), told_windows(tmp_path)
    before = made.model.opinion.weight_GRTFK.clone()
    made.model.config = model.ModelConfig(
        **{name: getattr(made.config, name) for name in made.config.__slots__} | {"opinion_steps": 0}
    )
    fit_opinion(made.model, made.spec, windows, np.arange(90))
    assert torch.equal(made.model.opinion.weight_GRTFK, before)


def test_opinion_is_left_out_where_one_of_its_sensors_is_missing(taught: Taught) -> None:
    made, graphs, _ = taught
    for sensor, heard in ((0, False), (2, False), (3, True)):
        logit_VK = said(made.model, without_sensor(graphs[0], sensor))
        assert np.isfinite(logit_VK[0]).all() == heard


def test_opinion_on_a_batch_is_that_on_each_graph(taught: Taught) -> None:
    made, graphs, _ = taught
    batch = concatenate([graphs[0], without_sensor(graphs[1], 0), graphs[2]])
    together = said(made.model, batch)
    for position, graph in enumerate(split_graphs(batch)):
        np.testing.assert_allclose(
            together[3 * position : 3 * position + 3], said(made.model, graph), atol=1e-4, rtol=1e-5
        )  # sums in another order


def test_answer_joins_network_and_opinion_half_and_half(taught: Taught) -> None:
    made, graphs, _ = taught
    opinion = np.exp(said(made.model, graphs[0])[0] - said(made.model, graphs[0])[0].max())
    with torch.inference_mode():
        tensors = to_tensors(graphs[0])
        heads = made.model(tensors)
        own_VK = made.model.grade.probability(heads.score_MV, heads.threshold_MVJ, tensors.grade_set_V).numpy()
    joined = score(made.model, graphs[0]).grade_probability_VK
    np.testing.assert_allclose(joined[0], 0.5 * own_VK[0] + 0.5 * opinion / opinion.sum(), atol=1e-5)
    np.testing.assert_allclose(joined[1, :2], own_VK[1, :2], atol=1e-6)


def test_machine_of_another_design_is_given_no_opinion(taught: Taught) -> None:
    made, _, _ = taught
    other = press().model_validate(press().model_dump() | {"design": "other"})
    features = batch_features(wave(1, 4), plan_features(other, made.spec))
    graph = tile_graphs(plan_graph(other, made.spec), features.x_WSTF, features.mask_WST)
    assert np.isnan(said(made.model, graph)).all()
