"""How sensor bias and warmer oil move the features, and that the linear classifier ignores them."""

from pathlib import Path

import numpy as np
import pytest

from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.spec import plan_features
from app.model.trained import TrainedModel
from tests.small import graded, press, small, wave
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.windows import Windows, write_windows
from train.evaluation.predict import predict
from train.linear.classifier import fit_linear_classifier
from train.linear.nuisance import Instruments, directions, warmed

VALUES = wave(20, 4)
INSTRUMENTS = Instruments.of(press(), VALUES)


def test_offset_moves_only_features_of_its_sensor_by_the_measured_amount() -> None:
    plan = plan_features(press(), small().spec)
    found = directions(VALUES, plan, INSTRUMENTS, offset=0.3, warming_k=0.0)
    assert found.shape[0] == 4
    for sensor in range(4):
        off = VALUES.copy()
        off[:, sensor] += np.float32(0.3 * INSTRUMENTS.scale_S[sensor])
        moved_WSTF = batch_features(off, plan).x_WSTF - batch_features(VALUES, plan).x_WSTF
        np.testing.assert_allclose(found[sensor], moved_WSTF.mean(0), atol=1e-5)
        assert not found[sensor][np.arange(4) != sensor].any()
        assert found[sensor][sensor].any()


def test_warmer_oil_is_thinner() -> None:
    rise = warmed(VALUES, INSTRUMENTS, 10.0) - VALUES  # P1, Q1, P2, T1
    np.testing.assert_allclose(rise[:, 3], 10.0, rtol=1e-4)
    assert (rise[:, [0, 2]] < 0).all()  # less laminar loss
    assert (rise[:, 1] < 0).all()  # more leaks inside the pump
    np.testing.assert_allclose(warmed(VALUES, INSTRUMENTS, 0.0), VALUES)


def test_zero_strength_gives_no_direction() -> None:
    plan = plan_features(press(), small().spec)
    assert directions(VALUES, plan, INSTRUMENTS, 0.0, 0.0).shape == (
        0,
        *batch_features(VALUES, plan).x_WSTF.shape[1:],
    )
    assert len(directions(VALUES, plan, INSTRUMENTS, 0.3, 10.0)) == 5


def shapes(directory: Path) -> Windows:
    """Write windows; the pump's grade sets the pressure and, with noise, the course of the flow."""
    grade_WV = np.full((90, 3), -1, np.int64)
    grade_WV[:, 0] = np.arange(90) % 3
    values_WSN = wave(90, 4)
    worn_W1 = grade_WV[:, :1].astype(np.float32)
    values_WSN[:, 0] += 0.3 * worn_W1
    values_WSN[:, 1] += 0.1 * worn_W1 * np.arange(12, dtype=np.float32)
    return write_windows(
        directory, press(), ("press-1",), graded(grade_WV), [values_WSN], warm_up_run=0
    )


@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_classifier_fitted_for_offsets_tolerates_one(tmp_path: Path, offset: float) -> None:
    windows, made = shapes(tmp_path), small()
    config = TrainConfig(equipment="press-1", linear_offset=offset, linear_warming_k=0.0)
    parts = fit_linear_classifier(
        made.config, made.spec, Fleet((windows,)), [np.arange(90)], config
    )
    model = TrainedModel(made.model.ensemble, *parts)

    def right(disturb_by: float) -> float:
        def disturb(values_WSN: Floats) -> Floats:
            off = values_WSN.copy()
            off[:, 0] += np.float32(disturb_by)
            return off

        found = predict(model, made.spec, windows, np.arange(90), disturb)
        return float((found.linear_WVK[:, 0].argmax(-1) == windows.labels.grade_WV[:, 0]).mean())

    assert right(0.0) > 0.9
    # a classifier of the height alone fails
    assert right(0.8) > 0.9 if offset else right(0.8) < 0.8
