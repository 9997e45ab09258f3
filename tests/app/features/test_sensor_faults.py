"""Detection of sensor faults."""

import numpy as np

from app.features.sensor_faults import Fault, find_faults
from app.features.spec import plan_features
from tests.features import window_features
from tests.small import press, small, wave
from train.config import TrainConfig
from train.data.reference import spec_of


def test_sensor_that_is_constant_in_training_is_not_frozen() -> None:
    equipment = press()
    values_WSN = wave(20, 4)
    values_WSN[::2, 0] = 0.0
    spec = spec_of([values_WSN], equipment, TrainConfig(equipment="press-1"))
    assert not find_faults(values_WSN, plan_features(equipment, spec)).any()


def test_frozen_noisy_and_out_of_range_sensors_are_masked_and_reported() -> None:
    made = small()
    values_SN = wave(1, 4)[0]
    values_SN[0] = 10.0
    values_SN[1] += 40 * (-1.0) ** np.arange(12)
    values_SN[2, 5] = 301.0
    features = window_features(values_SN, made.equipment, made.spec)
    assert features.faulty == (
        Fault("P1", "frozen"),
        Fault("Q1", "noisy"),
        Fault("P2", "out_of_range"),
    )
    assert features.mask_ST.any(axis=1).tolist() == [False, False, False, True]
    assert np.isnan(features.exceedance_S[:3]).all()
