"""Circuit breaker: skips what failed repeatedly, for a short time.

Closed: calls are allowed. Open: they are not, until `OPEN_S` has passed. Then one call is allowed
(half open), and another one each `PROBE_S` until one has ended: a call may wait for a process that
is gone. The first success closes the circuit, a failure opens it again (Nygard, "Release It!",
2007). A call that began before the circuit opened or closed does not change it any more.
"""

from collections.abc import Callable
from typing import NamedTuple

OPEN_S = 5.0
"""How long a circuit stays open."""
PROBE_S = 1.0
"""Time between two calls of a half-open circuit."""
MAX_FAILURES = 3
"""Consecutive failures that open a circuit."""


class Call(NamedTuple):
    """One allowed call; its owner ends it, whatever happens."""

    period: int
    """How often the circuit had opened or closed when it began."""


class CircuitBreaker:
    """The circuit of one version, pool or database.

    Args:
        clock: monotonic seconds.
        max_failures: consecutive failures that open it; None for `MAX_FAILURES`.
        open_s: how long it stays open; None for `OPEN_S`.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        max_failures: int | None = None,
        open_s: float | None = None,
    ) -> None:
        self._clock = clock
        self._max_failures = MAX_FAILURES if max_failures is None else max_failures
        self._open_s = OPEN_S if open_s is None else open_s
        self._failures = 0
        self._next_call_at = 0.0
        """While it is not closed."""
        self._period = 0

    @property
    def _has_failed(self) -> bool:
        return self._failures >= self._max_failures

    @property
    def is_open(self) -> bool:
        """Whether calls are not allowed now."""
        return self._has_failed and self._clock() < self._next_call_at

    def begin(self) -> Call | None:
        """Return a call, to be ended by `end`, or None if no call is allowed now."""
        if self.is_open:
            return None
        if self._has_failed:
            self._next_call_at = self._clock() + PROBE_S
        return Call(self._period)

    def end(self, call: Call, *, answered: bool | None) -> None:
        """Record the end of a call.

        Args:
            call: from `begin`.
            answered: False when it failed; None when its end says nothing about what was called.
        """
        if call.period != self._period:
            return
        if answered is None:
            self._next_call_at = 0.0
            return
        if answered:
            self._period += self._has_failed
            self._failures = 0
            return
        self._failures += 1
        if self._has_failed:
            self._period += 1
            self._next_call_at = self._clock() + self._open_s
