"""`/v1/tenants` and `/v1/audit`: tenants, for operators, and the log of administrative writes."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from app.serving.http.auth import Authenticator
from app.serving.http.openapi import body_of, problems
from app.serving.http.routes.common import (
    NextCursor,
    PageCursor,
    PageLimit,
    access,
    cursor_of,
    read_cursor,
    read_json,
)
from app.store.audit import AuditEntry
from app.store.caller import DEFAULT_TENANT, Caller, acting_as, current_caller
from app.store.store import Store
from app.store.tenants import Tenant, TenantName


class _Place(NamedTuple):
    entry_id: Annotated[int, Field(ge=0, lt=2**63)]


class TenantOrder(BaseModel):
    """A tenant to create."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: TenantName


class TenantList(BaseModel):
    """All tenants by name."""

    model_config = ConfigDict(frozen=True)

    tenants: Sequence[Tenant]


class AuditPage(BaseModel):
    """Entries of the audit log, newest first."""

    model_config = ConfigDict(frozen=True)

    entries: Annotated[Sequence[AuditEntry], Field(description="newest first")]
    next_cursor: NextCursor = None


def add_administration_routes(api: FastAPI, store: Store, authenticator: Authenticator) -> None:
    """Add the routes of tenants and of the audit log."""
    operator = access(authenticator, "operator")

    @api.post(
        "/v1/tenants",
        tags=["keys"],
        summary="Create a tenant; give it a key with POST /v1/keys",
        dependencies=[operator],
        openapi_extra=body_of(TenantOrder),
        responses=problems(s409="There is a tenant of this name"),
        status_code=201,
    )
    async def create_tenant(request: Request) -> Tenant:
        order = await read_json(request, TenantOrder)
        return await store.create_tenant(order.tenant)

    @api.get(
        "/v1/tenants",
        tags=["keys"],
        summary="All tenants, by name",
        dependencies=[operator],
    )
    async def list_tenants() -> TenantList:
        return TenantList(tenants=await store.list_tenants())

    @api.get(
        "/v1/audit",
        tags=["keys"],
        summary="Administrative writes, newest first: who did what, and when",
        description="Of the key's tenant; operators see those of all. `hydraulic audit verify` "
        "verifies that no entry was changed or removed.",
        dependencies=[access(authenticator, "admin")],
    )
    async def list_audit(limit: PageLimit = 100, cursor: PageCursor = None) -> AuditPage:
        place = read_cursor(cursor, _Place)
        caller = current_caller()
        seen = Caller(None, caller.actor) if caller.tenant == DEFAULT_TENANT else caller
        with acting_as(seen):
            found = await store.audit_page(limit + 1, place and place.entry_id)
        more = cursor_of(found[limit - 1].entry_id) if len(found) > limit else None
        return AuditPage(entries=found[:limit], next_cursor=more)
