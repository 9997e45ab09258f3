import pytest
from pydantic import ValidationError

from app.schemas.releases import TrafficOrder


def test_reason_that_the_history_can_not_hold_is_refused():
    assert TrafficOrder(weights={"1": 100.0}, reason="two\nlines").reason == "two\nlines"
    with pytest.raises(ValidationError, match="reason"):
        TrafficOrder(weights={"1": 100.0}, reason="a\x00b")
