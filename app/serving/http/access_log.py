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
from app.serving.observability import tracing
from app.serving.observability.metrics import Metrics

logger = logging.getLogger(__name__)


class AccessLog:
    """Logs and counts each request.

    Args:
        api: the application; answers unexpected errors itself and raises them again.
        metrics: of this replica.
    """

    def __init__(self, api: ASGIApp, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        started, finished = time.perf_counter(), False
        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
        tracing.begin_request(scope["method"])
        trace_id = scope["trace_id"] = tracing.trace_id() or trace_id_of(parent.decode("latin-1"))
        status = 0

        async def send_and_record_status(message: Message) -> None:
            nonlocal status, finished
            finished = message["type"] == "http.response.body" and not message.get(
                "more_body", False
            )
            if message["type"] == "http.response.start":
                status = message["status"]
                if not any(name == b"x-trace-id" for name, _ in message["headers"]):
                    message["headers"] = [*message["headers"], (b"x-trace-id", trace_id.encode())]
            await send(message)

        unfinished = CLIENT_GONE
        try:
            await self._api(scope, receive, send_and_record_status)
        except Exception:
            unfinished = 500
            logger.exception("unexpected error", extra={"trace_id": trace_id})
            if not finished:
                raise
        finally:
            status = status if finished else unfinished
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.note_request(scope["method"], route, status, seconds)
        tracing.end_request(scope["method"], route, status)
        if logger.isEnabledFor(logging.INFO):
            # made by hand: `logger.info` walks the stack, and Ray's record factory adds fields
            record = logging.LogRecord(logger.name, logging.INFO, "", 0, "access", None, None)
            fields = {
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
            }
            vars(record).update(fields, trace_id=scope["trace_id"])
            logger.handle(record)
