"""Schemas of readings."""

import json

import pytest
from pydantic import ValidationError

from app.schemas.diagnosis import DiagnosisRequest
from app.schemas.readings import FLOAT32_MAX, InlineReadings, Reading

GOOD = {"equipment_id": "press", "sensor_id": "p", "time": "2026-01-31T11:00:00Z", "value": 1.5}
INLINE = {"start": "2026-01-31T11:00:00Z", "step_s": 1, "values": {"p": [1.0]}}


@pytest.mark.parametrize(
    "value",
    [1e300, -1e300, FLOAT32_MAX * 1.0000001, float("inf"), float("nan"), 10**400, "1", True],
)
def test_value_that_no_float32_holds_is_refused(value: object):
    with pytest.raises(ValidationError, match="expected a finite number that a float32 holds"):
        Reading.model_validate(GOOD | {"value": value})


@pytest.mark.parametrize("value", [FLOAT32_MAX, -FLOAT32_MAX, 0, 1e-300])
def test_value_that_a_float32_holds_is_accepted(value: float):
    assert Reading.model_validate(GOOD | {"value": value}).value == value


def test_inline_value_beyond_float32_is_refused_with_its_place_and_null_is_accepted():
    with pytest.raises(ValidationError, match="that a float32 holds") as caught:
        InlineReadings.model_validate(INLINE | {"values": {"p": [None, 1.0, 1e300]}})
    assert caught.value.errors()[0]["loc"] == ("values", "p", 2)


def test_only_the_first_invalid_value_of_a_sensor_is_reported():
    with pytest.raises(ValidationError) as caught:
        InlineReadings.model_validate_json(json.dumps(INLINE | {"values": {"p": ["x"] * 50_000}}))
    assert caught.value.error_count() == 1


@pytest.mark.parametrize("bad", ["", "a\x00b", "a b", "\u00e4", "x" * 65, "-a", "a\n"])
def test_ids_are_identifiers(bad: str):
    for field in ("equipment_id", "sensor_id"):
        with pytest.raises(ValidationError) as caught:
            Reading.model_validate(GOOD | {field: bad})
        assert caught.value.errors()[0]["loc"] == (field,)
    with pytest.raises(ValidationError):
        InlineReadings.model_validate(INLINE | {"values": {bad: [1.0]}})
    for field in ("equipment_id", "model_version"):
        with pytest.raises(ValidationError) as caught:
            DiagnosisRequest.model_validate({"equipment_id": "press"} | {field: bad})
        assert caught.value.errors()[0]["loc"] == (field,)
