"""Circuit breaker: skips a version that failed repeatedly, for a short time.

Closed: calls are allowed. Open: they are not, until `OPEN_S` has passed. Then one call at a time is
allowed (half open): its success closes the circuit, its failure opens it again (Nygard, "Release
It!", 2007).
Invariant: while a half-open call is in progress no other is allowed, however long it takes.
"""

from collections.abc import Callable

OPEN_S = 5.0
"""How long a circuit stays open."""
MAX_FAILURES = 3
"""Consecutive failures that open a circuit."""


class Call:
    """One allowed call of a version; its owner ends it, whatever happens."""


class CircuitBreaker:
    """The circuit of one version.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0
        self._half_open: Call | None = None
        """The one call in progress of a half-open circuit."""

    @property
    def is_open(self) -> bool:
        """Whether calls are not allowed now."""
        return self._failures >= MAX_FAILURES and (
            self._half_open is not None or self._clock() < self._open_until
        )

    def begin(self) -> Call | None:
        """Return a call, to be ended by `end`, or None if no call is allowed now."""
        if self.is_open:
            return None
        call = Call()
        if self._failures >= MAX_FAILURES:
            self._half_open = call
        return call

    def end(self, call: Call, *, answered: bool | None) -> None:
        """Record the end of a call.

        Args:
            call: from `begin`.
            answered: False when it failed; None when its end says nothing about the version.
        """
        if call is self._half_open:
            self._half_open = None
        elif self._failures >= MAX_FAILURES:
            return  # it began before the circuit opened
        if answered:
            self._failures = 0
        elif answered is not None:
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                self._open_until = self._clock() + OPEN_S
