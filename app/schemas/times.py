"""Times in requests: ISO 8601 with a time zone.

Invariant: a bare number is never a time; it could mean seconds, milliseconds or a serial day.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator
from pydantic_core import PydanticCustomError


def _no_number(value: object) -> object:
    # pydantic also reads "5" as seconds since 1970
    if isinstance(value, datetime) or (
        isinstance(value, str) and value[:4].isdecimal() and value[4:5] == "-"
    ):
        return value
    raise PydanticCustomError(
        "time_text", "expected ISO 8601 text of a time with its zone, such as 2026-01-31T12:00:00Z"
    )


AwareTime = Annotated[AwareDatetime, BeforeValidator(_no_number)]
"""A time with its zone: ISO 8601 text, in Python also a datetime."""


def _time_of(value: object) -> object:
    # in strict mode pydantic takes no text from a validator before it
    if not isinstance(_no_number(value), str):
        return value
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return _no_number(None)


StrictTime = Annotated[AwareDatetime, BeforeValidator(_time_of)]
"""The same where a document is validated in strict mode."""

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""Times of labels, lists and keys are in [EARLIEST, LATEST]."""

LATEST_AHEAD = timedelta(minutes=5)
"""Readings, and what is known of components, are at most that long after now."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    """Return whole microseconds since 1970-01-01T00:00Z of an aware time, exactly."""
    return (time - _EPOCH) // _MICROSECOND
