"""Sensor models are fitted to enough windows, with limits on groups that they did not see."""

from pathlib import Path

import numpy as np

from app.features.sensor_model import SensorModel, Y, unpacked
from tests.sensor_machines import WINDOWS, healths, loaded, write_loaded
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.reference import fit_spec
from train.linear.sensor_model import (
    ACCUSED_SHARE,
    FEWEST_WINDOWS,
    LEAST_LIMITS,
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
    assert (plan.level_S < 0.2).all()
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
