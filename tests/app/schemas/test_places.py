"""Places and short forms for messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.schemas.places import place_of, shown


@pytest.mark.parametrize(
    ("loc", "place"),
    [
        ((), ""),
        (("a",), "a"),
        (("components", 2, "sensors", 0, "unit"), "components[2].sensors[0].unit"),
        ((1, "a"), "[1].a"),
    ],
)
def test_place_is_written_as_a_path(loc: tuple[int | str, ...], place: str) -> None:
    assert place_of(loc) == place


@given(value=st.text() | st.binary() | st.lists(st.text()) | st.integers(), limit=st.integers(4, 80))
def test_shown_is_never_longer_than_the_limit(value: object, limit: int) -> None:
    assert len(shown(value, limit)) <= limit


def test_short_values_are_shown_whole() -> None:
    assert shown("bar") == "'bar'"
    assert shown(None) == "None"
    assert shown("x" * 100, limit=10) == "'xxxxxx..."
