"""Circuit breaker: skips a version that failed repeatedly, for a short time.

Closed: calls are allowed. Open: they are not, until `OPEN_S` has passed. Then one call is allowed
(half open): its success closes the circuit, its failure opens it again (Nygard, "Release It!",
2007).
"""

from collections.abc import Callable

OPEN_S = 5.0
"""How long a circuit stays open."""
MAX_FAILURES = 3
"""Consecutive failures that open a circuit."""


class CircuitBreaker:
    """The circuit of one version.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are not allowed now."""
        return self._failures >= MAX_FAILURES and self._clock() < self._open_until

    def allow(self) -> bool:
        """Return whether a call is allowed now; a half-open circuit allows one call alone."""
        if self._failures < MAX_FAILURES:
            return True
        if self._clock() < self._open_until:
            return False
        self._open_until = self._clock() + OPEN_S
        return True

    def succeeded(self) -> None:
        """Record a call that was answered."""
        self._failures = 0

    def failed(self) -> None:
        """Record a call that failed or timed out."""
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self._open_until = self._clock() + OPEN_S
