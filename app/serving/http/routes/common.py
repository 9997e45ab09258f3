"""Parts that several routes share: access, bodies, JSON responses, pages, valid parameters."""

import asyncio
import difflib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, Query, Request, Response, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from app.core.errors import BodyTimeout, InputError, LimitExceeded, UnknownEquipment
from app.schemas.equipment import Identifier
from app.schemas.places import shown, some_of
from app.schemas.times import EARLIEST, LATEST
from app.serving.http.auth import Authenticator, RouteScope

BODY_PAUSE_S = 15.0
"""Longest time between two parts of a body."""
BODY_S = 120.0
"""Longest time for a body that is read as a whole: the largest one at 270 kB/s."""
MAX_ORDER_BYTES = 64 * 1024
"""Largest body of requests that carry no data, such as those of releases."""

_BEARER = HTTPBearer(
    scheme_name="bearer", auto_error=False, description="An API key: `Authorization: Bearer KEY`"
)
_HEADER = APIKeyHeader(
    name="X-API-Key", scheme_name="header", auto_error=False, description="An API key"
)

_IDENTIFIER = TypeAdapter[str](Identifier)

PageLimit = Annotated[int, Query(ge=1, le=1_000, description="most items of the answer")]
PageCursor = Annotated[
    str | None,
    Query(
        max_length=512,
        description="`next_cursor` of the previous page, with the same other parameters; the first "
        "page without it",
    ),
]
NextCursor = Annotated[
    str | None, Field(description="`cursor` of the next page; null after the last item")
]

_Body = TypeVar("_Body", bound=BaseModel)
_Place = TypeVar("_Place")

Interval = tuple[datetime | None, datetime | None]
"""A half-open interval [start, end); None leaves an end open."""


class Access:
    """A route's dependency that requires an API key with a scope.

    It sets the request's `state.key`, and `state.key_name` to its name, charges its limit of
    requests, and documents both ways to send it in the OpenAPI document.

    Args:
        authenticator: of the replica.
        scope: that the key needs.
    """

    def __init__(self, authenticator: Authenticator, scope: RouteScope) -> None:
        self._authenticator = authenticator
        self.scope = scope

    async def __call__(
        self,
        request: Request,
        _: Annotated[object, Depends(_BEARER)] = None,
        __: Annotated[object, Depends(_HEADER)] = None,
    ) -> None:
        """Check the key of a request."""
        key = await self._authenticator.require(request.headers, self.scope)
        request.state.key, request.state.key_name = key, key.name
        request.app.state.limiter.begin(request.scope, key)


def access(authenticator: Authenticator, scope: RouteScope) -> Any:
    """Return a route's dependency that requires an API key with a scope."""
    return Depends(Access(authenticator, scope))


async def _need_no_key() -> None:
    """Mark a route that answers anybody; it must show nothing of a tenant."""


PUBLIC: Any = Depends(_need_no_key)


def scope_of(route: APIRoute) -> RouteScope | Literal["public"] | None:
    """Return the scope that a route declares with `access` or `PUBLIC`; None without either."""
    for each in route.dependencies:
        if isinstance(each.dependency, Access):
            return each.dependency.scope
        if each is PUBLIC:
            return "public"
    return None


async def refuse_unknown_query(request: Request) -> None:
    """Refuse query parameters that the route of a request does not have; a dependency of all.

    Raises:
        InputError: names the first unknown parameter and all that the route has.
    """
    route = request.scope.get("route")
    if not request.scope["query_string"] or not isinstance(route, APIRoute):
        return
    known = sorted(
        field.alias
        for field in get_flat_params(route.dependant)
        if isinstance(field.field_info, params.Query)
    )
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is None:
        return
    near = difflib.get_close_matches(unknown, known, 1)
    raise InputError(
        f"expected {'query parameters of ' + some_of(known) if known else 'no query parameters'}, "
        f"found {shown(unknown)}: "
        + (f"did you mean '{near[0]}'?" if near else "correct its name, or leave it out"),
        unknown,
    )


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
        BodyTimeout: no more of it arrived for `BODY_PAUSE_S`, or not all within `BODY_S`.
        ClientDisconnect: the client disconnected before the end of the body.
    """
    check_announced(request, limit)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in body_parts(request):
                body += part
                if len(body) > limit:
                    raise LimitExceeded(
                        f"expected a body of at most {limit} bytes, found more: send it in parts",
                        "body",
                    )
    except TimeoutError as error:
        raise BodyTimeout(
            f"expected the whole body within {BODY_S:g} s, found {len(body)} bytes: send it faster",
            "body",
        ) from error
    return bytes(body)


def check_announced(request: Request, limit: int) -> None:
    """Refuse a body whose announced length is above a limit.

    Raises:
        LimitExceeded: it is.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise LimitExceeded(
            f"expected a body of at most {limit} bytes, found {announced}: send it in parts", "body"
        )


async def body_parts(request: Request) -> AsyncIterator[bytes]:
    """Yield the parts of a request's body as they arrive.

    Raises:
        BodyTimeout: none arrived for `BODY_PAUSE_S`.
        ClientDisconnect: the client disconnected before the end of the body.
    """
    parts = request.stream()
    while True:
        try:
            async with asyncio.timeout(BODY_PAUSE_S):
                part = await anext(parts, None)
        except TimeoutError as error:
            raise BodyTimeout(
                f"expected the next part of the body within {BODY_PAUSE_S:g} s, found none: send "
                "it without pauses",
                "body",
            ) from error
        if part is None:
            return
        yield part


async def read_json(request: Request, model: type[_Body], limit: int = MAX_ORDER_BYTES) -> _Body:
    """Read and validate a request's JSON body, whatever its content type; an empty one is `{}`.

    Args:
        request: whose body was not read yet.
        model: of the body.
        limit: bytes.

    Raises:
        ValidationError: the body does not fit the model.
        LimitExceeded: the body is longer than `limit`.
    """
    return model.model_validate_json(await read_body(request, limit) or b"{}")


def cursor_of(*place: object) -> str:
    """Return the opaque cursor of a page's last item.

    Args:
        place: what orders the items, such as a time and an id; plain values.
    """
    return urlsafe_b64encode(to_json(place)).decode().rstrip("=")


def read_cursor(cursor: str | None, kind: type[_Place]) -> _Place | None:
    """Return the place that `cursor_of` made a cursor from, or None for the first page.

    Args:
        cursor: of the request.
        kind: of the place, such as `tuple[datetime, str]`.

    Raises:
        InputError: the cursor was not made from such a place.
    """
    if cursor is None:
        return None
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValueError as error:  # pydantic's and base64's errors are of this type
        raise InputError(
            f"expected `next_cursor` of an earlier answer, found {shown(cursor)}: leave "
            "`cursor` out to begin with the first page",
            "cursor",
        ) from error


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
