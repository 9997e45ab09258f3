"""ASGI middleware that adds security headers to each response.

Answers of the interface belong to a tenant: no cache keeps them, and no page embeds them or runs
them as a script. `pages` sets a policy of its own for the documentation.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OF_ALL = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_NOT_STORED = (b"cache-control", b"no-store")
_INTERFACE = "/v1/"


class SecurityHeaders:
    """Adds the headers.

    Args:
        api: whose responses get them.
    """

    def __init__(self, api: ASGIApp) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                names = {name for name, _ in headers}
                headers += _OF_ALL
                if _POLICY[0] not in names:
                    headers.append(_POLICY)
                if path.startswith(_INTERFACE) and _NOT_STORED[0] not in names:
                    headers.append(_NOT_STORED)
                message["headers"] = headers
            await send(message)

        await self._api(scope, receive, send_with_headers)
