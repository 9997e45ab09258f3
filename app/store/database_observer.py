"""What a process can observe of its database: traces, times, failures, numbers of connections.

It measures nothing itself: metrics and spans are defined where they are exposed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

Trace = Callable[[str], AbstractContextManager[None]]
"""Records what happens inside under a name, such as a span of a trace."""


def untraced(_: str) -> AbstractContextManager[None]:
    """Record nothing of the use of a connection."""
    return nullcontext()


class PoolSizes(NamedTuple):
    """Numbers of connections: open, of these idle, and the most that may be open."""

    open: int
    idle: int
    largest: int


class Observer:
    """Receives what a database does; this one ignores it."""

    def acquired(self, seconds: float) -> None:
        """Receive how long a connection of the pool was waited for."""

    def answered(self, statement: str, seconds: float) -> None:
        """Receive the name and the time of a statement that the database answered."""

    def failed(self, kind: str) -> None:
        """Receive a failed use of the database: `unavailable` or `refused`."""

    def retried(self) -> None:
        """Receive that a statement is sent again."""
