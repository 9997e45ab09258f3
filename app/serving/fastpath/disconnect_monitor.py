"""Who waits for an answer of a direct path: whoever has left, or waits too long, is given up, by one timer for all.

Serve would do it with two tasks of the event loop for each request, which cost a diagnosis a tenth of its processor time under load;
`Unwatched` tells it not to, and is given to Serve by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH (ENVIRONMENT_DEFAULTS in the Makefile). Where that
is not set, both watch. A request that waits for one of the replica's `max_ongoing_requests` is not looked at, but its time runs.
Invariant: the server is asked whether a caller has left only when the whole body was read, so nothing of it is taken away.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ray import serve
from ray.serve._private.constants import (
    RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD,
)  # has no public name
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import ModelUnavailable

logger = logging.getLogger(__name__)

WATCHED = frozenset({("POST", "/v1/diagnoses")})
"""Methods and paths whose callers are watched here."""
LOOK_S = 0.1
"""Time between two looks at who has left."""
ANSWER_S = 60.0
"""Longest that a caller waits; as `request_timeout_s` of `serve_config.yaml`, which holds for the other paths."""
ARRIVED = "hydraulic.arrived"
"""Key of a scope: time of the event loop when the request came."""
NO_WATCH = ((b"x-request-disconnect-disabled", b"?1"), (b"x-request-timeout-seconds", b"0"))
"""What tells Serve to watch neither connection nor clock of a request."""
TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})


class Caller:
    """One request: receives for it, and knows whether its body is read.

    Args:
        receive: of its connection.
        began: time of the event loop.
        answer_s: longest that it waits.
    """

    def __init__(self, receive: Receive, began: float, answer_s: float) -> None:
        self._began = began
        self._answer_s = answer_s
        self.given_up: Exception | None = None
        self._cancels = 0
        self._receive = receive
        self._is_read = False
        self._task = asyncio.current_task()

    async def receive(self) -> Message:
        """Return the next message of the connection."""
        message = await self._receive()
        self._is_read = not message.get("more_body", False)
        return message

    def look(self, now: float) -> None:
        """Give the caller up if it has left or waits too long."""
        self.given_up = self.given_up or self._reason(now)
        if self.given_up is not None and self._task is not None:
            # again at each look, should something have swallowed the one before
            self._cancels += 1
            self._task.cancel()

    def _reason(self, now: float) -> Exception | None:
        if now - self._began >= self._answer_s:
            return ModelUnavailable(
                f"expected an answer within {self._answer_s:g} s, found none: ask again"
            )
        return ClientDisconnect() if self._is_read and _has_left(self._receive) else None

    def take_back(self) -> int:
        """Take back the cancellations that came from here, and return how many others there are."""
        if self._task is None:
            return 0
        for _ in range(self._cancels):
            self._task.uncancel()
        self._cancels = 0
        return self._task.cancelling()


class Callers:
    """All requests of direct paths that are under way.

    Args:
        look_s: see `LOOK_S`.
        answer_s: see `ANSWER_S`.
    """

    def __init__(self, look_s: float = LOOK_S, answer_s: float = ANSWER_S) -> None:
        self._look_s = look_s
        self._answer_s = answer_s
        self._waiting: set[Caller] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def watching(self, scope: Scope, receive: Receive) -> Iterator[Caller]:
        """Watch the request of the current task.

        Args:
            scope: of the request.
            receive: of its connection; who answers receives by the caller's instead.

        Raises:
            ClientDisconnect: the caller has left; the work for it was cancelled.
            ModelUnavailable: it waited too long; likewise.
        """
        loop = asyncio.get_running_loop()
        caller = Caller(receive, scope.get(ARRIVED, loop.time()), self._answer_s)
        self._waiting.add(caller)
        if self._timer is None:
            self._timer = loop.call_later(self._look_s, self._look, loop)
        try:
            yield caller
        except asyncio.CancelledError:
            # whoever else cancels it wants it to end
            if caller.given_up is None or caller.take_back() > 0:
                raise
            raise caller.given_up from None
        finally:
            self._waiting.discard(caller)
            caller.take_back()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._look_s, self._look, loop) if self._waiting else None
        now = loop.time()
        for caller in tuple(self._waiting):
            try:
                caller.look(now)
            except Exception:
                self._waiting.discard(caller)
                logger.exception("caller not watched")


def _has_left(receive: Receive) -> bool:
    """Ask a connection without waiting whether it is closed; what it would wait for is given up at once."""
    asked = receive().__await__()
    try:
        next(asked)
    except StopIteration as told:
        is_closed: bool = told.value["type"] == "http.disconnect"
        return is_closed
    asked.close()  # it waits for the end of the connection
    return False


class Unwatched:
    """Around Serve's own handling of a request in a replica: of watched paths Serve watches nothing, and it is given no trace that it can't read.

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
            # Serve would fail on them before anybody could answer; they count as not given
            scope["headers"] = [
                header for header in scope["headers"] if header[0] not in TRACE_HEADERS
            ]
        if scope["type"] == "http" and (scope["method"], scope["path"]) in WATCHED:
            scope["headers"] = [*scope["headers"], *NO_WATCH]
            scope[ARRIVED] = asyncio.get_running_loop().time()
        await self._inner(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return what Serve puts around the application of each HTTP server that it starts.

    Nothing for a proxy, which nobody else would watch, and where requests are answered in another thread than they come in.
    """
    try:
        serve.get_replica_context()
    except RayServeException:
        return []
    return [] if RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD else [Middleware(Unwatched)]
