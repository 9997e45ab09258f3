"""The door: requests that are waiting anyway go through together, one batch of work for many callers.

A lone request starts at once; while work is under way the next ones gather. Callers that wait for one answer go before the
items of large batches, which keep a share of every batch.
Invariant: whoever entered gets an outcome of their own, unless they left; an item that ruins its batch ruins no other item.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

Work = Callable[[Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]]
"""Does the work of a batch; an outcome, or the error of the item alone, for each item in order."""


@dataclass(frozen=True, slots=True)
class BatchingConfig:
    """How large batches get, how long they gather and how many are under way.

    Args:
        size: most items of a batch.
        weight: most weight of a batch of more than one item.
        age_s: a batch that has gathered this long starts although others are under way, while `under_way` allows.
        early: a batch starts beside others once max(early x batches under way, items under way) wait, or a full batch does, while
            `under_way` allows. So few callers overlap, and many share large batches.
        under_way: most batches under way at a time; what Serve's autoscaling of the replicas behind can see of the queue.
        bulk: items of a batch that are kept for those that came in bulk, while such wait.
    """

    size: int = 64
    weight: int = 400_000
    age_s: float = 0.05
    early: int = 6
    under_way: int = 6
    bulk: int = 8

    def __post_init__(self) -> None:
        if (
            not 0 < self.bulk < self.size
            or self.early < 1
            or self.under_way < 1
            or self.age_s <= 0
            or self.weight < 1
        ):
            raise ValueError(
                f"expected 0 < bulk < size and positive limits, found {self}: correct the door's limits"
            )


class _Waiting(NamedTuple, Generic[Item, Outcome]):
    item: Item
    weight: int
    since: float
    future: "asyncio.Future[Outcome]"


class MicroBatcher(Generic[Item, Outcome]):
    """One queue of items for one kind of work.

    Args:
        work: of a batch.
        limits: see `BatchingConfig`.
        started: told the size of each batch that starts.
    """

    def __init__(
        self, work: "Work[Item, Outcome]", limits: BatchingConfig, started: Callable[[int], None]
    ) -> None:
        self._work = work
        self._limits = limits
        self._started = started
        self._single: deque[_Waiting[Item, Outcome]] = deque()
        self._bulk: deque[_Waiting[Item, Outcome]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._items = 0
        """Under way."""
        self._woken: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False
        # Work belongs to many callers: in the context of the one who woke it, Serve would cancel it when that one leaves.
        self._context = Context()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not (self._single or self._bulk or self._running)

    @property
    def crowded(self) -> bool:
        """Whether callers wait although work is under way, as many as would start beside it if `under_way` allowed."""
        return bool(self._running) and len(self._single) + len(self._bulk) >= self._enough

    def enter(
        self, item: Item, weight: int = 1, *, bulk: bool = False
    ) -> "asyncio.Future[Outcome]":
        """Let an item wait for its batch.

        Args:
            item: to work on.
            weight: share of a batch's `BatchingConfig.weight`.
            bulk: it is one of many that nobody waits for one by one.

        Returns:
            A future of its outcome. Cancelling it takes the item out of the queue.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        (self._bulk if bulk else self._single).append(_Waiting(item, weight, loop.time(), future))
        if self._woken is None:
            # what else arrives in this turn of the loop goes along
            self._woken = loop.call_soon(self._wake, context=self._context)
        return future

    async def close(self) -> None:
        """Give up what waits and what is under way."""
        self._closed = True
        for waiting in (*self._single, *self._bulk):
            waiting.future.cancel()
        self._single.clear()
        self._bulk.clear()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _wake(self) -> None:
        self._woken = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._may_start():
            batch = self._next_batch()
            if not batch:
                return
            self._items += len(batch)
            task = asyncio.ensure_future(self._run(batch))
            self._running.add(task)
            task.add_done_callback(partial(self._ended, batch), context=self._context)
        if (self._single or self._bulk) and len(self._running) < self._limits.under_way:
            due = self._oldest() + self._limits.age_s
            self._alarm = asyncio.get_running_loop().call_at(due, self._wake, context=self._context)

    def _may_start(self) -> bool:
        waiting = len(self._single) + len(self._bulk)
        if not waiting or len(self._running) >= self._limits.under_way:
            return False
        if waiting >= self._enough:
            return True
        return asyncio.get_running_loop().time() >= self._oldest() + self._limits.age_s

    @property
    def _enough(self) -> int:
        """So many waiting items start at once."""
        return min(max(self._limits.early * len(self._running), self._items), self._limits.size)

    def _oldest(self) -> float:
        return min(queue[0].since for queue in (self._single, self._bulk) if queue)

    def _next_batch(self) -> list[_Waiting[Item, Outcome]]:
        """Take single items first, less the bulk's share while bulk items wait, then fill up from both."""
        batch: list[_Waiting[Item, Outcome]] = []
        kept = min(self._limits.bulk, len(self._bulk))
        weight = 0
        if (
            self._bulk
            and asyncio.get_running_loop().time() >= self._bulk[0].since + self._limits.age_s
        ):
            weight = self._take(
                self._bulk, 1, weight, batch
            )  # heavy single items would leave no weight for it
        weight = self._take(self._single, self._limits.size - kept + len(batch), weight, batch)
        weight = self._take(self._bulk, self._limits.size, weight, batch)
        self._take(self._single, self._limits.size, weight, batch)
        return batch

    def _take(
        self,
        queue: deque[_Waiting[Item, Outcome]],
        size: int,
        weight: int,
        batch: list[_Waiting[Item, Outcome]],
    ) -> int:
        while queue and len(batch) < size:
            if queue[0].future.cancelled():
                queue.popleft()
                continue
            if batch and weight + queue[0].weight > self._limits.weight:
                break
            weight += queue[0].weight
            batch.append(queue.popleft())
        return weight

    async def _run(self, batch: Sequence[_Waiting[Item, Outcome]]) -> None:
        try:
            self._started(len(batch))
            outcomes = _as_many(await self._work([waiting.item for waiting in batch]), len(batch))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # it is this door that is given up, not what was called
            failure: Exception = RuntimeError(
                "expected the work of a batch to end, found it cancelled: ask again"
            )
        except Exception as error:
            failure = error
            if batch[1:]:
                logger.exception(
                    "batch failed, its items are tried alone", extra={"items": len(batch)}
                )
        else:
            for waiting, outcome in zip(batch, outcomes, strict=True):
                _settle(waiting, outcome)
            return
        if len(batch) == 1:
            _settle(batch[0], failure)
            return
        for waiting in batch:
            if not waiting.future.done():
                await self._run([waiting])

    def _ended(self, batch: Sequence[_Waiting[Item, Outcome]], task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._items -= len(batch)
        error = None if task.cancelled() else task.exception()
        for waiting in batch:
            if task.cancelled():
                waiting.future.cancel()
            else:
                _settle(
                    waiting, RuntimeError("expected an outcome of a batch, found none: ask again")
                )
        if error is not None:
            logger.error("batch ended by an error of our own", exc_info=error)
        if not self._closed:
            self._wake()


class MicroBatchers(Generic[Item, Outcome]):
    """A door for each kind of work that is asked for; one that stands idle is forgotten.

    Args:
        work_of: makes the work of a kind.
        limits: of each door.
        started: told the size of each batch that starts.
    """

    def __init__(
        self,
        work_of: "Callable[[Hashable], Work[Item, Outcome]]",
        limits: BatchingConfig,
        started: Callable[[int], None],
    ) -> None:
        self._work_of = work_of
        self._limits = limits
        self._started = started
        self._doors: dict[Hashable, MicroBatcher[Item, Outcome]] = {}

    def to(self, kind: Hashable) -> MicroBatcher[Item, Outcome]:
        """Return the door of a kind of work."""
        door = self._doors.get(kind)
        if door is None:
            self._doors = {name: known for name, known in self._doors.items() if not known.idle}
            door = self._doors[kind] = MicroBatcher(
                self._work_of(kind), self._limits, self._started
            )
        return door

    @property
    def crowded(self) -> bool:
        """Whether callers wait in any of the doors for more than their turn."""
        return any(door.crowded for door in self._doors.values())

    async def close(self) -> None:
        """Give up what waits and what is under way."""
        for door in self._doors.values():
            await door.close()


def _as_many(outcomes: Sequence[Outcome | Exception], count: int) -> Sequence[Outcome | Exception]:
    if len(outcomes) != count:
        raise RuntimeError(f"expected {count} outcomes of a batch, found {len(outcomes)}")
    return outcomes


def _settle(waiting: _Waiting[Item, Outcome], outcome: Outcome | Exception) -> None:
    if waiting.future.done():
        return
    if isinstance(outcome, Exception):
        waiting.future.set_exception(outcome)
    else:
        waiting.future.set_result(outcome)
