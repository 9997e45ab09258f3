"""The linear second opinion: fitted in closed form, heard only where all its sensors are there."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from app import model
from app.bins import Floats
from app.graph import GraphBatch, concatenate, split_graphs, without_sensor
from app.model import UniversalTemporalGNN, occlude, score, to_tensors
from tests.small import Small, press, small, wave
from train.dataset import window_graphs
from train.fit import opinions
from train.labels import Integers
from train.opinion import fit_opinion
from train.reach import sensors_in_reach


def taught() -> tuple[Small, list[GraphBatch], Integers]:
    """Return a machine whose pump has three grades that its pressure tells, and a fitted opinion of it."""
    made = small()
    grade_WV = np.full((90, 3), -1, np.int64)
    grade_WV[:, 0] = np.arange(90) % 3
    grade_WV[:, 1] = 0
    values_WSN = wave(90, 4)
    values_WSN[:, 0] += 0.3 * grade_WV[:, :1].astype(np.float32)
    graphs, _ = window_graphs(values_WSN, made.equipment, made.spec)
    fit_opinion(made.model, graphs, grade_WV, made.equipment)
    return made, graphs, grade_WV


def said(model: UniversalTemporalGNN, graph: GraphBatch) -> Floats:
    with torch.inference_mode():
        logit_VK: Floats = model.opinion(to_tensors(graph)).numpy()
    return logit_VK


def test_opinion_is_the_discriminant_on_the_sensors_in_reach() -> None:
    made, graphs, grade_WV = taught()
    sensors = sensors_in_reach(made.equipment, 0)
    x_WL = np.stack([graph.x_STF[sensors] for graph in graphs]).reshape(len(graphs), -1).astype(np.float64)
    discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x_WL, grade_WV[:, 0])
    np.testing.assert_allclose(
        opinions(made.model, graphs)[:, 0], discriminant.decision_function(x_WL), rtol=1e-3, atol=1e-3
    )
    assert (opinions(made.model, graphs)[:, 0].argmax(-1) == grade_WV[:, 0]).mean() > 0.95


def test_component_with_one_grade_or_none_has_no_opinion() -> None:
    made, graphs, _ = taught()
    assert np.isnan(said(made.model, graphs[0])[1:]).all()


def test_opinion_is_left_out_where_one_of_its_sensors_is_missing() -> None:
    made, graphs, _ = taught()
    for sensor, heard in ((0, False), (2, False), (3, True)):
        logit_VK = said(made.model, without_sensor(graphs[0], sensor))
        assert np.isfinite(logit_VK[0]).all() == heard


def test_opinion_on_a_batch_is_that_on_each_graph() -> None:
    made, graphs, _ = taught()
    batch = concatenate([graphs[0], without_sensor(graphs[1], 0), graphs[2]])
    together = said(made.model, batch)
    for position, graph in enumerate(split_graphs(batch)):
        np.testing.assert_allclose(
            together[3 * position : 3 * position + 3], said(made.model, graph), atol=1e-5
        )  # sums in another order


def test_answer_joins_network_and_opinion_half_and_half() -> None:
    made, graphs, _ = taught()
    opinion = np.exp(said(made.model, graphs[0])[0] - said(made.model, graphs[0])[0].max())
    with torch.inference_mode():
        tensors = to_tensors(graphs[0])
        heads = made.model(tensors)
        own_VK = made.model.grade.probability(heads.score_MV, heads.threshold_MVJ, tensors.grade_set_V).numpy()
    joined = score(made.model, graphs[0]).grade_probability_VK
    np.testing.assert_allclose(joined[0], 0.5 * own_VK[0] + 0.5 * opinion / opinion.sum(), atol=1e-5)
    np.testing.assert_allclose(joined[1, :2], own_VK[1, :2], atol=1e-6)


def test_machine_of_another_design_is_given_no_opinion() -> None:
    made, _, _ = taught()
    other = press().model_validate(press().model_dump() | {"design": "other"})
    graphs, _ = window_graphs(wave(1, 4), other, made.spec)
    assert np.isnan(said(made.model, graphs[0])).all()


def test_evidence_of_a_sensor_that_nothing_reads_is_nothing_although_the_opinion_is_strong() -> None:
    made, graphs, _ = taught()
    contribution_VS = np.concatenate(list(occlude(made.model, graphs[0])), 1)
    assert contribution_VS[0, 3] == 0.0  # the tank's sensor is out of the pump's reach
    assert np.abs(contribution_VS[0, :3]).max() > 0.0


def test_evidence_in_pieces_is_that_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, graphs, _ = taught()
    whole_VS = np.concatenate(list(occlude(made.model, graphs[0])), 1)
    monkeypatch.setattr(model, "MAX_OCCLUDED_ROWS", 1)
    np.testing.assert_allclose(np.concatenate(list(occlude(made.model, graphs[0])), 1), whole_VS, atol=1e-6)
