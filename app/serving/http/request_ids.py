"""ASGI middleware that removes request ids of callers that are none.

Serve takes `X-Request-ID` of a request into its logs and into the answer, whatever it holds, and
fails with text that is not UTF-8. Without the header it makes an id.
"""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

_VALID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class RequestIds:
    """Passes on `X-Request-ID` only if it has at most 64 letters, digits, dots, - and _.

    Args:
        inner: the rest.
    """

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "http":
            scope["headers"] = [
                (name, value)
                for name, value in scope["headers"]
                if name != b"x-request-id" or _VALID.fullmatch(value)
            ]
        await self._inner(scope, receive, send)
