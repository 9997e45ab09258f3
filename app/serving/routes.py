"""What routes have in common: the key at the door, a body within its limit, an answer of JSON bytes.

Invariant: no more of a body is read than its route takes.
"""

from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.security import HTTPBearer

from app.errors import LimitExceeded
from app.serving.auth import Authenticator
from app.store.keys import Scope


def access(authenticator: Authenticator, scope: Scope) -> Any:
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


async def read_body(request: Request, limit: int) -> bytes:
    """Return the request's body.

    Raises:
        LimitExceeded: it is longer than `limit` bytes; no more than that is read.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise LimitExceeded(f"expected a body of at most {limit} bytes, found {announced}: send it in parts", "body")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise LimitExceeded(f"expected a body of at most {limit} bytes, found more: send it in parts", "body")
    return bytes(body)
