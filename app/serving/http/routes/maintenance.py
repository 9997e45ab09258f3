"""`/v1/equipment/{equipment_id}/maintenance`: records, returns and removes maintenance."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, NamedTuple, Protocol

from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.schemas.maintenance import Maintenance, MaintenanceRecord
from app.schemas.times import EARLIEST, LATEST, AwareTime
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import answer_of, body_of, problems
from app.serving.http.routes.common import (
    Interval,
    NextCursor,
    PageCursor,
    PageLimit,
    access,
    checked_equipment_id,
    checked_interval,
    cursor_of,
    json_response,
    read_body,
    read_cursor,
)
from app.store.maintenance import Recorded

MAX_MAINTENANCE_BYTES = 64 * 1024
MAX_ID = 2**63 - 1

_EXAMPLE = {
    "time": "2026-01-31T14:00:00Z",
    "component_id": "pump",
    "kind": "replacement",
    "note": "new rotating group",
}


class _Place(NamedTuple):
    time: Annotated[AwareDatetime, Field(ge=EARLIEST, le=LATEST)]
    maintenance_id: Annotated[int, Field(ge=1, le=MAX_ID)]


class MaintenancePage(BaseModel):
    """Maintenance of a machine, newest first."""

    model_config = ConfigDict(frozen=True)

    maintenance: Annotated[Sequence[MaintenanceRecord], Field(description="newest first")]
    next_cursor: NextCursor = None


class MaintenanceService(Protocol):
    """Records maintenance; errors are those of `app.core.errors`."""

    async def record(self, equipment_id: str, item: Maintenance) -> Recorded:
        """Record maintenance of a registered machine."""

    async def page(
        self,
        equipment_id: str,
        interval: Interval,
        limit: int,
        after: tuple[datetime, int] | None,
    ) -> Sequence[MaintenanceRecord]:
        """Return maintenance of an interval, newest first."""

    async def remove(self, equipment_id: str, maintenance_id: int) -> None:
        """Remove a record that was made by mistake."""


def add_maintenance_routes(
    api: FastAPI, service: MaintenanceService, authenticator: Authenticator
) -> None:
    """Add the routes of maintenance."""
    label = access(authenticator, "label")

    @api.post(
        "/v1/equipment/{equipment_id}/maintenance",
        tags=["equipment"],
        summary="Record maintenance; trends of health begin anew after it",
        description="The same time, component and kind again change the note of the record.",
        dependencies=[label],
        openapi_extra=body_of(Maintenance, examples={"a new pump": _EXAMPLE}),
        responses=answer_of(MaintenanceRecord)
        | answer_of(MaintenanceRecord, status=201, description="The record is new")
        | problems(404),
    )
    async def post_maintenance(equipment_id: str, request: Request) -> Response:
        checked = checked_equipment_id(equipment_id)
        body = await read_body(request, MAX_MAINTENANCE_BYTES)
        done = await service.record(checked, Maintenance.model_validate_json(body))
        return json_response(done.record.model_dump_json().encode(), 201 if done.is_new else 200)

    @api.get(
        "/v1/equipment/{equipment_id}/maintenance",
        tags=["equipment"],
        summary="A machine's maintenance in [start, end), newest first",
        dependencies=[access(authenticator, "read")],
        responses=problems(404),
    )
    async def list_maintenance(
        equipment_id: str,
        start: Annotated[AwareTime | None, Query(description="maintenance at or after it")] = None,
        end: Annotated[AwareTime | None, Query(description="maintenance before it")] = None,
        limit: PageLimit = 100,
        cursor: PageCursor = None,
    ) -> MaintenancePage:
        found = await service.page(
            checked_equipment_id(equipment_id),
            checked_interval(start, end),
            limit + 1,
            read_cursor(cursor, _Place),
        )
        more = None
        if len(found) > limit:
            last = found[limit - 1]
            more = cursor_of(last.time, last.maintenance_id)
        return MaintenancePage(maintenance=found[:limit], next_cursor=more)

    @api.delete(
        "/v1/equipment/{equipment_id}/maintenance/{maintenance_id}",
        tags=["equipment"],
        summary="Remove a record of maintenance that was made by mistake",
        dependencies=[label],
        responses=problems(404, 422),
        status_code=204,
    )
    async def delete_maintenance(
        equipment_id: str,
        maintenance_id: Annotated[int, Path(ge=1, le=MAX_ID, description="number of the record")],
    ) -> None:
        await service.remove(checked_equipment_id(equipment_id), maintenance_id)
