"""Micro-batching: items that wait at the same time are worked on together.

A lone item starts at once; while batches run, the next items gather. Single items go before bulk
items, which keep a share of every batch. Background items take what room is left, and start on
their own only when nothing else runs. Every item gets an outcome of its own unless it is
cancelled; when a batch fails, its items are tried alone. The work of a batch is cancelled once all
of its items are.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from app.core.tasks import end_tasks

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

Work = Callable[[Sequence[Item]], Awaitable[Sequence[Outcome | Exception]]]
"""Works on a batch; returns an outcome, or the error, of each item in order."""
Started = Callable[[Sequence[float]], None]


@dataclass(frozen=True, slots=True)
class BatchingConfig:
    """How large batches get, how long they gather and how many run at a time.

    Args:
        size: most items of a batch.
        weight: most weight of a batch with more than one item.
        age_s: items that have waited this long start although other batches run, while `running`
            allows.
        early: a batch starts beside others once max(early x running batches, running items) items
            wait, or a full batch does, while `running` allows. With few callers batches overlap;
            many callers share large batches.
        running: most batches that run at a time; Serve's autoscaling sees no more of the queue.
        bulk: items of a batch that are reserved for bulk items, while any wait.
    """

    size: int = 64
    weight: int = 400_000
    age_s: float = 0.05
    early: int = 6
    running: int = 6
    bulk: int = 8


class _Waiting(NamedTuple, Generic[Item, Outcome]):
    item: Item
    weight: int
    since: float
    future: "asyncio.Future[Outcome]"


class MicroBatcher(Generic[Item, Outcome]):
    """One queue of items for one kind of work.

    Args:
        work: works on a batch.
        config: see `BatchingConfig`.
        started: called with the waits of each batch that starts, in seconds, one an item.
    """

    def __init__(
        self, work: "Work[Item, Outcome]", config: BatchingConfig, started: Started
    ) -> None:
        self._work = work
        self._config = config
        self._started = started
        self._single: deque[_Waiting[Item, Outcome]] = deque()
        self._bulk: deque[_Waiting[Item, Outcome]] = deque()
        self._background: deque[_Waiting[Item, Outcome]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._running_items = 0
        self._scheduled: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        # A batch belongs to many callers. In the context of one of them, Serve would cancel the
        # whole batch when that caller disconnects.
        self._context = Context()

    @property
    def waiting(self) -> int:
        """Number of items that wait."""
        return len(self._single) + len(self._bulk)

    @property
    def running(self) -> int:
        """Number of batches that are worked on."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not (self._single or self._bulk or self._background or self._running)

    @property
    def wait_s(self) -> float:
        """How long the first single item has waited; 0 when none waits."""
        if not self._single:
            return 0.0
        return asyncio.get_running_loop().time() - self._single[0].since

    @property
    def waiting_single(self) -> int:
        """Number of single items that no batch has taken yet."""
        return len(self._single)

    @property
    def crowded(self) -> bool:
        """Whether more items wait beside running batches than would start if `running` allowed."""
        return bool(self._running) and len(self._single) + len(self._bulk) >= self._start_size

    def submit(
        self, item: Item, weight: int = 1, *, bulk: bool = False, background: bool = False
    ) -> "asyncio.Future[Outcome]":
        """Queue an item for a batch.

        Args:
            item: to work on.
            weight: its part of a batch's `BatchingConfig.weight`.
            bulk: whether it is one of many items of one caller.
            background: whether nobody waits for it, such as of continuous monitoring.

        Returns:
            A future of its outcome. Cancelling it removes the item from the queue.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        queue = self._background if background else self._bulk if bulk else self._single
        queue.append(_Waiting(item, weight, loop.time(), future))
        if self._scheduled is None:
            # items that arrive in the same turn of the loop are batched together
            self._scheduled = loop.call_soon(self._start_batches, context=self._context)
        return future

    async def close(self) -> None:
        """Cancel all items, waiting or running."""
        self._closed = True
        for queue in (self._single, self._bulk, self._background):
            for waiting in queue:
                waiting.future.cancel()
            queue.clear()
        await end_tasks(self._running)

    def _start_batches(self) -> None:
        self._scheduled = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._may_start():
            batch = self._next_batch()
            if not batch:
                return
            self._running_items += len(batch)
            task = asyncio.ensure_future(self._run(batch))
            self._running.add(task)
            task.add_done_callback(partial(self._on_done, batch), context=self._context)
            for waiting in batch:
                waiting.future.add_done_callback(
                    partial(_cancel_unwanted, task, batch), context=self._context
                )
        if (self._single or self._bulk) and len(self._running) < self._config.running:
            due = self._oldest() + self._config.age_s
            self._timer = asyncio.get_running_loop().call_at(
                due, self._start_batches, context=self._context
            )

    def _may_start(self) -> bool:
        waiting = len(self._single) + len(self._bulk)
        if len(self._running) >= self._config.running:
            return False
        if not waiting:
            return bool(self._background) and not self._running
        if waiting >= self._start_size:
            return True
        return asyncio.get_running_loop().time() >= self._oldest() + self._config.age_s

    @property
    def _start_size(self) -> int:
        """Number of waiting items that start without waiting for `age_s`."""
        return min(
            max(self._config.early * len(self._running), self._running_items), self._config.size
        )

    def _oldest(self) -> float:
        return min(queue[0].since for queue in (self._single, self._bulk) if queue)

    def _next_batch(self) -> list[_Waiting[Item, Outcome]]:
        """Take single items first, less the share of waiting bulk items, then fill up from both."""
        batch: list[_Waiting[Item, Outcome]] = []
        reserved = min(self._config.bulk, len(self._bulk))
        weight = 0
        if (
            self._bulk
            and asyncio.get_running_loop().time() >= self._bulk[0].since + self._config.age_s
        ):
            # heavy single items would leave no weight for it
            weight = self._take(self._bulk, 1, weight, batch)
        weight = self._take(self._single, self._config.size - reserved + len(batch), weight, batch)
        weight = self._take(self._bulk, self._config.size, weight, batch)
        weight = self._take(self._single, self._config.size, weight, batch)
        self._take(self._background, self._config.size, weight, batch)
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
            if batch and weight + queue[0].weight > self._config.weight:
                break
            weight += queue[0].weight
            batch.append(queue.popleft())
        return weight

    async def _run(self, batch: Sequence[_Waiting[Item, Outcome]]) -> None:
        try:
            now = asyncio.get_running_loop().time()
            self._started([now - waiting.since for waiting in batch])
            outcomes = _as_many(await self._work([waiting.item for waiting in batch]), len(batch))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # this batcher is closed; else the work itself was cancelled
            failure: Exception = RuntimeError(
                "expected the work of a batch to end, found it cancelled: try again"
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

    def _on_done(
        self, batch: Sequence[_Waiting[Item, Outcome]], task: "asyncio.Task[None]"
    ) -> None:
        self._running.discard(task)
        self._running_items -= len(batch)
        error = None if task.cancelled() else task.exception()
        for waiting in batch:
            if task.cancelled():
                waiting.future.cancel()
            else:
                _settle(
                    waiting, RuntimeError("expected an outcome of a batch, found none: try again")
                )
        if error is not None:
            logger.error("batch ended by an internal error", exc_info=error)
        if not self._closed:
            self._start_batches()


class MicroBatchers(Generic[Item, Outcome]):
    """A micro-batcher for each kind of work; idle ones are removed.

    Args:
        work_of: returns the work of a kind.
        config_of: returns how items of a kind are batched.
        started: see `MicroBatcher`.
    """

    def __init__(
        self,
        work_of: "Callable[[Hashable], Work[Item, Outcome]]",
        config_of: Callable[[Hashable], BatchingConfig],
        started: Started,
    ) -> None:
        self._work_of = work_of
        self._config_of = config_of
        self._started = started
        self._batchers: dict[Hashable, MicroBatcher[Item, Outcome]] = {}

    def to(self, kind: Hashable) -> MicroBatcher[Item, Outcome]:
        """Return the micro-batcher of a kind of work."""
        batcher = self._batchers.get(kind)
        if batcher is None:
            self._batchers = {
                name: known for name, known in self._batchers.items() if not known.idle
            }
            batcher = self._batchers[kind] = MicroBatcher(
                self._work_of(kind), self._config_of(kind), self._started
            )
        return batcher

    @property
    def longest_wait_s(self) -> float:
        """How long the first single item of any has waited."""
        return max((batcher.wait_s for batcher in self._batchers.values()), default=0.0)

    @property
    def crowded(self) -> bool:
        """Whether any of the micro-batchers is crowded."""
        return any(batcher.crowded for batcher in self._batchers.values())

    @property
    def waiting(self) -> int:
        """Number of items that wait in all of them."""
        return sum(batcher.waiting for batcher in self._batchers.values())

    @property
    def running(self) -> int:
        """Number of batches that are worked on in all of them."""
        return sum(batcher.running for batcher in self._batchers.values())

    async def close(self) -> None:
        """Cancel all items, waiting or running."""
        for batcher in self._batchers.values():
            await batcher.close()


def _as_many(outcomes: Sequence[Outcome | Exception], count: int) -> Sequence[Outcome | Exception]:
    if len(outcomes) != count:
        raise RuntimeError(f"expected {count} outcomes of a batch, found {len(outcomes)}")
    return outcomes


def _cancel_unwanted(
    task: "asyncio.Task[None]",
    batch: "Sequence[_Waiting[Item, Outcome]]",
    future: "asyncio.Future[Outcome]",
) -> None:
    """Cancel the work of a batch whose last item was cancelled."""
    is_last = future.cancelled() and not task.done()
    if is_last and all(waiting.future.done() for waiting in batch):
        task.cancel()


def _settle(waiting: _Waiting[Item, Outcome], outcome: Outcome | Exception) -> None:
    if waiting.future.done():
        return
    if isinstance(outcome, Exception):
        waiting.future.set_exception(outcome)
    else:
        waiting.future.set_result(outcome)
