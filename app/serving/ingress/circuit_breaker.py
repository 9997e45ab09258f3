"""Keeps callers away from a version that just failed, for a short time.

Closed: calls go through. Open: they do not, until `rest_s` has passed. Then one call may try (half open): its success
closes the circuit, its failure opens it again (Nygard, "Release It!", 2007).
Invariant: a success always closes; at most one call is under way while half open.
"""

from collections.abc import Callable


class CircuitBreaker:
    """The circuit of one version.

    Args:
        clock: monotonic seconds.
        rest_s: how long the circuit stays open.
        failures: consecutive failures that open it.
    """

    def __init__(self, clock: Callable[[], float], rest_s: float = 5.0, failures: int = 3) -> None:
        self._clock = clock
        self._rest_s = rest_s
        self._allowed = failures
        self._failed = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are kept away now."""
        return self._failed >= self._allowed and self._clock() < self._open_until

    def allow(self) -> bool:
        """Tell whether a call may go through now; after the rest, the first caller that asks is the one that tries."""
        if self._failed < self._allowed:
            return True
        if self._clock() < self._open_until:
            return False
        self._open_until = self._clock() + self._rest_s
        return True

    def succeeded(self) -> None:
        """Note that a call was answered."""
        self._failed = 0

    def failed(self) -> None:
        """Note that a call failed or timed out."""
        self._failed += 1
        if self._failed >= self._allowed:
            self._open_until = self._clock() + self._rest_s
