"""The response cache: which requests share an entry, its lifetime and its invalidation."""

import asyncio
from dataclasses import dataclass, field

import pytest

from app.serving.ingress.response_cache import ResponseCache, ResponseKey
from app.serving.observability.metrics import Metrics


@dataclass
class Computations:
    """The futures of the computations that were started."""

    futures: list["asyncio.Future[bytes]"] = field(default_factory=list)

    def __call__(self) -> "asyncio.Future[bytes]":
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]


@dataclass
class Clock:
    now_s: float = 1000.4

    def __call__(self) -> float:
        return self.now_s


def key(
    equipment_id: str = "rig", first_bin: int = 1, revision: str = "a", version: str = "1"
) -> ResponseKey:
    return ResponseKey(
        "default", equipment_id, revision, first_bin, (version,), forced=False, explain=False
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def answers(clock: Clock, metrics: Metrics) -> ResponseCache:
    return ResponseCache(metrics, size=3, clock=clock)


def counted(metrics: Metrics, outcome: str) -> float:
    value: float = metrics.answers.labels(outcome)._value.get()
    return value


async def answered(
    answers: ResponseCache, computed: Computations, what: ResponseKey, body: bytes
) -> bytes:
    task = asyncio.create_task(answers.get(what, 1.0, computed))
    await asyncio.sleep(0)
    for future in computed.futures:
        if not future.done():
            future.set_result(body)
    return await task


async def test_same_request_in_the_same_bin_is_answered_once(
    answers: ResponseCache, metrics: Metrics, clock: Clock
):
    computed = Computations()
    assert await answered(answers, computed, key(), b"one") == b"one"
    clock.now_s = 1000.99
    assert await answered(answers, computed, key(), b"two") == b"one"
    assert len(computed.futures) == 1
    assert (counted(metrics, "miss"), counted(metrics, "hit")) == (1, 1)


async def test_answer_is_not_given_past_the_bin_it_was_made_in(
    answers: ResponseCache, clock: Clock
):
    computed = Computations()
    await answered(answers, computed, key(), b"one")
    clock.now_s = 1001.0
    assert await answered(answers, computed, key(), b"two") == b"two"


@pytest.mark.parametrize(
    "other",
    [
        key(equipment_id="press"),
        key(first_bin=2),
        key(revision="b"),
        key(version="2"),
        key()._replace(explain=True),
        key()._replace(forced=True),
    ],
)
async def test_request_that_differs_is_computed_anew(answers: ResponseCache, other: ResponseKey):
    computed = Computations()
    await answered(answers, computed, key(), b"one")
    assert await answered(answers, computed, other, b"two") == b"two"


async def test_concurrent_requests_share_one_computation(answers: ResponseCache, metrics: Metrics):
    computed = Computations()
    tasks = [asyncio.create_task(answers.get(key(), 1.0, computed)) for _ in range(5)]
    await asyncio.sleep(0)
    assert len(computed.futures) == 1
    computed.futures[0].set_result(b"one")
    assert await asyncio.gather(*tasks) == [b"one"] * 5
    assert counted(metrics, "joined") == 4


async def test_computation_is_cancelled_when_its_last_waiter_is(answers: ResponseCache):
    computed = Computations()
    tasks = [asyncio.create_task(answers.get(key(), 1.0, computed)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    assert not computed.futures[0].cancelled()
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert computed.futures[0].cancelled()
    await asyncio.sleep(0)
    assert await answered(answers, computed, key(), b"two") == b"two"


async def test_error_reaches_all_waiters_and_is_not_cached(answers: ResponseCache):
    computed = Computations()
    tasks = [asyncio.create_task(answers.get(key(), 1.0, computed)) for _ in range(2)]
    await asyncio.sleep(0)
    computed.futures[0].set_exception(ValueError("no"))
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(item) for item in found] == [ValueError, ValueError]
    assert await answered(answers, computed, key(), b"two") == b"two"


async def test_new_readings_drop_cached_responses_and_running_computations(answers: ResponseCache):
    computed = Computations()
    await answered(answers, computed, key(), b"one")
    await answered(answers, computed, key("press"), b"other")
    waiting = asyncio.create_task(answers.get(key(first_bin=2), 1.0, computed))
    await asyncio.sleep(0)
    answers.forget("rig")
    computed.futures[-1].set_result(b"old")
    assert await waiting == b"old"  # a request from before the readings is answered
    assert await answered(answers, computed, key(first_bin=2), b"new") == b"new"
    assert await answered(answers, computed, key(), b"new") == b"new"
    assert await answered(answers, computed, key("press"), b"new") == b"other"


async def test_cache_is_bounded(answers: ResponseCache, clock: Clock):
    computed = Computations()
    for number in range(50):
        await answered(answers, computed, key(f"rig-{number}"), b"body")
    assert len(answers._responses) == 3
    clock.now_s += 5
    await answered(answers, computed, key(), b"body")
    assert len(answers._responses) == 1
    answers.clear()
    assert not answers._responses
    assert not answers._flights


async def test_request_that_arrives_while_the_last_waiter_is_cancelled_is_answered(
    answers: ResponseCache,
):
    computed = Computations()
    leaving = asyncio.create_task(answers.get(key(), 1.0, computed))
    await asyncio.sleep(0)
    computed.futures[0].cancel()
    coming = asyncio.create_task(answers.get(key(), 1.0, computed))
    await asyncio.sleep(0)
    computed.futures[1].set_result(b"two")
    assert await coming == b"two"
    with pytest.raises(asyncio.CancelledError):
        await leaving
