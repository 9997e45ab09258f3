"""Circuit breaker: skips a version that failed repeatedly, for a short time.

Closed: calls are allowed. Open: they are not, until `open_s` has passed. Then one call is allowed
(half open): its success closes the circuit, its failure opens it again (Nygard, "Release It!",
2007).
"""

from collections.abc import Callable


class CircuitBreaker:
    """The circuit of one version.

    Args:
        clock: monotonic seconds.
        open_s: how long the circuit stays open.
        max_failures: consecutive failures that open it.
    """

    def __init__(
        self, clock: Callable[[], float], open_s: float = 5.0, max_failures: int = 3
    ) -> None:
        self._clock = clock
        self._open_s = open_s
        self._max_failures = max_failures
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are not allowed now."""
        return self._failures >= self._max_failures and self._clock() < self._open_until

    def allow(self) -> bool:
        """Return whether a call is allowed now; a half-open circuit allows one call alone."""
        if self._failures < self._max_failures:
            return True
        if self._clock() < self._open_until:
            return False
        self._open_until = self._clock() + self._open_s
        return True

    def succeeded(self) -> None:
        """Record a call that was answered."""
        self._failures = 0

    def failed(self) -> None:
        """Record a call that failed or timed out."""
        self._failures += 1
        if self._failures >= self._max_failures:
            self._open_until = self._clock() + self._open_s
