"""The linear classifier: closed form, with weights for each missing sensor, joined by weight."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import plan_features
from app.model import linear_classifier as model
from app.model.graph import Contributions, GraphGroup, build_topology
from app.model.linear_classifier import LinearClassifier, LinearTables
from app.model.trained import TrainedModel
from tests.graphs import predict as predict_group
from tests.small import Small, graded, press, small, wave
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.labels import Integers
from train.data.windows import Windows, write_windows
from train.evaluation.predict import predict
from train.linear import classifier as fitting
from train.linear.classifier import fit_linear_classifier, most_sensors
from train.linear.ordinal import fit_ordinal, measure

CONFIG = TrainConfig(equipment="press-1", linear_offset=0.0, linear_warming_k=0.0)
FittedClassifier = tuple[Small, list[GraphGroup], Windows]
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


def graphs_of(windows: Windows, made: Small) -> list[GraphGroup]:
    found = batch_features(
        windows.values(np.arange(len(windows))), plan_features(made.equipment, made.spec)
    )
    group = GraphGroup(build_topology(made.equipment, made.spec), found.x_WSTF, found.mask_WST)
    return [group.take([window]) for window in range(group.windows)]


def fitted(made: Small, windows: Windows) -> Small:
    """Return the machine with a classifier fitted to windows."""
    chosen_W = np.arange(len(windows))
    parts = fit_linear_classifier(made.config, made.spec, Fleet((windows,)), [chosen_W], CONFIG)
    return replace(made, model=TrainedModel(made.model.ensemble, *parts))


@pytest.fixture
def fitted_classifier(tmp_path: Path) -> FittedClassifier:
    """Return the machine with a fitted classifier, and the graphs of its windows."""
    windows = shown(tmp_path)
    made = fitted(small(), windows)
    return made, graphs_of(windows, made), windows


def fitted_on(
    sensors: list[int], graphs: list[GraphGroup], windows: Windows, component: int = 0
) -> Floats:
    """Return the logits of a classifier fitted to these sensors only, of each window."""
    x_WL = (
        np.stack([graph.x_WSTF[0, sensors] for graph in graphs])
        .reshape(len(graphs), -1)
        .astype(np.float64)
    )
    grade_W: Integers = windows.labels.grade_WV[:, component]
    reading = fit_ordinal(
        measure(x_WL, grade_W, windows.group_W, HEALTH_K), np.ones(x_WL.shape[1], np.bool_)
    )
    return (x_WL @ reading.weight_LK + reading.bias_K).astype(np.float32)


def logits(model: TrainedModel, graph: GraphGroup) -> Floats:
    """Return the logits of the components of one window."""
    assert model.classifier is not None
    return model.classifier.logits(graph)[0]


def test_classifier_uses_the_sensors_with_a_path_to_the_component(
    fitted_classifier: FittedClassifier,
) -> None:
    made, graphs, windows = fitted_classifier
    sensors = made.equipment.sensors_in_reach(0)
    found = np.stack([logits(made.model, graph)[0] for graph in graphs])
    np.testing.assert_allclose(found, fitted_on(sensors, graphs, windows), rtol=1e-3, atol=1e-3)
    assert (found.argmax(-1) == windows.labels.grade_WV[:, 0]).mean() > 0.95


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_one_missing_sensor_uses_the_weights_fitted_without_it(
    fitted_classifier: FittedClassifier, missing: int
) -> None:
    made, graphs, windows = fitted_classifier
    sensors = [sensor for sensor in made.equipment.sensors_in_reach(0) if sensor != missing]
    found = np.stack([logits(made.model, graph.without_sensor(missing))[0] for graph in graphs])
    np.testing.assert_allclose(found, fitted_on(sensors, graphs, windows), rtol=1e-3, atol=1e-3)


def test_partly_missing_sensor_is_ignored(fitted_classifier: FittedClassifier) -> None:
    made, graphs, _ = fitted_classifier
    broken = graphs[0].without_sensor(1)
    partly = graphs[0].without_sensor(1)
    partly.x_WSTF[:, 1, :2], partly.mask_WST[:, 1, :2] = 7.0, True
    np.testing.assert_array_equal(logits(made.model, partly), logits(made.model, broken))


def test_two_missing_sensors_give_no_classifier(fitted_classifier: FittedClassifier) -> None:
    made, graphs, _ = fitted_classifier
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.isnan(
            logits(made.model, graphs[0].without_sensor(first).without_sensor(second))
        ).all()


def test_missing_sensor_without_a_path_changes_nothing(fitted_classifier: FittedClassifier) -> None:
    made, graphs, _ = fitted_classifier
    np.testing.assert_array_equal(
        logits(made.model, graphs[0].without_sensor(3)), logits(made.model, graphs[0])
    )
    np.testing.assert_array_equal(
        logits(made.model, graphs[0].without_sensor(3).without_sensor(0)),
        logits(made.model, graphs[0].without_sensor(0)),
    )


def test_order_of_the_components_does_not_matter(fitted_classifier: FittedClassifier) -> None:
    made, graphs, windows = fitted_classifier
    turned = press(("tank", "valve", "pump"))
    places = [made.equipment.sensor_ids.index(sensor_id) for sensor_id in turned.sensor_ids]
    found = batch_features(
        windows.values(np.arange(1))[:, places], plan_features(turned, made.spec)
    )
    graph = GraphGroup(build_topology(turned, made.spec), found.x_WSTF, found.mask_WST)
    for missing in range(4):
        np.testing.assert_allclose(
            logits(made.model, graph.without_sensor(missing))[[2, 1, 0]],
            logits(made.model, graphs[0].without_sensor(places[missing])),
            atol=1e-4,  # logits of some tens in float32
        )


def test_windows_in_a_batch_use_the_weights_that_each_uses_alone(
    fitted_classifier: FittedClassifier,
) -> None:
    made, graphs, _ = fitted_classifier
    assert made.model.classifier is not None
    missing = [graphs[1].without_sensor(sensor) for sensor in range(4)]
    windows = [graphs[0], *missing, graphs[2], graphs[3].without_sensor(0).without_sensor(1)]
    found_WVK = made.model.classifier.logits(GraphGroup.merge(windows))
    expected_WVK = np.stack([logits(made.model, window) for window in windows])
    np.testing.assert_allclose(found_WVK, expected_WVK, atol=1e-5)


def test_training_uses_the_same_leave_one_out_weights(fitted_classifier: FittedClassifier) -> None:
    made, graphs, windows = fitted_classifier

    def without_second(values_NSB: Floats) -> Floats:
        masked_NSB = values_NSB.copy()
        masked_NSB[:, 1] = np.nan
        return masked_NSB

    found = predict(made.model, made.spec, windows, np.arange(5), without_second).linear_WVK
    expected = np.stack([logits(made.model, graph.without_sensor(1)) for graph in graphs[:5]])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_leave_one_out_weights_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, windows = small(), shown(tmp_path)
    G, _, Q, T, F, K = LinearTables.empty(made.config).weight_GAQTFK.shape
    assert Q == most_sensors(made.spec, T) == 4
    monkeypatch.setattr(model, "MAX_LEFT_OUT_BYTES", 2 * 4 * G * Q * T * F * K)
    assert LinearTables.empty(made.config).weight_GAQTFK.shape[1] == 3
    bounded = fitted(made, windows).model
    graphs = graphs_of(windows, made)
    known = [
        np.isfinite(logits(bounded, graphs[0].without_sensor(missing))[0]).all()
        for missing in range(4)
    ]
    assert known == [True, True, False, True]


def test_component_with_many_inputs_has_no_leave_one_out_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, windows = small(), shown(tmp_path)
    monkeypatch.setattr(fitting, "MOST_REFITTED_INPUTS", 1)
    made = fitted(made, windows)
    graph = graphs_of(windows, made)[0]
    is_used = [
        np.isfinite(logits(made.model, graph.without_sensor(missing))[0]).all()
        for missing in range(4)
    ]
    assert is_used == [False, False, False, True]


def test_component_with_one_grade_or_none_has_no_classifier(
    fitted_classifier: FittedClassifier,
) -> None:
    made, graphs, _ = fitted_classifier
    assert np.isnan(logits(made.model, graphs[0])[1:]).all()


def test_model_without_classifier_gets_none(tmp_path: Path) -> None:
    made, windows = small(), shown(tmp_path)
    without = replace(made.config, linear_steps=0)
    linear = fit_linear_classifier(without, made.spec, Fleet((windows,)), [np.arange(90)], CONFIG)
    assert linear == (None, None)


def test_prediction_joins_network_and_classifier_by_weight(
    fitted_classifier: FittedClassifier,
) -> None:
    made, graphs, _ = fitted_classifier
    linear_K = np.exp(logits(made.model, graphs[0])[0] - logits(made.model, graphs[0])[0].max())
    own_VK = predict_group(TrainedModel(made.model.ensemble), graphs[0]).probability_WVK[0]
    joined_VK = predict_group(made.model, graphs[0]).probability_WVK[0]
    weight = made.config.linear_weight
    assert 0 < weight < 1
    expected_K = (1 - weight) * own_VK[0] + weight * linear_K / linear_K.sum()
    np.testing.assert_allclose(joined_VK[0], expected_K, atol=1e-5)
    np.testing.assert_allclose(joined_VK[1, :2], own_VK[1, :2], atol=1e-6)


def test_machine_of_another_design_has_no_classifier(fitted_classifier: FittedClassifier) -> None:
    made, _, windows = fitted_classifier
    other = press().model_validate(press().model_dump() | {"design": "other"})
    found = batch_features(windows.values(np.arange(1)), plan_features(other, made.spec))
    graph = GraphGroup(build_topology(other, made.spec), found.x_WSTF, found.mask_WST)
    assert np.isnan(logits(made.model, graph)).all()


def test_contribution_of_a_sensor_without_a_path_is_zero(
    fitted_classifier: FittedClassifier,
) -> None:
    made, graphs, _ = fitted_classifier
    found = made.model.predictor().contributions(graphs[0])
    contribution_VS = Contributions.merge(found).health_VS
    assert contribution_VS[0, 3] == pytest.approx(0.0, abs=1e-6)
    assert np.abs(contribution_VS[0, :3]).max() > 0.0


def test_each_grade_set_uses_the_weights_for_its_own_missing_sensor(
    fitted_classifier: FittedClassifier,
) -> None:
    made, graphs, _ = fitted_classifier
    tables, generator = LinearTables.empty(made.config), np.random.default_rng(0)
    tables.weight_GAQTFK[:] = generator.normal(size=tables.weight_GAQTFK.shape)
    tables.bias_GAK[:] = generator.normal(size=tables.bias_GAK.shape)
    tables.place_GR[0, [2, 0, 3]] = np.arange(3)
    tables.place_GR[1, [1, 2]] = np.arange(2)
    classifier, whole = LinearClassifier(tables), graphs[0]
    slot_S = whole.topology.sensor_slot_S.tolist()
    used = {
        (): (0, 0),
        (0,): (2, 0),
        (1,): (0, 1),
        (2,): (1, 2),
        (3,): (3, 0),
        (0, 1): (2, 1),
        (0, 3): (None, 0),
        (1, 2): (1, None),
    }
    for missing_slots, choices in used.items():
        shown_group = whole
        for slot in missing_slots:
            shown_group = shown_group.without_sensor(slot_S.index(slot))
        logit_VK = classifier.logits(shown_group)[0]
        for number, choice in enumerate(choices):
            if choice is None:
                assert np.isnan(logit_VK[number]).all()
                continue
            expected_K = tables.bias_GAK[number, choice].astype(np.float64)
            for slot, place in enumerate(tables.place_GR[number].tolist()):
                if place >= 0 and slot not in missing_slots:
                    x_TF = whole.x_WSTF[0, slot_S.index(slot)]
                    weight_TFK = tables.weight_GAQTFK[number, choice, place]
                    expected_K += np.einsum("tf,tfk->k", x_TF, weight_TFK)
            np.testing.assert_allclose(logit_VK[number], expected_K, rtol=1e-4, atol=1e-5)
        assert np.isnan(logit_VK[2]).all()
