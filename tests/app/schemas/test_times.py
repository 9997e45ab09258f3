"""Times in requests."""

from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from app.schemas.diagnosis import DiagnosisRequest
from app.schemas.readings import InlineReadings, Reading
from app.schemas.times import AwareTime

TIME = TypeAdapter[datetime](AwareTime)


@pytest.mark.parametrize(
    "number", [5, 5.5, "5", "1769857200", "1.7e9", "123e-5", True, None, "", "nan"]
)
def test_number_is_no_time(number: object):
    with pytest.raises(ValidationError, match="expected ISO 8601 text of a time with its zone"):
        TIME.validate_python(number)


@pytest.mark.parametrize(
    "text", ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", "2026-01-31 12:00:00.0Z"]
)
def test_iso_text_with_a_zone_is_a_time(text: str):
    assert (
        TIME.validate_python(text)
        == TIME.validate_strings(text)
        == datetime(2026, 1, 31, 12, tzinfo=UTC)
    )


def test_datetime_is_accepted_in_python_and_needs_a_zone():
    now = datetime(2026, 1, 31, tzinfo=UTC)
    assert TIME.validate_python(now) == now
    with pytest.raises(ValidationError, match="timezone"):
        TIME.validate_python(now.replace(tzinfo=None))


def test_every_time_of_a_body_refuses_numbers():
    bodies = (
        (DiagnosisRequest, '{"equipment_id": "p", "at": 1769857200}', "at"),
        (
            Reading,
            '{"equipment_id": "p", "sensor_id": "s", "time": 1769857200, "value": 1}',
            "time",
        ),
        (InlineReadings, '{"start": 1769857200, "step_s": 1, "values": {"s": [1]}}', "start"),
    )
    for model, body, field in bodies:
        with pytest.raises(ValidationError) as caught:
            model.model_validate_json(body)
        assert [(item["loc"], item["type"]) for item in caught.value.errors()] == [
            ((field,), "time_text")
        ]
