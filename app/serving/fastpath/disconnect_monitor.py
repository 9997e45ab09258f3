"""Cancels requests of direct routes whose client disconnected or timed out, using one shared timer.

Serve would start two asyncio tasks for each request to watch its connection and its timeout.
`ServeMonitorBypass` turns that off for the monitored routes; Serve loads it by the setting
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH in `cluster/ray.env`. Without the setting both watch.

Measured gain: a tenth of the CPU of all processes a request, at 32 connections.

A request that waits for one of the replica's `max_ongoing_requests` is not checked for a closed
connection, but its timeout runs. A connection is checked only after the whole body was read, so
the check never takes away a part of the body.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from ray import serve
from ray.serve._private.constants import (
    RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD,
)  # has no public name
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import BodyTimeout, DeadlineExceeded

logger = logging.getLogger(__name__)

MONITORED = frozenset({("POST", "/v1/diagnoses")})
"""Methods and paths that this module watches instead of Serve."""
LIMITED_BY_ITEM = frozenset({("POST", "/v1/diagnoses/batch")})
"""Methods and paths whose items have deadlines; Serve watches their connection, not their time."""
INTERVAL_S = 0.1
"""Seconds between two checks of all requests."""
TIMEOUT_S = 60.0
"""Longest duration of a request; equal to `request_timeout_s` in `serve_config.yaml`."""
ARRIVED = "hydraulic.arrived"
"""Key in the ASGI scope: event loop time at which the request arrived."""
DEADLINE = "hydraulic.deadline"
"""Key in the ASGI scope: event loop time until which the caller waits; absent without a limit."""
SERVE_HEADERS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"x-session-id",
        b"serve-multiplexed-model-id",
        b"serve_multiplexed_model_id",
    }
)
"""Request headers that control Serve: a caller could switch its limits off by the first two; the
others it decodes as UTF-8, and fails by itself where they are not."""
NO_TIMEOUT = (b"x-request-timeout-seconds", b"0")
BYPASS_HEADERS = ((b"x-request-disconnect-disabled", b"?1"), NO_TIMEOUT)
"""Request headers by which Serve watches neither the connection nor the timeout of a request."""
TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})


class WatchedRequest:
    """One request in progress: its connection, its task and its deadline.

    Args:
        receive: the connection's ASGI callable.
        arrived: event loop time.
        deadline: likewise.
    """

    def __init__(self, receive: Receive, arrived: float, deadline: float) -> None:
        self._arrived = arrived
        self._deadline = deadline
        self.reason: Exception | None = None
        """Why the request was cancelled, or None."""
        self._cancellations = 0
        self._receive = receive
        self._is_read = False
        self._task = asyncio.current_task()

    async def receive(self) -> Message:
        """Return the next message of the connection."""
        message = await self._receive()
        self._is_read = not message.get("more_body", False)
        return message

    def check(self, now: float) -> None:
        """Cancel the request's task if the client disconnected or the request timed out."""
        self.reason = self.reason or self._reason_to_cancel(now)
        if self.reason is not None and self._task is not None:
            # at each check again, in case the task suppressed the previous cancellation
            self._cancellations += 1
            self._task.cancel()

    def _reason_to_cancel(self, now: float) -> Exception | None:
        if now >= self._deadline:
            within = f"within {self._deadline - self._arrived:g} s"
            if not self._is_read:
                return BodyTimeout(
                    f"expected the whole body {within}, found a part of it: send it without pauses"
                )
            return DeadlineExceeded(
                f"expected an answer {within}, found none until then: allow more time, request "
                "less, or try again"
            )
        return ClientDisconnect() if self._is_read and _is_closed(self._receive) else None

    def uncancel(self) -> int:
        """Undo the cancellations made by `check`, and return how many others the task has."""
        if self._task is None:
            return 0
        for _ in range(self._cancellations):
            self._task.uncancel()
        self._cancellations = 0
        return self._task.cancelling()


class DisconnectMonitor:
    """Watches all requests of the monitored routes that are in progress.

    Args:
        interval_s: see `INTERVAL_S`.
        timeout_s: see `TIMEOUT_S`.
    """

    def __init__(self, interval_s: float = INTERVAL_S, timeout_s: float = TIMEOUT_S) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._requests: set[WatchedRequest] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def watching(self, scope: Scope, receive: Receive) -> Iterator[WatchedRequest]:
        """Watch the request of the current task.

        Args:
            scope: of the request.
            receive: the connection's ASGI callable; inside, use that of the watched request.

        Raises:
            ClientDisconnect: the client disconnected; the task's work was cancelled.
            BodyTimeout: the body had not arrived when the time was over; likewise.
            DeadlineExceeded: the work had not ended; likewise.
        """
        loop = asyncio.get_running_loop()
        arrived = scope.get(ARRIVED, loop.time())
        deadline = min(arrived + self._timeout_s, scope.get(DEADLINE, inf))
        request = WatchedRequest(receive, arrived, deadline)
        self._requests.add(request)
        if self._timer is None:
            self._timer = loop.call_later(self._interval_s, self._check, loop)
        if DEADLINE in scope:  # not at the next interval only
            own_timer = loop.call_at(deadline, lambda: request.check(loop.time()))
        else:
            own_timer = None
        try:
            yield request
        except asyncio.CancelledError:
            # a cancellation by anyone else goes on
            if request.reason is None or request.uncancel() > 0:
                raise
            raise request.reason from None
        finally:
            if own_timer is not None:
                own_timer.cancel()
            self._requests.discard(request)
            request.uncancel()

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = (
            loop.call_later(self._interval_s, self._check, loop) if self._requests else None
        )
        now = loop.time()
        for request in tuple(self._requests):
            try:
                request.check(now)
            except Exception:
                self._requests.discard(request)
                logger.exception("request not watched")


def _is_closed(receive: Receive) -> bool:
    """Return whether a connection is closed, without waiting for its next message."""
    next_message = receive().__await__()
    try:
        next(next_message)
    except StopIteration as result:
        is_closed: bool = result.value["type"] == "http.disconnect"
        return is_closed
    next_message.close()  # it waits for the end of the connection
    return False


def is_monitored(scope: Scope) -> bool:
    """Return whether this module watches a request."""
    if scope["type"] != "http":
        return False
    return (scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))) in MONITORED


class CallerHeaders:
    """ASGI middleware that takes Serve's own headers from requests of callers.

    Args:
        inner: the rest of the application.
    """

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        headers = scope.get("headers", ())
        if any(name in SERVE_HEADERS for name, _ in headers):
            scope["headers"] = [header for header in headers if header[0] not in SERVE_HEADERS]
        await self._inner(scope, receive, send)


class ServeMonitorBypass:
    """ASGI middleware around Serve's request handling in a replica.

    Turns off Serve's own monitoring of the monitored routes, and removes trace headers that Serve
    can't parse: it would fail on them before the application could answer.

    Args:
        inner: the rest of the application.
    """

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if not all(
            value.isascii() for name, value in scope.get("headers", ()) if name in TRACE_HEADERS
        ):
            scope["headers"] = [
                header for header in scope["headers"] if header[0] not in TRACE_HEADERS
            ]
        route = (scope["method"], scope["path"]) if scope["type"] == "http" else None
        if route in MONITORED or route in LIMITED_BY_ITEM:
            added = BYPASS_HEADERS if route in MONITORED else (NO_TIMEOUT,)
            scope["headers"] = [*scope["headers"], *added]
            scope[ARRIVED] = asyncio.get_running_loop().time()
        await self._inner(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return the middleware for each HTTP server that Serve starts in this process.

    Serve goes on watching in a proxy, where `DisconnectMonitor` does not run, and where requests
    are answered in another thread than the server's.
    """
    of_callers = Middleware(CallerHeaders)
    try:
        serve.get_replica_context()
    except RayServeException:
        return [of_callers]
    if RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD:
        return [of_callers]
    return [of_callers, Middleware(ServeMonitorBypass)]
