"""The linear classifier: closed form, with weights for each missing sensor, joined by weight."""

from pathlib import Path

import numpy as np
import pytest
import torch
from app.model.runtime.inference import InferenceNetwork

from app.experiments.pairs import score
from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import plan_features
from app.model import network as model
from app.model.graph import (
    Contributions,
    GraphBatch,
    concatenate,
    plan_graph,
    split_graphs,
    tile_graphs,
    without_sensor,
)
from app.model.network import UniversalTemporalGNN, occlude, to_tensors
from tests.small import Small, graded, press, small, wave
from train.config import TrainConfig
from train.data.labels import Integers
from train.data.windows import Windows, write_windows
from train.evaluation.predict import predict
from train.linear import classifier as linear
from train.linear.classifier import fit_linear_classifier, most_sensors
from train.linear.ordinal import fit_ordinal, measure

CONFIG = TrainConfig(equipment="press-1", linear_offset=0.0, linear_warming_k=0.0)
Taught = tuple[Small, list[GraphBatch], Windows]
HEALTH_K = np.array([1.0, 0.5, 0.1])


def shown(tmp_path: Path) -> Windows:
    """Return windows of a machine whose pressure depends on the three grades of its pump."""
    grade_WV = np.full((90, 3), -1, np.int64)
    grade_WV[:, 0] = np.arange(90) % 3
    grade_WV[:, 1] = 0
    values_WSN = wave(90, 4)
    values_WSN[:, 0] += 0.3 * grade_WV[:, :1].astype(np.float32)
    values_WSN[:, 1] += 0.2 * grade_WV[:, :1].astype(np.float32)
    return write_windows(
        tmp_path / "windows", press(), ("press-1",), graded(grade_WV), [values_WSN], warm_up_run=0
    )


def graphs_of(windows: Windows, made: Small) -> list[GraphBatch]:
    found = batch_features(
        windows.values(np.arange(len(windows))), plan_features(made.equipment, made.spec)
    )
    return list(
        split_graphs(
            tile_graphs(plan_graph(made.equipment, made.spec), found.x_WSTF, found.mask_WST)
        )
    )


@pytest.fixture
def taught(tmp_path: Path) -> Taught:
    """Return the machine with a fitted linear classifier, and the graphs of its windows."""
    made, windows = small(), shown(tmp_path)
    fit_linear_classifier(made.model, made.spec, windows, np.arange(len(windows)), CONFIG)
    return made, graphs_of(windows, made), windows


def fitted_on(
    sensors: list[int], graphs: list[GraphBatch], windows: Windows, component: int = 0
) -> Floats:
    """Return the logits of a classifier fitted to these sensors only, of each window."""
    x_WL = (
        np.stack([graph.x_STF[sensors] for graph in graphs])
        .reshape(len(graphs), -1)
        .astype(np.float64)
    )
    grade_W: Integers = windows.labels.grade_WV[:, component]
    reading = fit_ordinal(
        measure(x_WL, grade_W, windows.group_W, HEALTH_K), np.ones(x_WL.shape[1], np.bool_)
    )
    return (x_WL @ reading.weight_LK + reading.bias_K).astype(np.float32)


def logits(model: UniversalTemporalGNN, graph: GraphBatch) -> Floats:
    with torch.inference_mode():
        logit_VK: Floats = model.opinion(to_tensors(graph)).numpy()
    return logit_VK


def test_classifier_uses_the_sensors_with_a_path_to_the_component(taught: Taught) -> None:
    made, graphs, windows = taught
    sensors = made.equipment.sensors_in_reach(0)
    found = np.stack([logits(made.model, graph)[0] for graph in graphs])
    np.testing.assert_allclose(found, fitted_on(sensors, graphs, windows), rtol=1e-3, atol=1e-3)
    assert (found.argmax(-1) == windows.labels.grade_WV[:, 0]).mean() > 0.95


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_one_missing_sensor_uses_the_weights_fitted_without_it(
    taught: Taught, missing: int
) -> None:
    made, graphs, windows = taught
    sensors = [sensor for sensor in made.equipment.sensors_in_reach(0) if sensor != missing]
    found = np.stack([logits(made.model, without_sensor(graph, missing))[0] for graph in graphs])
    np.testing.assert_allclose(found, fitted_on(sensors, graphs, windows), rtol=1e-3, atol=1e-3)


def test_partly_missing_sensor_is_ignored(taught: Taught) -> None:
    made, graphs, _ = taught
    broken = without_sensor(graphs[0], 1)
    partly = without_sensor(graphs[0], 1)
    partly.x_STF[1, :2], partly.mask_ST[1, :2] = 7.0, True
    np.testing.assert_array_equal(logits(made.model, partly), logits(made.model, broken))


def test_two_missing_sensors_give_no_classifier(taught: Taught) -> None:
    made, graphs, _ = taught
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.isnan(
            logits(made.model, without_sensor(without_sensor(graphs[0], first), second))
        ).all()


def test_missing_sensor_without_a_path_changes_nothing(taught: Taught) -> None:
    made, graphs, _ = taught
    np.testing.assert_array_equal(
        logits(made.model, without_sensor(graphs[0], 3)), logits(made.model, graphs[0])
    )
    np.testing.assert_array_equal(
        logits(made.model, without_sensor(without_sensor(graphs[0], 3), 0)),
        logits(made.model, without_sensor(graphs[0], 0)),
    )


def test_order_of_the_components_does_not_matter(taught: Taught) -> None:
    made, graphs, windows = taught
    turned = press(("tank", "valve", "pump"))
    places = [made.equipment.sensor_ids.index(sensor_id) for sensor_id in turned.sensor_ids]
    found = batch_features(
        windows.values(np.arange(1))[:, places], plan_features(turned, made.spec)
    )
    graph = tile_graphs(plan_graph(turned, made.spec), found.x_WSTF, found.mask_WST)
    for missing in range(4):
        np.testing.assert_allclose(
            logits(made.model, without_sensor(graph, missing))[[2, 1, 0]],
            logits(made.model, without_sensor(graphs[0], places[missing])),
            atol=1e-4,  # logits of some tens in float32
        )


def test_serving_uses_the_same_leave_one_out_weights(taught: Taught) -> None:
    made, graphs, _ = taught
    batch = concatenate(
        [graphs[0], *(without_sensor(graphs[1], missing) for missing in range(4)), graphs[2]]
    )
    found, expected = score(InferenceNetwork(made.model), batch), score(made.model, batch)
    np.testing.assert_allclose(found.grade_probability_VK, expected.grade_probability_VK, atol=1e-5)


def test_training_uses_the_same_leave_one_out_weights(taught: Taught) -> None:
    made, graphs, windows = taught

    def without_second(values_NSB: Floats) -> Floats:
        masked_NSB = values_NSB.copy()
        masked_NSB[:, 1] = np.nan
        return masked_NSB

    found = predict(made.model, made.spec, windows, np.arange(5), without_second).opinion_WVK
    expected = np.stack([logits(made.model, without_sensor(graph, 1)) for graph in graphs[:5]])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_leave_one_out_weights_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, windows = small(), shown(tmp_path)
    G, _, Q, T, F, K = made.model.opinion.weight_GAQTFK.shape
    assert Q == most_sensors(made.spec, T) == 4
    monkeypatch.setattr(model, "MAX_OPINION_BYTES", 2 * 4 * G * Q * T * F * K)
    bounded = UniversalTemporalGNN(made.config).eval()
    assert bounded.opinion.weight_GAQTFK.shape[1] == 3
    fit_linear_classifier(bounded, made.spec, windows, np.arange(len(windows)), CONFIG)
    graphs = graphs_of(windows, made)
    is_used = [
        np.isfinite(logits(bounded, without_sensor(graphs[0], missing))[0]).all()
        for missing in range(4)
    ]
    assert is_used == [True, True, False, True]
    batch = concatenate([without_sensor(graphs[0], missing) for missing in range(4)])
    np.testing.assert_allclose(
        score(InferenceNetwork(bounded), batch).grade_probability_VK,
        score(bounded, batch).grade_probability_VK,
        atol=1e-5,
    )


def test_component_with_many_inputs_has_no_leave_one_out_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, windows = small(), shown(tmp_path)
    monkeypatch.setattr(linear, "MOST_REFITTED_INPUTS", 1)
    fit_linear_classifier(made.model, made.spec, windows, np.arange(len(windows)), CONFIG)
    graph = graphs_of(windows, made)[0]
    is_used = [
        np.isfinite(logits(made.model, without_sensor(graph, missing))[0]).all()
        for missing in range(4)
    ]
    assert is_used == [False, False, False, True]


def test_component_with_one_grade_or_none_has_no_classifier(taught: Taught) -> None:
    made, graphs, _ = taught
    assert np.isnan(logits(made.model, graphs[0])[1:]).all()


def test_network_without_tables_is_unchanged(tmp_path: Path) -> None:
    made, windows = small(), shown(tmp_path)
    before = made.model.opinion.weight_GAQTFK.clone()
    made.model.config = model.ModelConfig(
        **{name: getattr(made.config, name) for name in made.config.__slots__}
        | {"opinion_steps": 0}
    )
    fit_linear_classifier(made.model, made.spec, windows, np.arange(90), CONFIG)
    assert torch.equal(made.model.opinion.weight_GAQTFK, before)


def test_classifier_on_a_batch_equals_that_on_each_graph(taught: Taught) -> None:
    made, graphs, _ = taught
    batch = concatenate([graphs[0], without_sensor(graphs[1], 0), graphs[2]])
    together = logits(made.model, batch)
    for position, graph in enumerate(split_graphs(batch)):
        np.testing.assert_allclose(
            together[3 * position : 3 * position + 3], logits(made.model, graph), atol=1e-5
        )  # sums in another order


def test_probability_joins_network_and_classifier_by_weight(taught: Taught) -> None:
    made, graphs, _ = taught
    linear_K = np.exp(logits(made.model, graphs[0])[0] - logits(made.model, graphs[0])[0].max())
    with torch.inference_mode():
        tensors = to_tensors(graphs[0])
        heads = made.model(tensors)
        own_VK = made.model.grade.probability(
            heads.score_MV, heads.threshold_MVJ, tensors.grade_set_V
        ).numpy()
    joined, is_used = (
        score(made.model, graphs[0]).grade_probability_VK,
        made.model.config.opinion_weight,
    )
    assert 0 < is_used < 1
    np.testing.assert_allclose(
        joined[0], (1 - is_used) * own_VK[0] + is_used * linear_K / linear_K.sum(), atol=1e-5
    )
    np.testing.assert_allclose(joined[1, :2], own_VK[1, :2], atol=1e-6)


def test_machine_of_another_design_has_no_classifier(taught: Taught) -> None:
    made, _, windows = taught
    other = press().model_validate(press().model_dump() | {"design": "other"})
    found = batch_features(windows.values(np.arange(1)), plan_features(other, made.spec))
    graph = tile_graphs(plan_graph(other, made.spec), found.x_WSTF, found.mask_WST)
    assert np.isnan(logits(made.model, graph)).all()


def test_evidence_of_an_unused_sensor_is_zero_even_if_the_classifier_is_confident(
    taught: Taught,
) -> None:
    made, graphs, _ = taught
    contribution_VS = Contributions.joined(occlude(made.model, graphs[0])).health_VS
    assert contribution_VS[0, 3] == pytest.approx(
        0.0, abs=1e-6
    )  # the tank's sensor is out of the pump's reach
    assert np.abs(contribution_VS[0, :3]).max() > 0.0


def test_evidence_in_pieces_equals_evidence_at_once(
    taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, graphs, _ = taught
    (whole,) = occlude(made.model, graphs[0])
    monkeypatch.setattr(model, "MAX_OCCLUDED_ROWS", 1)
    found = list(occlude(made.model, graphs[0]))
    assert len(found) == whole.health_VS.shape[1]
    np.testing.assert_allclose(Contributions.joined(found).health_VS, whole.health_VS, atol=1e-6)
