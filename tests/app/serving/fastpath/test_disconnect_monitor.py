"""Callers of direct paths are given up when they leave or wait too long, without a task for each."""

import asyncio
import contextlib
from collections.abc import MutableMapping
from typing import Any

import pytest
import yaml
from starlette.requests import ClientDisconnect

from app.core.errors import ModelUnavailable
from app.core.settings import PROJECT_DIR
from app.serving.fastpath.disconnect_monitor import (
    ANSWER_S,
    ARRIVED,
    NO_WATCH,
    Callers,
    Unwatched,
    middlewares,
)
from app.serving.http.routes.common import read_body

Message = MutableMapping[str, Any]


class Connection:
    """Gives a body in parts, each when it is told to, and then waits until it is closed, as servers do."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.asked = 0
        self._given = asyncio.Event()
        self._closed = asyncio.Event()

    def give(self) -> None:
        self._given.set()

    def close(self) -> None:
        self._closed.set()

    async def receive(self) -> Message:
        self.asked += 1
        if self.parts:
            await self._given.wait()
            self._given.clear()
            return {
                "type": "http.request",
                "body": self.parts.pop(0),
                "more_body": bool(self.parts),
            }
        await self._closed.wait()
        return {"type": "http.disconnect"}


async def answer(callers: Callers, connection: Connection, work: "asyncio.Future[str]") -> str:
    with callers.watching({}, connection.receive) as caller:
        await read_body({}, caller.receive, 100)
        return await work


async def test_caller_that_leaves_is_given_up_with_its_work():
    connection, work = Connection(b"{}"), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(answer(Callers(look_s=0.01), connection, work))
    connection.give()
    await asyncio.sleep(0.05)
    assert not task.done()
    connection.close()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(task, 1.0)
    assert work.cancelled()


async def test_caller_that_waits_too_long_is_told_so():
    connection, work = Connection(b"{}"), asyncio.get_running_loop().create_future()
    connection.give()
    with pytest.raises(ModelUnavailable, match=r"within 0\.05 s"):
        await answer(Callers(look_s=0.01, answer_s=0.05), connection, work)
    assert work.cancelled()


async def test_caller_whose_body_does_not_come_is_given_up_too():
    connection = Connection(b"{}")
    with pytest.raises(ModelUnavailable):
        await answer(
            Callers(look_s=0.01, answer_s=0.05),
            connection,
            asyncio.get_running_loop().create_future(),
        )


async def test_nothing_of_a_body_is_taken_away():
    connection, work = Connection(b"{", b"}"), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(answer(Callers(look_s=0.005), connection, work))
    await asyncio.sleep(0.03)
    assert connection.asked == 1
    connection.give()
    await asyncio.sleep(0.03)
    assert connection.asked == 2
    connection.give()
    await asyncio.sleep(0.03)
    assert connection.asked > 2
    work.set_result("told")
    assert await task == "told"


async def test_what_others_cancel_stays_cancelled():
    connection = Connection(b"{}")
    connection.give()
    task = asyncio.create_task(
        answer(Callers(), connection, asyncio.get_running_loop().create_future())
    )
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_one_that_can_not_be_watched_hides_no_other(caplog: pytest.LogCaptureFixture):
    callers, loop = Callers(look_s=0.01), asyncio.get_running_loop()
    bad, good = Connection(b"{}"), Connection(b"{}")
    works = [loop.create_future(), loop.create_future()]
    tasks = [
        asyncio.create_task(answer(callers, each, work))
        for each, work in zip((bad, good), works, strict=True)
    ]
    for each in (bad, good):
        each.give()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    async def broken() -> Message:
        raise OSError("no such connection")

    next(item for item in callers._waiting if item._receive == bad.receive)._receive = broken
    good.close()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(tasks[1], 1.0)
    assert "caller not watched" in caplog.text
    works[0].set_result("told")
    assert await tasks[0] == "told"


async def test_no_timer_runs_while_nobody_waits():
    callers, connection = Callers(look_s=0.01), Connection(b"{}")
    connection.give()
    work = asyncio.get_running_loop().create_future()
    work.set_result("told")
    assert await answer(callers, connection, work) == "told"
    await asyncio.sleep(0.05)
    assert callers._timer is None


async def test_time_runs_from_when_the_request_came():
    connection = Connection(b"{}")
    connection.give()
    arrived = asyncio.get_running_loop().time() - 59.95
    with (
        pytest.raises(ModelUnavailable),
        Callers(look_s=0.01).watching({ARRIVED: arrived}, connection.receive),
    ):
        await asyncio.wait_for(asyncio.get_running_loop().create_future(), 5.0)


async def stubborn(connection: Connection) -> None:
    """Answer, deaf to the first two cancellations."""
    with Callers(look_s=0.01).watching({}, connection.receive) as caller:
        await read_body({}, caller.receive, 100)
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()
        await asyncio.get_running_loop().create_future()


async def test_who_swallows_the_end_is_told_again_and_leaves_nothing_cancelled():
    connection = Connection(b"{}")
    connection.give()
    connection.close()
    with pytest.raises(ClientDisconnect):
        await stubborn(connection)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


def test_longest_wait_is_that_of_the_other_paths():
    config = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
    assert config["http_options"]["request_timeout_s"] == ANSWER_S


def test_serve_watches_by_itself_outside_a_replica():
    assert middlewares() == []


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/diagnoses", {**dict(NO_WATCH), b"a": b"b"}),
        ("GET", "/v1/diagnoses", {b"a": b"b", b"x-request-timeout-seconds": b"5"}),
        ("POST", "/v1/diagnoses/batch", {b"a": b"b", b"x-request-timeout-seconds": b"5"}),
    ],
)
async def test_serve_is_told_not_to_watch_watched_paths_alone(
    method: str, path: str, expected: dict[bytes, bytes]
):
    seen: list[dict[bytes, bytes]] = []

    async def inner(scope: Message, *_: object) -> None:
        seen.append(dict(scope["headers"]))
        assert (ARRIVED in scope) == (len(seen[0]) == 3)

    headers = [(b"a", b"b"), (b"x-request-timeout-seconds", b"5")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    await Unwatched(inner)(scope, Connection().receive, lambda _: asyncio.sleep(0))
    assert seen == [expected]


@pytest.mark.parametrize("name", [b"traceparent", b"tracestate"])
async def test_trace_that_can_not_be_read_counts_as_not_given(name: bytes):
    seen: list[list[tuple[bytes, bytes]]] = []

    async def inner(scope: Message, _receive: object, _send: object) -> None:
        seen.append(scope["headers"])

    for value in (b"\xff\xfe", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"):
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/metrics",
            "headers": [(b"a", b"\xff"), (name, value)],
        }
        await Unwatched(inner)(scope, Connection().receive, lambda _: asyncio.sleep(0))
    assert seen == [[(b"a", b"\xff")], [(b"a", b"\xff"), (name, value)]]
