"""What routes have in common: the key at the door, a body within its limit, an answer of JSON bytes.

Invariant: no more of a body is read than its route takes.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.security import HTTPBearer
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from app.core.errors import LimitExceeded
from app.serving.http.auth import Authenticator
from app.store.keys import Scope as KeyScope


def access(authenticator: Authenticator, scope: KeyScope) -> Any:
    """Return a route's dependency that lets pass who may, and names the key in the interface's document.

    The request's `state.key_name` then has the name of the key.
    """
    bearer = HTTPBearer(auto_error=False, description="An API key")

    async def check(request: Request, _: Annotated[object, Depends(bearer)] = None) -> None:
        request.state.key_name = await authenticator.require(request.headers, scope)

    return Depends(check)


def json_answer(body: bytes, status: int = 200) -> Response:
    """Return an answer of JSON that was made already."""
    return Response(body, status_code=status, media_type="application/json")


def headers_of(scope: Scope) -> dict[str, str]:
    """Return a request's headers, names in lower case; of a name that is there twice the first."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in reversed(scope["headers"])
    }


async def read_body(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    """Return a request's body.

    Args:
        headers: of the request, names in lower case.
        receive: gives its parts.
        limit: bytes.

    Raises:
        LimitExceeded: it is longer than `limit`; no more than that is read.
        ClientDisconnect: the caller left before its end.
    """
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise LimitExceeded(
            f"expected a body of at most {limit} bytes, found {announced}: send it in parts", "body"
        )
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise LimitExceeded(
                f"expected a body of at most {limit} bytes, found more: send it in parts", "body"
            )
    return bytes(body)
