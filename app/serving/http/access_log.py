"""ASGI middleware that gives every request a trace id, an access line and metrics.

An unexpected error is logged with its trace id. A response that was begun and did not end has the
status of its failure, not the one that was sent.
"""

import logging
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.serving.http.problems import CLIENT_GONE, trace_id_of
from app.serving.http.rate_limits import headers_of
from app.serving.observability import tracing
from app.serving.observability.ecs import traces_of
from app.serving.observability.logging import writes_access
from app.serving.observability.metrics import Metrics
from app.store.caller import NOBODY, current_caller, reset_caller, set_caller

logger = logging.getLogger(__name__)

CLIENT_ERROR = 400
"""The lowest status whose line is written whatever share of the access lines is."""


class AccessLog:
    """Logs and counts each request.

    Args:
        api: the application; answers unexpected errors itself and raises them again.
        metrics: of this replica.
    """

    def __init__(self, api: ASGIApp, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics
        self._in_progress = 0
        metrics.requests_in_progress.set_function(lambda: self._in_progress)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        started, finished = time.perf_counter(), False
        before = set_caller(NOBODY)
        tracing.begin_request(scope["method"])
        trace_id: str = tracing.trace_id() or scope.get("trace_id") or _trace_id_in(scope)
        scope["trace_id"] = trace_id
        status = sent = sending_ns = 0
        span = tracing.current_span()
        self._in_progress += 1

        async def send_and_record_status(message: Message) -> None:
            nonlocal status, finished, sent, sending_ns
            finished = message["type"] == "http.response.body" and not message.get(
                "more_body", False
            )
            sent += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                sending_ns = 0 if span is None else time.time_ns()
                if not any(name == b"x-trace-id" for name, _ in message["headers"]):
                    message["headers"] = [*message["headers"], (b"x-trace-id", trace_id.encode())]
                message["headers"] = [*message["headers"], *headers_of(scope)]
            await send(message)
            if finished:
                tracing.note_wait("send response", span, sending_ns)

        unfinished = CLIENT_GONE
        try:
            with traces_of((trace_id,)):
                await self._api(scope, receive, send_and_record_status)
        except Exception:
            unfinished = 500
            logger.exception("unexpected error", extra={"trace_id": trace_id})
            if not finished:
                raise
        finally:
            self._in_progress -= 1
            status = status if finished else unfinished
            self._record(scope, status, time.perf_counter() - started, sent)
            reset_caller(before)

    def _record(
        self, scope: MutableMapping[str, Any], status: int, seconds: float, sent: int
    ) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.response_bytes.counts[(route,)] += sent
        self._metrics.note_request(scope["method"], route, status, seconds)
        tracing.end_request(scope["method"], route, status)
        failed = status >= CLIENT_ERROR or not status
        if logger.isEnabledFor(logging.INFO) and writes_access(scope["trace_id"], failed=failed):
            # made by hand: `logger.info` walks the stack, and Ray's record factory adds fields
            record = logging.LogRecord(logger.name, logging.INFO, "", 0, "access", None, None)
            fields = {
                "method": scope["method"],
                "route": route,
                "status": status,
                "duration_s": seconds,
                "event.outcome": "failure" if failed else "success",
            }
            if key := current_caller().actor:
                fields["actor"] = key
            vars(record).update(fields, trace_id=scope["trace_id"])
            logger.handle(record)


def _trace_id_in(scope: Scope) -> str:
    parent = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
    return trace_id_of(parent.decode("latin-1"))
