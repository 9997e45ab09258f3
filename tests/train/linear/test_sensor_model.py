"""Sensor models are fitted to enough windows, with limits on groups that they did not see."""

from pathlib import Path

import numpy as np

from app.features.binning import Doubles
from app.features.sensor_model import JointPlan, SensorModel, Y, plan_joint, unpacked
from app.features.sensor_tests import excess_of, odds_of, where_rest_is_new
from tests.sensor_machines import WINDOWS, healths, loaded, write_loaded
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.reference import fit_spec
from train.linear.sensor_model import (
    ACCUSED_SHARE,
    FEWEST_WINDOWS,
    LEAST_LIMITS,
    _evidence,
    _limits,
    fit_sensor_model,
    fit_summaries,
    with_sensor_models,
)


def test_model_of_a_design_is_added_to_its_spec(tmp_path: Path) -> None:
    windows = write_loaded(tmp_path)
    chosen_W = np.arange(WINDOWS)
    spec = fit_spec(windows, chosen_W, TrainConfig(equipment="loaded-1"))
    found = with_sensor_models(spec, Fleet((windows,)), [chosen_W], 0)
    model = found.sensor_models["loaded"]
    assert model.sensor_ids == windows.equipment.sensor_ids
    assert SensorModel.model_validate_json(model.model_dump_json()) == model
    # the valve was never worn, so nothing is known about what its fault would do
    assert set(model.signatures) == {"pump", "tank"}
    again = with_sensor_models(spec, Fleet((windows,)), [chosen_W], 0)
    assert again == found


def test_small_offset_is_found_where_the_other_sensors_look_as_new() -> None:
    """Wear moves each sensor in its own way here, so what is usual says little of a new machine."""
    random = np.random.default_rng(0)
    health_RV = np.ones((1_200, 1))
    health_RV[600:] = 0.5
    summary_RSY = 0.1 * random.normal(size=(1_200, 8, Y))
    summary_RSY[600:] += random.standard_t(4, (600, 8, Y))
    fit = fit_summaries(summary_RSY, health_RV, np.arange(1_200) % 40, 0)
    assert fit is not None
    assert fit.as_new is not None
    pooled = plan_joint(np.zeros(8 * Y), fit.correlation_JJ, fit.limit_SQ, None)
    new = fit.as_new
    as_new = plan_joint(new.centre_J, new.covariance_JJ, new.limit_SQ, new.rest_S)

    def excess_WS(summary_WSY: Doubles, joint: JointPlan) -> Doubles:
        deviation_WSY = (summary_WSY - fit.centre_SY) / fit.scale_SY
        return excess_of(deviation_WSY.reshape(len(summary_WSY), -1), joint, np.zeros(100))

    fresh_WSY = 0.1 * random.normal(size=(100, 8, Y))
    assert (excess_WS(fresh_WSY, as_new) > 1).any(1).mean() <= 0.05
    fresh_WSY[:, 0, 0] += 1.5
    # in nine of ten windows the others count as new
    assert (excess_WS(fresh_WSY, as_new)[:, 0] > 1).mean() > 0.7
    assert (excess_WS(fresh_WSY, pooled)[:, 0] > 1).mean() < 0.1
    # a second sensor that is off leaves the first one to the test with all windows
    fresh_WSY[:, 1, 0] += 1.5
    assert (excess_WS(fresh_WSY, as_new)[:, 0] == 0).all()


def test_few_windows_without_wear_give_no_model_of_machines_as_new() -> None:
    random = np.random.default_rng(0)
    summary_RSY = random.normal(size=(600, 4, Y))
    group_R = np.arange(600) % 30
    health_RV = np.ones((600, 2))
    fit = fit_summaries(summary_RSY, health_RV, group_R, 0)
    assert fit is not None
    assert fit.as_new is not None
    health_RV[FEWEST_WINDOWS:, 0] = 0.5  # too few for the folds
    fit = fit_summaries(summary_RSY, health_RV, group_R, 0)
    assert fit is not None
    assert fit.as_new is None
    health_RV[:, 0] = 1.0
    health_RV[FEWEST_WINDOWS:, 1] = np.nan  # unknown health is not that of a machine as new
    fit = fit_summaries(summary_RSY, health_RV, group_R, 0)
    assert fit is not None
    assert fit.as_new is None
    health_RV[:, 1] = np.nan  # a component without any label does not matter
    fit = fit_summaries(summary_RSY, health_RV, group_R, 0)
    assert fit is not None
    assert fit.as_new is not None


def test_a_test_that_applies_in_few_windows_keeps_a_limit_that_can_be_exceeded() -> None:
    square_RSQ = np.zeros((1_000, 24, len(LEAST_LIMITS)))
    square_RSQ[:15, 0] = 60.0
    limit_SQ = _limits(square_RSQ)
    assert (limit_SQ[0] < 200.0).all()


def test_square_is_less_the_evidence_where_the_others_look_as_new() -> None:
    square_WSQ = np.array([[[20.0, 5.0, 9.0], [1.0, 1.0, 1.0]]])
    found_WSQ = where_rest_is_new(square_WSQ, np.array([25.0]), np.array([6.0, 6.0]), np.ones(1))
    assert found_WSQ.tolist() == [[[19.0, 4.0, 8.0], [0.0, 0.0, 0.0]]]


def test_evidence_of_the_fit_is_that_of_the_service() -> None:
    plan = loaded().plan.sensors
    assert plan is not None
    model = loaded().spec.sensor_models["loaded"]
    J = len(plan.sensor_S) * Y
    deviation_RJ = np.random.default_rng(2).normal(size=(20, J))
    found_R = _evidence(
        deviation_RJ,
        unpacked(model.healthy, J),
        unpacked(model.whitening, J, J),
        {n: unpacked(text, J + 1, -1) for n, text in enumerate(model.signatures.values())},
    )
    expected_R = [max(0.0, 2.0 * odds_of(each_J, plan).max()) for each_J in deviation_RJ]
    np.testing.assert_allclose(found_R, expected_R)


def test_too_few_windows_give_no_model(tmp_path: Path) -> None:
    windows = write_loaded(tmp_path, FEWEST_WINDOWS - 1)
    chosen_W = np.arange(len(windows))
    spec = fit_spec(windows, chosen_W, TrainConfig(equipment="loaded-1"))
    assert fit_sensor_model(windows, chosen_W, spec, 0) is None
    assert not with_sensor_models(spec, Fleet((windows,)), [chosen_W], 0).sensor_models


def test_neighbours_predict_a_sensor_better_than_its_own_mean() -> None:
    made = loaded()
    plan = made.plan.sensors
    assert plan is not None
    # variance of the level given all other numbers, in units of its variance in training
    assert (plan.joints[0].level_S < 0.2).all()
    J = len(plan.sensor_S) * Y
    model = made.spec.sensor_models["loaded"]
    correlation_JJ = unpacked(model.correlation, J, J)
    assert np.linalg.eigvalsh((correlation_JJ + correlation_JJ.T) / 2).min() > 0


def test_limits_hold_on_held_out_groups_with_heavy_tails() -> None:
    random = np.random.default_rng(0)
    group_R = np.repeat(np.arange(40), 25)
    common_R11 = random.standard_t(4, (1_000, 1, 1))
    summary_RSY = common_R11 + random.standard_t(4, (1_000, 8, Y))
    fit = fit_summaries(summary_RSY, healths(1_000), group_R, 0)
    assert fit is not None
    fresh_RSY = random.standard_t(4, (1_000, 1, 1)) + random.standard_t(4, (1_000, 8, Y))
    deviation_RJ = ((fresh_RSY - fit.centre_SY) / fit.scale_SY).reshape(1_000, -1)
    precision_JJ = np.linalg.inv(fit.correlation_JJ)
    force_RSY = (deviation_RJ @ precision_JJ).reshape(fresh_RSY.shape)
    level_RS = force_RSY[..., 0] ** 2 / np.diag(precision_JJ).reshape(8, Y)[:, 0]
    accused_R = (level_RS > fit.limit_SQ[:, 2]).any(1)
    assert accused_R.mean() <= 2 * ACCUSED_SHARE


def test_too_few_groups_give_no_fit() -> None:
    random = np.random.default_rng(0)
    summary_RSY = random.normal(size=(400, 4, Y))
    assert fit_summaries(summary_RSY, healths(400), np.arange(400) % 4, 0) is None


def test_a_constant_sensor_has_the_least_limits() -> None:
    square_RSQ = np.random.default_rng(0).chisquare(4.0, (2_000, 2, len(LEAST_LIMITS)))
    square_RSQ[:, 1] = 0.0
    limit_SQ = _limits(square_RSQ)
    assert (limit_SQ[0] > LEAST_LIMITS).any()
    np.testing.assert_allclose(limit_SQ[1], np.maximum(LEAST_LIMITS, limit_SQ[1]))
    assert np.isfinite(limit_SQ).all()
