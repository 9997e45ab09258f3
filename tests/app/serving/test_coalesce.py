"""The door: who waits for whom, how large batches get, and what one bad item does to its neighbours."""

import asyncio
from collections.abc import Sequence

import pytest

from app.serving.coalesce import Door, DoorLimits, Doors


class Works:
    """Work that waits until it is let go on, and notes its batches."""

    def __init__(self, *, held: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.finished = asyncio.Event()
        if not held:
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


def door(works: Works, **limits: int | float) -> Door[int, int]:
    return Door(
        works, DoorLimits(**{"size": 8, "bulk": 2, "early": 4, "under_way": 2, "age_s": 0.05, **limits}), lambda _: None
    )  # type: ignore[arg-type]


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_lone_item_starts_at_once_and_gets_its_outcome(works: Works):
    future = door(works).enter(1)
    await turn()
    assert works.batches == [[1]]
    works.finished.set()
    assert await future == 10


async def test_items_of_one_turn_of_the_loop_go_together(works: Works):
    entrance = door(works)
    for item in (1, 2, 3):
        entrance.enter(item)
    await turn()
    assert works.batches == [[1, 2, 3]]


async def test_while_a_batch_is_under_way_the_next_one_gathers(works: Works):
    entrance = door(works)
    futures = [entrance.enter(0)]
    await turn()
    for item in (1, 2, 3):
        futures.append(entrance.enter(item))
        await turn()
    assert works.batches == [[0]]
    works.finished.set()
    assert await asyncio.gather(*futures) == [0, 10, 20, 30]
    assert works.batches == [[0], [1, 2, 3]]


async def test_enough_waiting_items_start_beside_what_is_under_way_up_to_the_limit(works: Works):
    entrance = door(works, size=4, bulk=1, under_way=2)
    entrance.enter(0)
    await turn()
    for item in range(1, 13):
        entrance.enter(item)
    await turn()
    assert works.sizes == [1, 4]
    works.finished.set()


async def test_batch_that_gathered_long_enough_starts_although_another_is_under_way(works: Works):
    entrance = door(works, age_s=0.02)
    entrance.enter(0)
    await turn()
    entrance.enter(1)
    await turn()
    assert works.sizes == [1]
    await asyncio.sleep(0.1)
    assert works.sizes == [1, 1]
    works.finished.set()


async def test_no_batch_is_larger_or_heavier_than_allowed_and_a_heavy_item_goes_alone(works: Works):
    works.finished.set()
    entrance = door(works, weight=100)
    futures = [entrance.enter(item, weight=weight) for item, weight in enumerate([40, 40, 40, 500, 1])]
    assert await asyncio.gather(*futures) == [0, 10, 20, 30, 40]
    assert works.batches == [[0, 1], [2], [3], [4]]


async def test_single_items_go_before_bulk_ones_which_keep_their_share(works: Works):
    works.finished.set()
    entrance = door(works)
    futures = [entrance.enter(100 + item, bulk=True) for item in range(10)]
    futures += [entrance.enter(item) for item in range(10)]
    await asyncio.gather(*futures)
    assert works.batches[0] == [0, 1, 2, 3, 4, 5, 100, 101]
    assert sorted(item for batch in works.batches for item in batch) == [*range(10), *range(100, 110)]


async def test_single_item_beside_a_large_batch_waits_for_what_is_under_way_at_most(works: Works):
    entrance = door(works, size=4, bulk=1)
    for item in range(100, 200):
        entrance.enter(item, bulk=True)
    await turn()
    under_way = len(works.batches)
    future = entrance.enter(1)
    works.finished.set()
    assert await future == 10
    assert 1 in works.batches[under_way]


async def test_item_that_has_an_error_of_its_own_leaves_its_neighbours_alone(works: Works):
    works.finished.set()
    entrance = door(works)
    found = await asyncio.gather(*(entrance.enter(item) for item in (1, -1, 2)), return_exceptions=True)
    assert [found[0], found[2]] == [10, 20]
    assert isinstance(found[1], ValueError)


async def test_item_that_ruins_its_batch_ruins_no_other(works: Works):
    works.finished.set()
    entrance = door(works)
    found = await asyncio.gather(*(entrance.enter(item) for item in (1, 13, 2)), return_exceptions=True)
    assert [found[0], found[2]] == [10, 20]
    assert isinstance(found[1], ValueError)
    assert works.batches == [[1, 13, 2], [1], [13], [2]]


async def test_caller_that_leaves_while_waiting_is_not_worked_for(works: Works):
    entrance = door(works)
    first = entrance.enter(0)
    await turn()
    leaving, staying = entrance.enter(1), entrance.enter(2)
    leaving.cancel()
    works.finished.set()
    assert await asyncio.gather(first, staying) == [0, 20]
    assert works.batches == [[0], [2]]


async def test_closing_leaves_nobody_waiting(works: Works):
    entrance = door(works)
    futures = [entrance.enter(0)]
    await turn()
    futures.append(entrance.enter(1))
    await entrance.close()
    await turn()
    assert [future.cancelled() for future in futures] == [True, True]
    assert entrance.idle


async def test_sizes_are_told_and_idle_doors_are_forgotten():
    works, sizes = Works(held=False), list[int]()
    doors: Doors[int, int] = Doors(lambda _: works, DoorLimits(), sizes.append)
    for kind in range(100, 200):
        assert await doors.to(kind).enter(kind) == 10 * kind
        await turn()
    assert sizes == [1] * 100
    assert len(doors._doors) <= 2
    await doors.close()


@pytest.mark.parametrize("wrong", [{"bulk": 32}, {"bulk": 0}, {"early": 0}, {"under_way": 0}, {"age_s": 0.0}])
def test_limits_that_no_batch_can_keep_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match="correct the door's limits"):
        DoorLimits(**wrong)  # type: ignore[arg-type]
