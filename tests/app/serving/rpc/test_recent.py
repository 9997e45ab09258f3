"""A bounded memory."""

import pytest

from app.serving.rpc.recent import Recent


def test_value_is_made_once_and_the_oldest_goes_first() -> None:
    made: list[str] = []

    def make(text: str) -> str:
        made.append(text)
        return text

    recent: Recent[str, str] = Recent(6, len)
    for key in ("aa", "bb", "cc", "aa", "dd", "aa", "bb"):
        assert recent.get(key, lambda key=key: make(key)) == key
    assert made == ["aa", "bb", "cc", "dd", "bb"]
    assert len(recent) == 3


def test_value_larger_than_the_limit_is_kept_alone() -> None:
    recent: Recent[int, str] = Recent(3, len)
    recent.get(1, lambda: "ab")
    assert recent.get(2, lambda: "abcdef") == "abcdef"
    assert len(recent) == 1
    assert recent.get(2, lambda: "other") == "abcdef"


def test_error_is_passed_on_and_asked_again() -> None:
    recent: Recent[int, str] = Recent(3, len)

    def fail() -> str:
        raise KeyError("no")

    with pytest.raises(KeyError):
        recent.get(1, fail)
    assert recent.get(1, lambda: "now") == "now"
