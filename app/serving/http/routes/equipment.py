"""`/v1/equipment`: registers, returns, deletes and purges machines."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, NamedTuple, Protocol

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.schemas.equipment import Equipment, EquipmentSummary, Identifier, Name
from app.schemas.topology import Finding
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import answer_of, body_of, problems
from app.serving.http.routes.common import (
    NextCursor,
    PageCursor,
    PageLimit,
    access,
    checked_equipment_id,
    cursor_of,
    json_response,
    read_body,
    read_cursor,
)

MAX_TOPOLOGY_BYTES = 2 * 1024 * 1024
_STATE = "The machine is not registered, or was deleted: the problem's type says which"


class _Place(NamedTuple):
    equipment_id: Identifier


class PutAnswer(BaseModel):
    """Answer to a registration, with the linter's warnings.

    `created` is true for a new machine, `restored` for one that had been deleted.
    """

    model_config = ConfigDict(frozen=True)

    equipment_id: str
    created: bool
    restored: bool = False
    revision: str
    findings: tuple[Finding, ...]


class EquipmentPage(BaseModel):
    """Registered machines in the order of ids."""

    model_config = ConfigDict(frozen=True)

    equipment: Sequence[EquipmentSummary]
    next_cursor: NextCursor = None


class DeleteAnswer(BaseModel):
    """Answer to a deletion: the machine is no longer served, and its rows are kept."""

    model_config = ConfigDict(frozen=True)

    equipment_id: str
    deleted_at: datetime


class PurgeAnswer(BaseModel):
    """Answer to a purge: how many rows this request removed.

    While `complete` is false rows are left: repeat the request.
    """

    model_config = ConfigDict(frozen=True)

    equipment_id: str
    complete: bool
    readings: int
    bins: Annotated[int, Field(description="rows of the grid")]
    diagnoses: int
    labels: int


class Registry(Protocol):
    """Registers equipment; errors are those of `app.core.errors`."""

    async def put(self, equipment_id: str, body: bytes, actor: str) -> PutAnswer:
        """Register the topology that a body holds as YAML or JSON."""

    async def page(
        self, limit: int, after: str | None, *, design: str | None, site: str | None
    ) -> Sequence[EquipmentSummary]:
        """List the registered equipment after an id, in the order of ids."""

    async def topology(self, equipment_id: str) -> Equipment:
        """Return the topology of a registered equipment."""

    async def known_topology(self, equipment_id: str) -> Equipment:
        """Return the topology of a machine that is registered or was deleted."""

    async def delete(self, equipment_id: str, actor: str) -> datetime:
        """Delete an equipment, keep its rows, and return when."""

    async def purge(self, equipment_id: str, actor: str) -> PurgeAnswer:
        """Delete an equipment with all of its rows, as far as one request may take."""


def add_equipment_routes(api: FastAPI, registry: Registry, authenticator: Authenticator) -> None:
    """Add the routes of equipment."""
    read, admin = access(authenticator, "read"), access(authenticator, "admin")

    @api.put(
        "/v1/equipment/{equipment_id}",
        tags=["equipment"],
        summary="Register a machine's topology; the linter's findings come back",
        description="A machine that was deleted is restored with its rows.",
        dependencies=[admin],
        openapi_extra=body_of(Equipment, "application/json", "application/yaml"),
        responses=answer_of(PutAnswer)
        | answer_of(PutAnswer, status=201, description="The machine is new"),
    )
    async def put_equipment(equipment_id: str, request: Request) -> Response:
        body = await read_body(request, MAX_TOPOLOGY_BYTES)
        answer = await registry.put(equipment_id, body, request.state.key_name)
        return json_response(answer.model_dump_json().encode(), 201 if answer.created else 200)

    @api.get(
        "/v1/equipment",
        tags=["equipment"],
        summary="Registered machines, in the order of ids",
        dependencies=[read],
    )
    async def list_equipment(
        design: Annotated[
            Identifier | None, Query(description="only machines of this design")
        ] = None,
        site: Annotated[Name | None, Query(description="only machines at this site")] = None,
        limit: PageLimit = 1_000,
        cursor: PageCursor = None,
    ) -> EquipmentPage:
        place = read_cursor(cursor, _Place)
        after = None if place is None else place.equipment_id
        found = await registry.page(limit + 1, after, design=design, site=site)
        more = cursor_of(found[limit - 1].equipment_id) if len(found) > limit else None
        return EquipmentPage(equipment=found[:limit], next_cursor=more)

    @api.get(
        "/v1/equipment/{equipment_id}",
        tags=["equipment"],
        summary="A machine's topology and metadata",
        dependencies=[read],
        responses=answer_of(Equipment) | problems(s404=_STATE),
    )
    async def get_equipment(equipment_id: str) -> Response:
        topology = await registry.topology(checked_equipment_id(equipment_id))
        return json_response(topology.model_dump_json().encode())

    @api.delete(
        "/v1/equipment/{equipment_id}",
        tags=["equipment"],
        summary="Delete a machine; with `purge` its rows too",
        description="A deleted machine is neither listed nor diagnosed. Its readings, labels and "
        "diagnoses can be read by its id, and a new PUT restores it with them.",
        dependencies=[admin],
        responses=answer_of(DeleteAnswer, PurgeAnswer)
        | answer_of(
            PurgeAnswer, status=202, description="Rows are left to purge: repeat the request"
        )
        | problems(s404=_STATE),
    )
    async def delete_equipment(
        equipment_id: str,
        request: Request,
        purge: Annotated[  # noqa: FBT002 - of the query, where it has a name
            bool, Query(description="remove the rows too, for good; it can't be undone")
        ] = False,
    ) -> Response:
        checked, actor = checked_equipment_id(equipment_id), request.state.key_name
        if not purge:
            deleted_at = await registry.delete(checked, actor)
            answer = DeleteAnswer(equipment_id=checked, deleted_at=deleted_at)
            return json_response(answer.model_dump_json().encode())
        purged = await registry.purge(checked, actor)
        return json_response(purged.model_dump_json().encode(), 200 if purged.complete else 202)
