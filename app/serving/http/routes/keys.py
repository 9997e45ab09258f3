"""`/v1/keys`: creates, lists, rotates and revokes API keys; all need the scope admin.

A tenant's admin key administers the keys of its tenant; an operator's those of any.

A secret is in the answer that creates it and nowhere else. Replicas cache keys: a revoked or
rotated secret stops working everywhere within `auth.CACHE_S`.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, NamedTuple, Protocol

from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.schemas.times import AwareTime
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import answer_of, body_of, problems
from app.serving.http.routes.common import (
    NextCursor,
    PageCursor,
    PageLimit,
    access,
    cursor_of,
    json_response,
    read_cursor,
    read_json,
)
from app.store.caller import current_caller
from app.store.keys import (
    MAX_OVERLAP_S,
    ApiKey,
    CreatedKey,
    KeyRepository,
    Scope,
    check_expiry,
)
from app.store.tenants import TenantName

logger = logging.getLogger(__name__)

_STRICT = ConfigDict(frozen=True, extra="forbid")
_NOT_STORED = {"cache-control": "no-store"}

KeyName = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[A-Za-z0-9][^/\x00-\x1f\x7f]*$",
        description="who uses the key; begins with a letter or digit and has no slash",
        examples=["line 3"],
    ),
]

OfTenant = Annotated[
    TenantName | None,
    Query(description="that the key belongs to, for operators; that of the request's key if left"),
]


class _Place(NamedTuple):
    key_id: Annotated[int, Field(ge=0, le=2**31 - 1)]


class KeyOrder(BaseModel):
    """A key to create."""

    model_config = _STRICT

    name: KeyName
    scopes: Annotated[
        list[Scope], Field(min_length=1, description="what it may do; `admin` includes all")
    ]
    expires: Annotated[
        AwareTime | None, Field(description="until when it is accepted; without end if left out")
    ] = None
    tenant: Annotated[
        TenantName | None,
        Field(description="whose equipment it sees, for operators; that of the request's key"),
    ] = None


class RotationOrder(BaseModel):
    """How to rotate a key; all of it may be left out."""

    model_config = _STRICT

    expires: Annotated[
        AwareTime | None,
        Field(description="until when the new secret is accepted; that of the old one without it"),
    ] = None
    overlap_s: Annotated[
        float,
        Field(
            strict=True,
            ge=0,
            le=MAX_OVERLAP_S,
            description="for how long the old secret is accepted as well",
        ),
    ] = 0.0


class KeyPage(BaseModel):
    """API keys without their secrets, oldest first, also revoked and expired ones."""

    model_config = ConfigDict(frozen=True)

    keys: list[ApiKey]
    next_cursor: NextCursor = None


class Quotas(Protocol):
    """Refuses what is beyond the quotas; errors are those of `app.core.errors`."""

    async def check_keys(self) -> None:
        """Refuse one more key than the quota."""


def add_key_routes(
    api: FastAPI,
    keys: KeyRepository,
    authenticator: Authenticator,
    now: Callable[[], datetime],
    quotas: Quotas,
) -> None:
    """Add the routes of API keys; `now` is the UTC clock."""
    admin = access(authenticator, "admin")

    async def act_for(request: Request, tenant: str | None) -> None:
        """Let operators work for another tenant than that of their key."""
        if tenant not in (None, current_caller().tenant):
            await authenticator.require(request.headers, "operator")

    @api.post(
        "/v1/keys",
        tags=["keys"],
        summary="Create a key; its secret is in this answer only",
        dependencies=[admin],
        openapi_extra=body_of(KeyOrder),
        responses=problems(s404="There is no such tenant", s409="A key in force has this name"),
        status_code=201,
    )
    async def create_key(request: Request, response: Response) -> CreatedKey:
        order = await read_json(request, KeyOrder)
        check_expiry(order.expires, now())
        await quotas.check_keys()
        await act_for(request, order.tenant)
        created = await keys.create_key(
            order.name, order.scopes, None, order.expires, tenant=order.tenant
        )
        _log("key created", request, order.name)
        response.headers.update(_NOT_STORED)
        return created

    @api.get(
        "/v1/keys",
        tags=["keys"],
        summary="API keys without their secrets, oldest first",
        dependencies=[admin],
    )
    async def list_keys(
        request: Request,
        limit: PageLimit = 100,
        cursor: PageCursor = None,
        tenant: OfTenant = None,
    ) -> KeyPage:
        place = read_cursor(cursor, _Place)
        await act_for(request, tenant)
        found = await keys.key_page(limit + 1, 0 if place is None else place.key_id, tenant)
        more = cursor_of(found[limit - 1].key_id) if len(found) > limit else None
        return KeyPage(keys=found[:limit], next_cursor=more)

    @api.post(
        "/v1/keys/{name}/rotate",
        tags=["keys"],
        summary="Replace a key's secret; the new one is in this answer only",
        dependencies=[admin],
        openapi_extra={"requestBody": body_of(RotationOrder)["requestBody"] | {"required": False}},
        responses=answer_of(CreatedKey)
        | problems(
            s404="No key in force has this name",
            s409="An expiry was given for the last admin key without one",
        ),
    )
    async def rotate_key(
        name: Annotated[KeyName, Path()], request: Request, tenant: OfTenant = None
    ) -> Response:
        order = await read_json(request, RotationOrder)
        check_expiry(order.expires, now())
        await act_for(request, tenant)
        created = await keys.rotate_key(name, order.expires, order.overlap_s, now(), tenant=tenant)
        _log("key rotated", request, name)
        answer = json_response(created.model_dump_json().encode())
        answer.headers.update(_NOT_STORED)
        return answer

    @api.delete(
        "/v1/keys/{name}",
        tags=["keys"],
        summary="Revoke a key for good; all replicas notice within 10 seconds",
        dependencies=[admin],
        responses=problems(
            s404="No key in force has this name",
            s409="It is the last key with the scope admin, or the last of these without expiry",
        ),
        status_code=204,
    )
    async def revoke_key(
        name: Annotated[KeyName, Path()], request: Request, tenant: OfTenant = None
    ) -> None:
        await act_for(request, tenant)
        await keys.revoke_key_of(name, tenant)
        _log("key revoked", request, name)


def _log(event: str, request: Request, name: str) -> None:
    logger.info(event, extra={"key": name, "actor": request.state.key_name})
