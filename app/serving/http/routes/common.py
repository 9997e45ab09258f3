"""Parts that several routes share: access checks, bodies, JSON responses, valid parameters."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.security import HTTPBearer
from pydantic import TypeAdapter, ValidationError

from app.core.errors import InputError, LimitExceeded, UnknownEquipment
from app.schemas.equipment import Identifier
from app.serving.http.auth import Authenticator
from app.store.keys import Scope as KeyScope

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)

_IDENTIFIER = TypeAdapter[str](Identifier)

Interval = tuple[datetime | None, datetime | None]
"""A half-open interval [start, end); None leaves an end open."""


def access(authenticator: Authenticator, scope: KeyScope) -> Any:
    """Return a route's dependency that requires an API key with a scope.

    The dependency sets the request's `state.key_name` to the name of the key and documents the key
    in the OpenAPI document.
    """
    bearer = HTTPBearer(auto_error=False, description="An API key")

    async def check(request: Request, _: Annotated[object, Depends(bearer)] = None) -> None:
        request.state.key_name = await authenticator.require(request.headers, scope)

    return Depends(check)


def json_response(body: bytes, status: int = 200) -> Response:
    """Return a response from encoded JSON."""
    return Response(body, status_code=status, media_type="application/json")


async def read_body(request: Request, limit: int) -> bytes:
    """Read a request's body, and no more of it than the limit.

    Args:
        request: whose body was not read yet.
        limit: bytes.

    Raises:
        LimitExceeded: the body is longer than `limit`.
        ClientDisconnect: the client disconnected before the end of the body.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise LimitExceeded(
            f"expected a body of at most {limit} bytes, found {announced}: send it in parts", "body"
        )
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise LimitExceeded(
                f"expected a body of at most {limit} bytes, found more: send it in parts", "body"
            )
    return bytes(body)


def checked_equipment_id(equipment_id: str) -> str:
    """Return the equipment id of a path if it is a valid identifier.

    Raises:
        UnknownEquipment: it is no identifier, so no equipment has it; the store is not queried.
    """
    try:
        return _IDENTIFIER.validate_python(equipment_id)
    except ValidationError as error:
        raise UnknownEquipment(
            equipment_id if len(equipment_id) <= 64 else f"{equipment_id[:61]}..."
        ) from error


def checked_interval(start: datetime | None, end: datetime | None) -> Interval:
    """Return an interval if it is valid.

    Raises:
        InputError: a time is outside the supported years, or the start is not before the end.
    """
    for field, at in (("start", start), ("end", end)):
        if at is not None and not EARLIEST <= at <= LATEST:
            raise InputError(
                f"expected a time from {EARLIEST.year} to {LATEST.year}, found {at.isoformat()}: "
                f"correct `{field}`",
                field,
            )
    if start is not None and end is not None and start >= end:
        raise InputError(
            f"expected start before end, found {start.isoformat()} and {end.isoformat()}: "
            "exchange or widen them",
            "start",
        )
    return start, end
