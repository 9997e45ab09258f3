"""How sensor bias and warmer oil move the features."""

import numpy as np

from app.features.extraction import batch_features
from app.features.references import measure_baseline
from app.features.spec import plan_features
from tests.small import press, small, wave
from train.config import TrainConfig
from train.data.reference import spec_of
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


def test_offset_also_moves_the_residuals_of_neighbours() -> None:
    long = press().model_copy(update={"window_s": press().window_s * 10, "cycle_s": None})
    random = np.random.default_rng(0)
    values_WSN = random.normal(100.0, 5.0, (40, 4, long.bins)).astype(np.float32)
    values_WSN[:, 1] = 0.5 * values_WSN[:, 0] + values_WSN[:, 1] / 50.0  # Q1 follows P1
    config = TrainConfig(equipment="p", machine_baseline_h=1.0, statistics=("mean", "residual"))
    baseline = measure_baseline(lambda: [values_WSN], long)
    plan = plan_features(long, spec_of([values_WSN], long, config), baseline)
    instruments = Instruments.of(long, values_WSN)
    found = directions(values_WSN[:8], plan, instruments, offset=0.01, warming_k=0.0)
    moved, own, others = found[0], found[0][0], found[0][1]
    assert np.abs(own[:, 0]).min() > 0.0
    assert (others[:, 0] == 0.0).all(), "the readings of Q1 stay"
    assert (np.abs(others[:, 1]) > 0.01).all(), "what P1 predicts of Q1 does not"
    assert not moved[3].any(), "T1 is no neighbour"


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
