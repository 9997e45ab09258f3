"""Responses that were just given, for equal requests, and one computation for concurrent ones.

A response is given again at most until the grid bin of its machine in which it was made has passed,
and never after readings of the machine arrived at this replica.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cachetools import TLRUCache

from app.serving.observability.metrics import Metrics

MAX_RESPONSES = 5_000
"""About 4 KB each."""


class ResponseKey(NamedTuple):
    """What makes two requests the same.

    Args:
        tenant: of the caller; None for the service itself.
        equipment_id: of the machine.
        revision: of its topology.
        first_bin: of the window.
        versions: the version that answers, then its fallbacks.
        forced: whether the caller chose the version.
        explain: whether the response has evidence.
    """

    tenant: str | None
    equipment_id: str
    revision: str
    first_bin: int
    versions: tuple[str, ...]
    forced: bool
    explain: bool


_StampedKey = tuple[ResponseKey, int, int]
"""A key with how often all responses, and those of its machine, were dropped before."""


class _Response(NamedTuple):
    expires: float
    body: bytes


@dataclass(slots=True)
class _Flight:
    """A computation and how many requests wait for it."""

    future: "asyncio.Future[bytes]"
    waiters: int = 0


class ResponseCache:
    """A bounded cache of responses, with one computation for concurrent requests (single flight).

    Args:
        metrics: counts hits, joins and misses.
        clock: seconds since 1970, so that bins end here when they end everywhere.
        size: most responses; the least recently used one is evicted.
    """

    def __init__(
        self, metrics: Metrics, clock: Callable[[], float], size: int = MAX_RESPONSES
    ) -> None:
        # looking up a child by its labels takes longer than counting
        self._hit, self._joined, self._miss = map(metrics.answers.labels, ("hit", "joined", "miss"))
        self._clock = clock
        self._responses: TLRUCache[_StampedKey, _Response] = TLRUCache(
            size, ttu=lambda _, response, __: response.expires, timer=clock
        )
        self._flights: dict[_StampedKey, _Flight] = {}
        self._clears = 0
        self._drops: Counter[str] = Counter()

    def cached(self, key: ResponseKey) -> bytes | None:
        """Return a cached response, or None."""
        response = self._responses.get(self._stamped(key))
        if response is None:
            return None
        self._hit.inc()
        return response.body

    async def get(
        self, key: ResponseKey, grid_s: float, compute: "Callable[[], asyncio.Future[bytes]]"
    ) -> bytes:
        """Return a cached response, wait for one that is being computed, or compute it.

        Args:
            key: of the response.
            grid_s: width of a bin of the machine's grid.
            compute: starts the computation, which is cancelled when all who wait for it are. An
                error is not cached.
        """
        now = self._clock()
        body = self.cached(key)
        if body is not None:
            return body
        stamped = self._stamped(key)
        flight = self._flights.get(stamped)
        # its last waiter may have been cancelled in this turn of the loop
        if flight is None or flight.future.cancelled():
            self._miss.inc()
            flight = self._flights[stamped] = _Flight(compute())
            expires = (now // grid_s + 1) * grid_s
            flight.future.add_done_callback(lambda future: self._land(stamped, expires, future))
        else:
            self._joined.inc()
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.future)
        finally:
            flight.waiters -= 1
            if not flight.waiters:
                flight.future.cancel()

    def forget(self, equipment_id: str) -> None:
        """Drop a machine's responses, also those being computed: their readings have changed."""
        self._drops[equipment_id] += 1

    def clear(self) -> None:
        """Drop all responses, also those being computed: thresholds have changed."""
        self._clears += 1
        self._responses.clear()

    def _stamped(self, key: ResponseKey) -> _StampedKey:
        # dropped responses are not searched for: nothing has their key any more
        return key, self._clears, self._drops[key.equipment_id]

    def _land(self, key: _StampedKey, expires: float, future: "asyncio.Future[bytes]") -> None:
        flight = self._flights.get(key)
        if flight is None or flight.future is not future:
            return
        del self._flights[key]
        is_current = key == self._stamped(key[0])
        if is_current and not future.cancelled() and future.exception() is None:
            self._responses[key] = _Response(expires, future.result())
