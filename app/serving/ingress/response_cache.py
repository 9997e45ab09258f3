"""ResponseCache that were just given, for those who ask the same again, and one answer for those who ask it at the same time.

Invariant: an answer is given again at most until the bin of its machine's grid in which it was made has passed, and never after
readings of the machine came in here; the cache is bounded.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from app.serving.observability.metrics import Metrics

MAX_RESPONSES = 5_000
"""About 4 KB each."""


class ResponseKey(NamedTuple):
    """What makes two requests the same.

    Machine, topology revision, window, who is to answer and stand in, whether that was forced, and whether evidence is wanted.
    """

    equipment_id: str
    revision: str
    first_bin: int
    versions: tuple[str, ...]
    forced: bool
    explain: bool


@dataclass(slots=True)
class _Flight:
    future: "asyncio.Future[bytes]"
    waiters: int = 0


class ResponseCache:
    """A bounded cache of answers as bytes, with single-flight.

    Args:
        metrics: where hits, joins and misses are counted.
        most: answers kept; the oldest goes first.
        clock: seconds since 1970, so that bins end here when they end everywhere.
    """

    def __init__(
        self, metrics: Metrics, most: int = MAX_RESPONSES, clock: Callable[[], float] = time.time
    ) -> None:
        # finding a child by its labels takes longer than to count
        self._hit, self._joined, self._miss = map(metrics.answers.labels, ("hit", "joined", "miss"))
        self._most = most
        self._clock = clock
        self._kept: OrderedDict[ResponseKey, tuple[float, bytes]] = OrderedDict()
        self._flights: dict[ResponseKey, _Flight] = {}
        self._keys_of: dict[str, set[ResponseKey]] = {}

    def kept(self, key: ResponseKey) -> bytes | None:
        """Return a kept answer, or None."""
        kept = self._kept.get(key)
        if kept is None or self._clock() >= kept[0]:
            return None
        self._hit.inc()
        return kept[1]

    async def get(
        self, key: ResponseKey, grid_s: float, ask: "Callable[[], asyncio.Future[bytes]]"
    ) -> bytes:
        """Return a kept answer, join those who wait for it, or ask.

        Args:
            key: of the answer.
            grid_s: width of a bin of the machine's grid.
            ask: begins to work the answer out; cancelling its future gives up. An error is not kept.
        """
        now = self._clock()
        kept = self.kept(key)
        if kept is not None:
            return kept
        flight = self._flights.get(key)
        if (
            flight is None or flight.future.cancelled()
        ):  # its last waiter may have left in this turn of the loop
            self._miss.inc()
            flight = self._flights[key] = _Flight(ask())
            self._keys_of.setdefault(key.equipment_id, set()).add(key)
            until = (now // grid_s + 1) * grid_s
            flight.future.add_done_callback(lambda future: self._landed(key, until, future))
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
        """Drop a machine's answers, also those under way: what they rest on has changed."""
        for key in self._keys_of.pop(equipment_id, ()):
            self._kept.pop(key, None)
            self._flights.pop(key, None)

    def clear(self) -> None:
        """Drop all answers, also those under way: how answers are made has changed."""
        for equipment_id in list(self._keys_of):
            self.forget(equipment_id)

    def _landed(self, key: ResponseKey, until: float, future: "asyncio.Future[bytes]") -> None:
        flight = self._flights.get(key)
        if flight is None or flight.future is not future:
            return  # dropped meanwhile: those who wait have their answer, nobody else gets it
        del self._flights[key]
        if future.cancelled() or future.exception() is not None:
            if key not in self._kept:
                self._unlist(key)
            return
        self._kept[key] = (until, future.result())
        self._kept.move_to_end(key)
        now = self._clock()
        while self._kept and (
            len(self._kept) > self._most or next(iter(self._kept.values()))[0] <= now
        ):
            oldest, _ = self._kept.popitem(last=False)
            if oldest not in self._flights:
                self._unlist(oldest)

    def _unlist(self, key: ResponseKey) -> None:
        keys = self._keys_of.get(key.equipment_id)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._keys_of[key.equipment_id]
