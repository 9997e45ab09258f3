"""Micro-batching: when batches start, how large they get, and what a failing item does."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from app.serving.ingress.micro_batcher import BatchingConfig, MicroBatcher, MicroBatchers


class Works:
    """Work that waits until it is let go on, and notes its batches."""

    def __init__(self, *, blocked: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.finished = asyncio.Event()
        if not blocked:
            self.finished.set()

    async def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        await self.finished.wait()
        if 13 in items and len(items) > 1:
            raise KeyError("the batch is ruined")
        return [ValueError(item) if item < 0 or item == 13 else 10 * item for item in items]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


@pytest.fixture
def works() -> Works:
    return Works()


def batcher_of(works: Works, **limits: int | float) -> MicroBatcher[int, int]:
    return MicroBatcher(
        works,
        BatchingConfig(**{"size": 8, "bulk": 2, "early": 4, "running": 2, "age_s": 0.05, **limits}),
        lambda _: None,
    )  # type: ignore[arg-type]


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_lone_item_starts_at_once_and_gets_its_outcome(works: Works):
    future = batcher_of(works).submit(1)
    await turn()
    assert works.batches == [[1]]
    works.finished.set()
    assert await future == 10


async def test_background_items_take_the_room_that_is_left(works: Works):
    batcher = batcher_of(works, running=2, early=1)
    futures = [batcher.submit(0)]
    await turn()
    futures += [batcher.submit(item, background=True) for item in range(100, 120)]
    await turn()
    assert works.batches == [[0]]  # nothing starts for them while others run
    futures += [batcher.submit(1), batcher.submit(2, bulk=True)]
    await turn()
    assert works.batches[1:] == [[1, 2, *range(100, 106)]]
    works.finished.set()
    assert sum(await asyncio.gather(*futures)) == 10 * sum([0, 1, 2, *range(100, 120)])
    assert batcher.idle


async def test_work_is_cancelled_with_the_last_of_its_items(works: Works):
    batcher = batcher_of(works)
    futures = [batcher.submit(item) for item in (1, 2)]
    await turn()
    (task,) = batcher._running
    futures[0].cancel()
    await turn()
    assert not task.done()
    futures[1].cancel()
    await turn()
    assert task.cancelled()
    assert batcher.idle


async def test_items_of_one_turn_of_the_loop_go_together(works: Works):
    batcher = batcher_of(works)
    for item in (1, 2, 3):
        batcher.submit(item)
    await turn()
    assert works.batches == [[1, 2, 3]]


async def test_while_a_batch_is_running_the_next_one_gathers(works: Works):
    batcher = batcher_of(works)
    futures = [batcher.submit(0)]
    await turn()
    for item in (1, 2, 3):
        futures.append(batcher.submit(item))
        await turn()
    assert works.batches == [[0]]
    works.finished.set()
    assert await asyncio.gather(*futures) == [0, 10, 20, 30]
    assert works.batches == [[0], [1, 2, 3]]


async def test_enough_waiting_items_start_beside_what_is_running_up_to_the_limit(works: Works):
    batcher = batcher_of(works, size=4, bulk=1, running=2)
    batcher.submit(0)
    await turn()
    for item in range(1, 13):
        batcher.submit(item)
    await turn()
    assert works.sizes == [1, 4]
    works.finished.set()


async def test_no_batch_starts_beside_a_larger_one_before_as_many_wait(works: Works):
    batcher = batcher_of(works, size=16, early=2, running=3)
    for item in range(6):
        batcher.submit(item)
    await turn()
    for item in range(5):
        batcher.submit(item)
        await turn()
    assert works.sizes == [6]
    batcher.submit(5)
    await turn()
    assert works.sizes == [6, 6]
    for item in range(11):
        batcher.submit(item)
    await turn()
    assert works.sizes == [6, 6]
    batcher.submit(11)
    await turn()
    assert works.sizes == [6, 6, 12]
    works.finished.set()


async def test_batch_that_gathered_long_enough_starts_although_another_is_running(works: Works):
    batcher = batcher_of(works, age_s=0.2)
    batcher.submit(0)
    await turn()
    submitted_s = asyncio.get_running_loop().time()
    batcher.submit(1)
    async with asyncio.timeout(30.0):
        while works.sizes != [1, 1]:
            await asyncio.sleep(0.01)
    assert asyncio.get_running_loop().time() >= submitted_s + 0.2
    works.finished.set()


async def test_no_batch_is_larger_or_heavier_than_allowed_and_a_heavy_item_goes_alone(works: Works):
    works.finished.set()
    batcher = batcher_of(works, weight=100)
    futures = [
        batcher.submit(item, weight=weight) for item, weight in enumerate([40, 40, 40, 500, 1])
    ]
    assert await asyncio.gather(*futures) == [0, 10, 20, 30, 40]
    assert works.batches == [[0, 1], [2], [3], [4]]


async def test_single_items_go_before_bulk_ones_which_keep_their_share(works: Works):
    works.finished.set()
    batcher = batcher_of(works)
    futures = [batcher.submit(100 + item, bulk=True) for item in range(10)]
    futures += [batcher.submit(item) for item in range(10)]
    await asyncio.gather(*futures)
    assert works.batches[0] == [0, 1, 2, 3, 4, 5, 100, 101]
    assert sorted(item for batch in works.batches for item in batch) == [
        *range(10),
        *range(100, 110),
    ]


async def test_single_item_beside_a_large_batch_waits_for_what_is_running_at_most(works: Works):
    batcher = batcher_of(works, size=4, bulk=1)
    for item in range(100, 200):
        batcher.submit(item, bulk=True)
    await turn()
    running = len(works.batches)
    future = batcher.submit(1)
    works.finished.set()
    assert await future == 10
    assert 1 in works.batches[running]


async def test_error_of_one_item_does_not_affect_the_others(works: Works):
    works.finished.set()
    batcher = batcher_of(works)
    found = await asyncio.gather(
        *(batcher.submit(item) for item in (1, -1, 2)), return_exceptions=True
    )
    assert [found[0], found[2]] == [10, 20]
    assert isinstance(found[1], ValueError)


async def test_item_that_ruins_its_batch_ruins_no_other(works: Works):
    works.finished.set()
    batcher = batcher_of(works)
    found = await asyncio.gather(
        *(batcher.submit(item) for item in (1, 13, 2)), return_exceptions=True
    )
    assert [found[0], found[2]] == [10, 20]
    assert isinstance(found[1], ValueError)
    assert works.batches == [[1, 13, 2], [1], [13], [2]]


async def test_item_cancelled_while_it_waits_is_not_worked_on(works: Works):
    batcher = batcher_of(works)
    first = batcher.submit(0)
    await turn()
    leaving, staying = batcher.submit(1), batcher.submit(2)
    leaving.cancel()
    works.finished.set()
    assert await asyncio.gather(first, staying) == [0, 20]
    assert works.batches == [[0], [2]]


async def test_close_cancels_all_waiting_items(works: Works):
    batcher = batcher_of(works)
    futures = [batcher.submit(0)]
    await turn()
    futures.append(batcher.submit(1))
    await batcher.close()
    await turn()
    assert [future.cancelled() for future in futures] == [True, True]
    assert batcher.idle


async def test_waits_are_reported_and_idle_batchers_are_removed():
    works, waits = Works(blocked=False), list[Sequence[float]]()
    batchers: MicroBatchers[int, int] = MicroBatchers(
        lambda _: works, lambda _: BatchingConfig(), waits.append
    )
    for kind in range(100, 200):
        assert await batchers.to(kind).submit(kind) == 10 * kind
        await turn()
    assert [len(each) for each in waits] == [1] * 100
    assert all(0 <= wait_s < 10 for (wait_s,) in waits)
    assert len(batchers._batchers) <= 2
    await batchers.close()


CALLER: ContextVar[str] = ContextVar("caller", default="nobody")


async def test_work_runs_in_no_callers_context(works: Works):
    """Serve cancels work in the context of a cancelled request; a batch has many callers."""
    seen: list[str] = []

    async def work(items: Sequence[int]) -> list[int | Exception]:
        seen.append(CALLER.get())
        return await works(items)

    batcher: MicroBatcher[int, int] = MicroBatcher(
        work, BatchingConfig(size=4, bulk=1, early=1, running=1, age_s=0.01), lambda _: None
    )
    CALLER.set("first")
    futures = [batcher.submit(0)]
    await turn()
    CALLER.set("second")
    futures.append(batcher.submit(1))
    works.finished.set()
    await asyncio.gather(*futures)
    assert seen == ["nobody", "nobody"]


async def test_cancelled_work_is_retried_alone_and_the_batcher_stays_open():
    calls: list[list[int]] = []

    async def work(items: Sequence[int]) -> list[int | Exception]:
        calls.append(list(items))
        if 7 in items:
            raise asyncio.CancelledError
        return [10 * item for item in items]

    batcher: MicroBatcher[int, int] = MicroBatcher(
        work, BatchingConfig(size=4, bulk=1, early=1, running=1, age_s=0.01), lambda _: None
    )
    futures = [batcher.submit(item) for item in (1, 7, 2)]
    await turn()
    later = batcher.submit(3)
    found = await asyncio.gather(*futures, later, return_exceptions=True)
    assert [found[0], found[2], found[3]] == [10, 20, 30]
    assert "found it cancelled" in str(found[1])


async def test_wrong_number_of_outcomes_fails_the_batch_and_blocks_no_caller():
    async def work(items: Sequence[int]) -> list[int | Exception]:
        return [1] * (len(items) - 1)

    batcher: MicroBatcher[int, int] = MicroBatcher(work, BatchingConfig(), lambda _: None)
    found = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
    assert ["expected 1 outcomes of a batch, found 0" in str(item) for item in found] == [
        True,
        True,
    ]


async def test_old_bulk_item_is_not_starved_by_heavy_single_items(works: Works):
    batcher = batcher_of(works, weight=100, running=1, age_s=0.02)
    batcher.submit(0)
    await turn()
    batcher.submit(100, weight=10, bulk=True)
    await asyncio.sleep(0.03)
    for item in (1, 2, 3):
        batcher.submit(item, weight=100)
    works.finished.set()
    async with asyncio.timeout(30.0):
        while len(works.batches) < 2:
            await asyncio.sleep(0)
    assert works.batches[1] == [100]


async def test_batcher_is_crowded_while_as_many_wait_as_would_start(
    works: Works,
):
    batchers: MicroBatchers[int, int] = MicroBatchers(
        lambda _: works,
        lambda _: BatchingConfig(size=8, bulk=2, early=2, running=1),
        lambda _: None,
    )
    assert not batchers.crowded
    futures = [batchers.to("one").submit(0)]
    await turn()
    futures.append(batchers.to("one").submit(1))
    assert not batchers.crowded
    futures.append(batchers.to("one").submit(2))
    assert batchers.crowded
    works.finished.set()
    await asyncio.gather(*futures)
    assert not batchers.crowded


async def test_batcher_with_a_large_running_batch_is_crowded_once_as_many_wait(works: Works):
    batchers: MicroBatchers[int, int] = MicroBatchers(
        lambda _: works,
        lambda _: BatchingConfig(size=16, bulk=2, early=2, running=1),
        lambda _: None,
    )
    futures = [batchers.to("one").submit(item) for item in range(6)]
    await turn()
    futures += [batchers.to("one").submit(item) for item in range(5)]
    assert not batchers.crowded
    futures.append(batchers.to("one").submit(5))
    assert batchers.crowded
    works.finished.set()
    await asyncio.gather(*futures)
