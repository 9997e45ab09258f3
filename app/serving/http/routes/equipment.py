"""`/v1/equipment`: registers and returns topologies."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict

from app.schemas.equipment import Equipment
from app.schemas.topology import Finding
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import answer_of, body_of
from app.serving.http.routes.common import (
    access,
    checked_equipment_id,
    json_response,
    read_body,
)

MAX_TOPOLOGY_BYTES = 2 * 1024 * 1024


class PutAnswer(BaseModel):
    """Answer to a registration: whether it is new, its revision and the linter's warnings."""

    model_config = ConfigDict(frozen=True)

    equipment_id: str
    created: bool
    revision: str
    findings: tuple[Finding, ...]


class EquipmentSummary(BaseModel):
    """One registered equipment in a list, without its topology."""

    model_config = ConfigDict(frozen=True)

    equipment_id: str
    name: str
    design: str
    components: int
    sensors: int
    revision: str
    registered_at: datetime
    updated_at: datetime


class Registry(Protocol):
    """Registers equipment; errors are those of `app.core.errors`."""

    async def put(self, equipment_id: str, body: bytes) -> PutAnswer:
        """Register the topology that a body holds as YAML or JSON."""

    async def summaries(self) -> Sequence[EquipmentSummary]:
        """List the registered equipment."""

    async def topology(self, equipment_id: str) -> Equipment:
        """Return the topology of a registered equipment."""


def add_equipment_routes(api: FastAPI, registry: Registry, authenticator: Authenticator) -> None:
    """Add the routes of equipment."""

    @api.put(
        "/v1/equipment/{equipment_id}",
        tags=["equipment"],
        summary="Register a machine's topology; the linter's findings come back",
        dependencies=[access(authenticator, "admin")],
        openapi_extra=body_of(Equipment),
    )
    async def put_equipment(equipment_id: str, request: Request) -> Response:
        body = await read_body(request, MAX_TOPOLOGY_BYTES)
        answer = await registry.put(equipment_id, body)
        return json_response(answer.model_dump_json().encode(), 201 if answer.created else 200)

    @api.get(
        "/v1/equipment",
        tags=["equipment"],
        summary="List machines",
        dependencies=[access(authenticator, "read")],
    )
    async def list_equipment() -> Response:
        listed = [item.model_dump(mode="json") for item in await registry.summaries()]
        return json_response(orjson.dumps({"equipment": listed}))

    @api.get(
        "/v1/equipment/{equipment_id}",
        tags=["equipment"],
        summary="A machine's topology",
        dependencies=[access(authenticator, "read")],
        responses=answer_of(Equipment),
    )
    async def get_equipment(equipment_id: str) -> Response:
        topology = await registry.topology(checked_equipment_id(equipment_id))
        return json_response(topology.model_dump_json().encode())
