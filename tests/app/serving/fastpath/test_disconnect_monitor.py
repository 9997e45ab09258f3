"""Requests of direct routes are cancelled when their client disconnects or they time out."""

import asyncio
import contextlib
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
import yaml
from starlette.requests import ClientDisconnect, Request

from app.core.errors import BodyTimeout, DeadlineExceeded
from app.core.settings import PROJECT_DIR
from app.serving.fastpath.disconnect_monitor import (
    ARRIVED,
    BYPASS_HEADERS,
    DEADLINE,
    SERVE_HEADERS,
    TIMEOUT_S,
    CallerHeaders,
    DisconnectMonitor,
    ServeMonitorBypass,
    middlewares,
)
from app.serving.http.routes.common import read_body

Message = MutableMapping[str, Any]
LIMIT_S = 30.0
"""How long a test waits for a condition on a busy machine."""


class Connection:
    """Sends the parts of a body when `send` is called, then waits until it is closed."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.received = 0
        self._sent = asyncio.Event()
        self._closed = asyncio.Event()

    def send(self) -> None:
        self._sent.set()

    def close(self) -> None:
        self._closed.set()

    async def receive(self) -> Message:
        self.received += 1
        if self.parts:
            await self._sent.wait()
            self._sent.clear()
            return {
                "type": "http.request",
                "body": self.parts.pop(0),
                "more_body": bool(self.parts),
            }
        await self._closed.wait()
        return {"type": "http.disconnect"}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.001)


def pending() -> "asyncio.Future[str]":
    return asyncio.get_running_loop().create_future()


async def answer(
    monitor: DisconnectMonitor, connection: Connection, work: "asyncio.Future[str]"
) -> str:
    with monitor.watching({}, connection.receive) as request:
        await read_body(Request({"type": "http", "headers": []}, request.receive), 100)
        return await work


async def test_request_whose_client_disconnects_is_cancelled_with_its_work():
    connection, work = Connection(b"{}"), pending()
    task = asyncio.create_task(answer(DisconnectMonitor(interval_s=0.01), connection, work))
    connection.send()
    await until(lambda: connection.received > 3)  # checked more than once
    assert not task.done()
    connection.close()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(task, LIMIT_S)
    assert work.cancelled()


async def test_request_that_times_out_is_cancelled():
    connection, work = Connection(b"{}"), pending()
    connection.send()
    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
        await answer(DisconnectMonitor(interval_s=0.01, timeout_s=0.05), connection, work)
    assert work.cancelled()


async def test_request_whose_body_does_not_arrive_times_out():
    with pytest.raises(BodyTimeout, match="found a part of it"):
        await answer(
            DisconnectMonitor(interval_s=0.01, timeout_s=0.05), Connection(b"{}"), pending()
        )


async def test_deadline_of_the_caller_is_kept_exactly():
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 0.05
    scope = {ARRIVED: deadline - 0.05, DEADLINE: deadline}
    with (
        pytest.raises(BodyTimeout, match=r"within 0\.05 s"),
        DisconnectMonitor(interval_s=600.0).watching(scope, Connection().receive),
    ):
        await asyncio.wait_for(pending(), LIMIT_S)
    assert loop.time() >= deadline


async def test_no_part_of_a_body_is_lost_to_a_check():
    connection, work = Connection(b"{", b"}"), pending()
    monitor = DisconnectMonitor(interval_s=0.001)
    checks = 0
    check = monitor._check

    def counted(loop: asyncio.AbstractEventLoop) -> None:
        nonlocal checks
        checks += 1
        check(loop)

    monitor._check = counted  # type: ignore[method-assign]
    task = asyncio.create_task(answer(monitor, connection, work))
    for part in (1, 2):
        await until(lambda seen=checks: checks > seen + 2)  # type: ignore[misc]
        assert connection.received == part
        connection.send()
        await until(lambda part=part: connection.received > part)  # type: ignore[misc]
    work.set_result("answered")
    assert await task == "answered"


async def test_cancellation_by_others_goes_on():
    connection = Connection(b"{}")
    connection.send()
    task = asyncio.create_task(answer(DisconnectMonitor(), connection, pending()))
    await until(lambda: not connection.parts)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_request_that_can_not_be_checked_does_not_affect_others(
    caplog: pytest.LogCaptureFixture,
):
    monitor, works = DisconnectMonitor(interval_s=0.01), [pending(), pending()]
    bad, good = Connection(b"{}"), Connection(b"{}")
    tasks = [
        asyncio.create_task(answer(monitor, each, work))
        for each, work in zip((bad, good), works, strict=True)
    ]
    await until(lambda: bad.received == good.received == 1)

    async def broken() -> Message:
        raise OSError("no such connection")

    next(item for item in monitor._requests if item._receive == bad.receive)._receive = broken
    for each in (bad, good):
        each.send()
    good.close()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(tasks[1], LIMIT_S)
    assert "request not watched" in caplog.text
    works[0].set_result("answered")
    assert await tasks[0] == "answered"


async def test_no_timer_runs_without_requests():
    monitor, connection, work = DisconnectMonitor(interval_s=0.01), Connection(b"{}"), pending()
    connection.send()
    work.set_result("answered")
    assert await answer(monitor, connection, work) == "answered"
    await until(lambda: monitor._timer is None)


async def test_timeout_counts_from_the_arrival_of_the_request():
    arrived = asyncio.get_running_loop().time() - TIMEOUT_S + 0.05
    with (
        pytest.raises(BodyTimeout),
        DisconnectMonitor(interval_s=0.01).watching({ARRIVED: arrived}, Connection().receive),
    ):
        await asyncio.wait_for(pending(), LIMIT_S)


async def suppress_two_cancellations(connection: Connection) -> None:
    with DisconnectMonitor(interval_s=0.01).watching({}, connection.receive) as request:
        await read_body(Request({"type": "http", "headers": []}, request.receive), 100)
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await pending()
        await pending()


async def test_suppressed_cancellation_is_repeated_and_none_remains():
    connection = Connection(b"{}")
    connection.send()
    connection.close()
    with pytest.raises(ClientDisconnect):
        await suppress_two_cancellations(connection)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


def test_timeout_is_that_of_the_other_routes():
    config = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
    assert config["http_options"]["request_timeout_s"] == TIMEOUT_S


def test_outside_a_replica_serve_keeps_its_own_monitoring():
    assert [each.cls for each in middlewares()] == [CallerHeaders]


@pytest.mark.parametrize("name", sorted(SERVE_HEADERS))
async def test_headers_that_serve_reads_by_itself_are_taken_from_callers(name: bytes):
    seen: list[list[tuple[bytes, bytes]]] = []

    async def inner(scope: Message, *_: object) -> None:
        seen.append(scope["headers"])

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [(b"a", b"b"), (name, b"\xff")],
    }
    await CallerHeaders(inner)(scope, Connection().receive, lambda _: asyncio.sleep(0))
    assert seen == [[(b"a", b"b")]]


async def test_callers_can_not_switch_serves_limits_off():
    seen: list[list[tuple[bytes, bytes]]] = []

    async def inner(scope: Message, *_: object) -> None:
        seen.append(scope["headers"])

    headers = [(b"a", b"b"), *BYPASS_HEADERS]
    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": headers}
    await CallerHeaders(inner)(scope, Connection().receive, lambda _: asyncio.sleep(0))
    assert seen == [[(b"a", b"b")]]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/v1/diagnoses", {**dict(BYPASS_HEADERS), b"a": b"b"}),
        ("GET", "/v1/diagnoses", {b"a": b"b", b"x-request-timeout-seconds": b"5"}),
        ("POST", "/v1/diagnoses/batch", {b"a": b"b", b"x-request-timeout-seconds": b"0"}),
    ],
)
async def test_serve_monitoring_is_turned_off_for_monitored_routes_only(
    method: str, path: str, expected: dict[bytes, bytes]
):
    seen: list[dict[bytes, bytes]] = []

    async def inner(scope: Message, *_: object) -> None:
        seen.append(dict(scope["headers"]))
        assert (ARRIVED in scope) == (method == "POST")

    headers = [(b"a", b"b"), (b"x-request-timeout-seconds", b"5")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    await ServeMonitorBypass(inner)(scope, Connection().receive, lambda _: asyncio.sleep(0))
    assert seen == [expected]


@pytest.mark.parametrize("name", [b"traceparent", b"tracestate"])
async def test_trace_header_that_is_not_ascii_is_removed(name: bytes):
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
        await ServeMonitorBypass(inner)(scope, Connection().receive, lambda _: asyncio.sleep(0))
    assert seen == [[(b"a", b"\xff")], [(b"a", b"\xff"), (name, value)]]
