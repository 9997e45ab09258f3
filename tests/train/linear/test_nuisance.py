"""How sensor bias and warmer oil move the features."""

import numpy as np

from app.features.extraction import batch_features
from app.features.spec import plan_features
from tests.small import press, small, wave
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
