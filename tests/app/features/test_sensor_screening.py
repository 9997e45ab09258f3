"""Sensors are tested against what the others predict, and their faults are named."""

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest

from app.features.binning import Floats
from app.features.extraction import FeatureBatch, batch_features
from app.features.sensor_faults import FAULT_REASONS
from app.features.sensor_screening import Finding, findings_of
from app.features.spec import FeatureSpec, plan_features
from app.schemas.equipment import Equipment
from tests.sensor_machines import PUMP, TANK, Loaded, healths, loaded, loaded_windows

RANDOM = np.random.default_rng(5)
IMPLAUSIBLE = 1 + FAULT_REASONS.index("implausible")


def features_of(values_WSN: Floats) -> FeatureBatch:
    return batch_features(values_WSN, loaded().plan)


def named(found: FeatureBatch, window: int = 0) -> tuple[Finding, ...]:
    plan = loaded().plan
    return findings_of(found.finding_WS[window], found.fault_WS[window], plan.sensor_ids)


def healthy(windows: int = 1, seed: int = 9) -> Floats:
    return loaded_windows(np.ones((windows, 3)), seed)


def spiked(values_N: Floats) -> Floats:
    found_N = values_N.copy()
    found_N[[7, 22, 41]] += np.float32(120.0)
    return found_N


KINDS: dict[str, Callable[[Floats], Floats]] = {
    "offset": lambda values_N: values_N + np.float32(15.0),
    "drift": lambda values_N: values_N + np.linspace(0.0, 30.0, 60, dtype=np.float32),
    "gain": lambda values_N: values_N * np.float32(1.35),
    "unit_swap": lambda values_N: values_N * np.float32(14.5038),
    "noise": lambda values_N: values_N + RANDOM.normal(0.0, 12.0, 60).astype(np.float32),
    "spike": spiked,
    "stuck": lambda values_N: np.full_like(values_N, values_N[0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fault_of_a_sensor_is_found_named_and_masked(kind: str) -> None:
    values_WSN = healthy()
    values_WSN[0, 2] = KINDS[kind](values_WSN[0, 2])
    found = features_of(values_WSN)
    (finding,) = named(found)
    assert (finding.sensor_id, finding.kind, finding.masked) == ("P2", kind, True)
    assert not found.mask_WST[0, 2].any()
    assert not found.x_WSTF[0, 2].any()
    assert found.mask_WST[0, [0, 1, 3, 4, 5]].all()


def test_no_windows_have_no_findings() -> None:
    found = features_of(healthy()[:0])
    assert found.x_WSTF.shape[0] == 0
    assert found.finding_WS.shape == (0, 6)


def test_sizes_are_in_the_unit_of_the_sensor() -> None:
    values_WSN = healthy(2)
    values_WSN[0, 2] += np.float32(15.0)
    values_WSN[1, 2] *= np.float32(1.35)
    found = features_of(values_WSN)
    offset, gain = named(found, 0)[0], named(found, 1)[0]
    assert offset.size == pytest.approx(15.0, abs=1.5)
    assert gain.size == pytest.approx(1.35, abs=0.05)
    assert offset.score is not None
    assert offset.score > 1.0


def test_fault_that_begins_in_the_window_has_its_bin() -> None:
    values_WSN = healthy()
    values_WSN[0, 2, 30:] += np.float32(40.0)
    (finding,) = named(features_of(values_WSN))
    assert finding.sensor_id == "P2"
    assert finding.since == 30


def test_two_faulty_sensors_are_both_found_where_as_many_are_allowed() -> None:
    """Six sensors allow one to be accused; with two at fault no one is, and the window says so."""
    values_WSN = healthy()
    values_WSN[0, 2] += np.float32(30.0)
    values_WSN[0, 5] -= np.float32(30.0)
    found = features_of(values_WSN)
    assert found.unexplained_W.tolist() == [True]
    assert named(found) == ()
    assert (found.fault_WS == 0).all()


def test_fault_of_a_component_is_not_taken_for_that_of_a_sensor() -> None:
    health_WV = np.ones((200, 3))
    health_WV[:, TANK] = np.linspace(0.98, 0.5, 200)
    accused_WS = features_of(loaded_windows(health_WV, seed=31)).fault_WS == IMPLAUSIBLE
    assert accused_WS.any(1).mean() <= 0.04


def test_sensor_that_stays_at_an_end_of_its_range_is_not_called_stuck() -> None:
    values_WSN = healthy()
    values_WSN[0, 2, 30:] = 2_000.0
    (finding,) = named(features_of(values_WSN))
    assert (finding.sensor_id, finding.kind, finding.since) == ("P2", "out_of_range", 30)
    values_WSN[0, 2, 30:] = values_WSN[0, 2, 29]
    (finding,) = named(features_of(values_WSN))
    assert (finding.sensor_id, finding.kind, finding.since) == ("P2", "stuck", 29)


def test_signal_that_is_smoother_than_it_should_be_has_no_noise() -> None:
    values_WSN = healthy(10)
    mean_WS1 = values_WSN[:, 2:3].mean(2, keepdims=True)
    values_WSN[:, 2:3] = mean_WS1 + np.float32(0.02) * (values_WSN[:, 2:3] - mean_WS1)
    found = features_of(values_WSN)
    kinds = {each.kind for w in range(10) for each in named(found, w)}
    assert kinds
    assert "noise" not in kinds


def test_masked_sensors_and_unknown_ones_leave_the_tests_of_machines_as_new() -> None:
    made = loaded()
    model = made.spec.sensor_models["loaded"]
    assert model.as_new is not None
    topology = made.equipment.model_dump()
    topology["components"][TANK]["sensors"] = topology["components"][TANK]["sensors"][:1]
    plan = plan_features(Equipment.model_validate(topology), made.spec)
    assert plan.sensors is not None
    assert len(plan.sensors.joints) == 2
    whole = made.plan.sensors
    assert whole is not None
    np.testing.assert_allclose(plan.sensors.joints[1].rest_S, whole.joints[1].rest_S[:5] * 4 / 5)
    values_WSN = healthy(20)[:, :5]
    values_WSN[:, 0] = np.nan
    values_WSN[:, 2] += np.float32(15.0)
    found = batch_features(values_WSN, plan)
    assert (found.fault_WS[:, 2] == IMPLAUSIBLE).mean() > 0.9
    assert not found.fault_WS[:, [3, 4]].any()


def test_few_healthy_sensors_are_accused_of_machines_with_and_without_wear() -> None:
    health_WV = healths(300, seed=21)
    found = features_of(loaded_windows(health_WV, seed=22))
    accused_W = (found.fault_WS == IMPLAUSIBLE).any(1)
    is_worn_W = (health_WV < 1).any(1)
    assert accused_W[~is_worn_W].mean() <= 0.04
    assert accused_W[is_worn_W].mean() <= 0.04


def test_worn_component_has_the_strongest_evidence_against_it() -> None:
    health_WV = np.ones((2, 3))
    health_WV[0, PUMP] = health_WV[1, TANK] = 0.3
    blame_WV = features_of(loaded_windows(health_WV, seed=30)).blame_WV
    assert np.isnan(blame_WV[:, 1]).all()  # the valve never wore
    assert np.nanargmax(blame_WV, axis=1).tolist() == [PUMP, TANK]
    assert (np.nanmax(features_of(healthy()).blame_WV) < np.nanmax(blame_WV, axis=1)).all()


def test_faulty_sensor_does_not_blame_a_component() -> None:
    values_WSN = healthy()
    before = np.nanmax(features_of(values_WSN).blame_WV)
    values_WSN[0, 4] += np.float32(40.0)
    after = features_of(values_WSN)
    assert named(after)[0].sensor_id == "T1"
    assert np.nanmax(after.blame_WV) < before + 3.0


def test_missing_sensor_does_not_keep_others_from_being_tested() -> None:
    values_WSN = healthy()
    values_WSN[0, 0] = np.nan
    assert named(features_of(values_WSN)) == ()
    values_WSN[0, 2] += np.float32(25.0)
    assert [each.sensor_id for each in named(features_of(values_WSN))] == ["P2"]


def test_dropout_is_reported_and_its_readings_are_used() -> None:
    values_WSN = healthy()
    values_WSN[0, 3, 12:48] = np.nan
    found = features_of(values_WSN)
    assert named(found) == (Finding("P3", "dropout", 12, None, None, masked=False),)
    assert found.mask_WST[0, 3].any()


def test_findings_do_not_depend_on_the_batch() -> None:
    values_WSN = loaded_windows(healths(40, seed=3), seed=4)
    values_WSN[::3, 2] += np.float32(12.0)
    together, plan = features_of(values_WSN), loaded().plan
    for window in range(0, 40, 7):
        alone = batch_features(values_WSN[window : window + 1], plan)
        for each in fields(FeatureBatch):
            one, all_of = getattr(alone, each.name), getattr(together, each.name)
            assert one.tobytes() == all_of[window : window + 1].tobytes(), each.name


def without_model(made: Loaded) -> FeatureSpec:
    return made.spec.model_copy(update={"sensor_models": {}})


def test_without_a_sensor_model_only_a_sensors_own_signal_is_tested() -> None:
    made = loaded()
    plan = plan_features(made.equipment, without_model(made))
    values_WSN = healthy(2)
    values_WSN[0, 2] += np.float32(15.0)
    values_WSN[1, 2] = values_WSN[1, 2, 0]
    found = batch_features(values_WSN, plan)
    assert findings_of(found.finding_WS[0], found.fault_WS[0], plan.sensor_ids) == ()
    (stuck,) = findings_of(found.finding_WS[1], found.fault_WS[1], plan.sensor_ids)
    assert (stuck.sensor_id, stuck.kind, stuck.score) == ("P2", "stuck", None)
    assert np.isnan(found.blame_WV).all()


def test_value_in_another_unit_beyond_the_range_is_a_unit_swap() -> None:
    made = loaded()
    plan = plan_features(made.equipment, without_model(made))
    values_WSN = healthy(2)
    values_WSN[0, 0] *= np.float32(100.0)  # bar read as kPa
    values_WSN[1, 0] += np.float32(5_000.0)
    found = batch_features(values_WSN, plan)
    kinds = [
        findings_of(found.finding_WS[w], found.fault_WS[w], plan.sensor_ids)[0].kind
        for w in range(2)
    ]
    assert kinds == ["unit_swap", "out_of_range"]


def test_machine_without_some_sensors_of_the_model_is_tested_by_the_others() -> None:
    made = loaded()
    document = made.equipment.model_dump()
    smaller = Equipment.model_validate(
        {
            **document,
            "components": document["components"][:2],
            "connections": document["connections"][:1],
        }
    )
    plan = plan_features(smaller, made.spec)
    values_WSN = healthy(2)[:, :4]
    values_WSN[1, 1] += np.float32(20.0)
    found = batch_features(values_WSN, plan)
    assert findings_of(found.finding_WS[0], found.fault_WS[0], plan.sensor_ids) == ()
    found_ids = [
        each.sensor_id
        for each in findings_of(found.finding_WS[1], found.fault_WS[1], plan.sensor_ids)
    ]
    assert found_ids == ["Q1"]
