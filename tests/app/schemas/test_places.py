"""Places and short forms for messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.schemas.places import place_of, shown, some_of


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


@given(
    value=st.text() | st.binary() | st.lists(st.text()) | st.integers(), limit=st.integers(4, 80)
)
def test_shown_is_never_longer_than_the_limit(value: object, limit: int) -> None:
    assert len(shown(value, limit)) <= limit


def test_short_values_are_shown_whole() -> None:
    assert shown("bar") == "'bar'"
    assert shown(None) == "null"
    assert shown([True, {"a": b"x"}, 1.5]) == '[true, {"a": "x"}, 1.5]'
    assert shown(b"\xffbar\n") == r"'\ufffdbar\n'".replace(r"\ufffd", "\ufffd")
    assert shown(object()) == "a value that is not JSON"
    assert shown("x" * 100, limit=10) == "'xxxxxx..."


def test_long_names_of_a_place_are_shortened() -> None:
    assert place_of(("values", "x" * 1_000)) == f"values.{'x' * 77}..."


def test_large_mapping_is_shown_by_its_first_items() -> None:
    class Costly:
        def __repr__(self) -> str:
            raise AssertionError("walked whole")

    assert shown({"a" * 60: 1, **dict.fromkeys(range(60), 1), "last": Costly()}).startswith('{"aaa')


def test_names_beyond_the_limit_are_counted() -> None:
    assert some_of(["a", "b"]) == "a, b"
    assert some_of(["a", "b", "c"], limit=1) == "a and 2 more"
