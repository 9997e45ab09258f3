"""Turns errors that Ray Serve answers itself into problem documents.

Serve answers some requests before or instead of the application, in plain text: a request that
takes too long, one too many, a path outside the application. `cluster/ray.env` names `middlewares`
in RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH. Such a request has a trace id and an access line too.
"""

import logging

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.serving.fastpath import disconnect_monitor
from app.serving.http.problems import TYPE_PREFIX, Problem, problem_response, trace_id_of
from app.serving.http.request_ids import RequestIds
from app.serving.observability.logging import ACCESS_LOGGER

logger = logging.getLogger(ACCESS_LOGGER)

_OWN_PATHS = "/-/"
"""Serve's own health checks, which other programs read."""
_DETAILS = {
    404: ("not-served", "an application at this path, found none: see /docs"),
    408: ("timeout", "an answer in time, found none: send smaller parts, or try again"),
    503: ("overloaded", "room for one more request, found none: try again in a few seconds"),
}
_OTHER = ("internal", "an answer, found an internal error: report it with the trace id")
_TITLES = {
    404: "No application is served here",
    408: "The answer takes too long",
    503: "The service is overloaded",
}


class ServeErrors:
    """ASGI middleware around Serve's request handling.

    Args:
        inner: the rest, whose errors have the media type of the interface if they are its own.
    """

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http" or scope["path"].startswith(_OWN_PATHS):
            await self._inner(scope, receive, send)
            return
        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
        scope["trace_id"] = trace_id_of(parent.decode("latin-1"))
        started = replaced = False

        async def translate(message: Message) -> None:
            nonlocal started, replaced
            if message["type"] == "http.response.start" and not started:
                started = True
                replaced = message["status"] >= 400 and _is_text(message)
                if replaced:
                    await _respond(message["status"], scope, receive, send)
            if not replaced:
                await send(message)

        try:
            await self._inner(scope, receive, translate)
        except Exception:
            if not started:
                await _respond(500, scope, receive, send)
            raise


def _is_text(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/")
        for name, value in message.get("headers", ())
    )


async def _respond(status: int, scope: Scope, receive: Receive, send: Send) -> None:
    fields = {"method": scope["method"], "route": "other", "status": status}
    logger.info("access", extra=fields | {"trace_id": scope["trace_id"]})
    slug, expected = _DETAILS.get(status, _OTHER)
    problem = Problem(
        type=TYPE_PREFIX + slug,
        title=_TITLES.get(status, "The service failed"),
        status=status,
        detail=f"expected {expected}",
        trace_id=scope["trace_id"],
    )
    await problem_response(problem)(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return the middleware of each HTTP server that Serve starts here, the outermost last."""
    return [
        *disconnect_monitor.middlewares(),
        Middleware(ServeErrors),
        Middleware(RequestIds),
    ]
