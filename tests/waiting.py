"""Waits for a condition with a generous limit, never for a duration."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(probe: Callable[[], T], what: str, limit_s: float = 60.0, pause_s: float = 0.1) -> T:
    """Return the first true result of a probe.

    Raises:
        AssertionError: there was none within `limit_s`; names `what` and the last result.
    """
    give_up = time.monotonic() + limit_s
    while not (result := probe()):
        if time.monotonic() > give_up:
            raise AssertionError(f"expected {what} within {limit_s:g} s, found {result!r}")
        time.sleep(pause_s)
    return result
