"""The feature spec, and how it fits a topology."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from app.core.errors import WindowError
from app.features.spec import FeatureSpec
from tests.features import window_features
from tests.small import press, small, wave


def test_other_unit_or_number_of_steps_than_trained_raises() -> None:
    made = small()
    data = made.equipment.model_dump(mode="json")
    data["components"][0]["sensors"][0]["unit"] = "psi"
    with pytest.raises(
        WindowError, match=r"'press.P1' as pressure in bar, the equipment has it as pressure in psi"
    ):
        window_features(
            wave(1, 4)[0], type(made.equipment).model_validate_json(json.dumps(data)), made.spec
        )
    with pytest.raises(
        WindowError, match=r"windows of 4 steps for 'press.P1', the equipment has 6"
    ):
        window_features(wave(1, 4)[0], made.equipment.model_copy(update={"steps": 6}), made.spec)


def test_values_of_another_shape_raise() -> None:
    made = small()
    with pytest.raises(WindowError, match="4 sensors x 12 bins for 'press-1', found 4 x 11"):
        window_features(np.zeros((4, 11), np.float32), made.equipment, made.spec)


def test_sensor_without_a_reference_is_scaled_by_its_range_and_reported() -> None:
    equipment = press().model_copy(update={"design": "other"})
    spec = small().spec
    values_SN = np.full((4, 12), 300.0, np.float32)
    values_SN[1] = 100.0
    features = window_features(values_SN, equipment, spec)
    assert features.unreferenced == equipment.sensor_ids
    assert features.x_STF[0, 0, 0] == 1.0  # upper end of -100 to 300
    assert features.x_STF[1, 0, 0] == 0.0  # its middle
    assert np.isnan(features.exceedance_S).all()


def test_spec_survives_a_round_trip_through_json() -> None:
    spec = small().spec
    assert FeatureSpec.model_validate_json(spec.model_dump_json()) == spec


def test_spec_with_a_table_of_another_width_raises() -> None:
    data = json.loads(small().spec.model_dump_json())
    data["references"]["press"]["P1"]["low"][0].pop()
    with pytest.raises(ValidationError, match=r"references.press.P1"):
        FeatureSpec.model_validate_json(json.dumps(data))
