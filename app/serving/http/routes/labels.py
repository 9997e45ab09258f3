"""`/v1/labels` and `/v1/equipment/{equipment_id}/labels`: stores, returns and removes labels."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple, Protocol

from fastapi import FastAPI, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.core.errors import InputError
from app.schemas.equipment import Identifier
from app.schemas.labels import Label, LabelsAnswer
from app.schemas.times import EARLIEST, LATEST, AwareTime
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import answer_of, problems, schema_of
from app.serving.http.problems import TYPE_PREFIX, Problem, problem_response
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

MAX_LABELS_BYTES = 8 * 1024 * 1024

_EXAMPLE = {
    "equipment_id": "press-1",
    "component_id": "pump",
    "start": "2026-01-31T06:00:00Z",
    "end": "2026-01-31T14:00:00Z",
    "health": 0.7,
}


class _Place(NamedTuple):
    start: Annotated[AwareDatetime, Field(ge=EARLIEST, le=LATEST)]
    component_id: Identifier


class LabelPage(BaseModel):
    """Labels of a machine by start, then by component."""

    model_config = ConfigDict(frozen=True)

    labels: Sequence[Label]
    next_cursor: NextCursor = None


class LabelsDeleted(BaseModel):
    """Answer to a deletion: how many labels were removed."""

    model_config = ConfigDict(frozen=True)

    deleted: int


class LabelService(Protocol):
    """Stores labels; errors are those of `app.core.errors`."""

    async def add(self, body: bytes, content_type: str) -> LabelsAnswer:
        """Store a body of labels; accepted ones are committed on return."""

    async def page(
        self,
        equipment_id: str,
        interval: Interval,
        component_id: str | None,
        limit: int,
        after: tuple[datetime, str] | None,
    ) -> Sequence[Label]:
        """Return labels that overlap an interval, by start, then component."""

    async def remove(
        self, equipment_id: str, start: datetime, end: datetime, component_id: str | None
    ) -> int:
        """Remove the labels that begin in [start, end) and return how many."""


def add_label_routes(api: FastAPI, service: LabelService, authenticator: Authenticator) -> None:
    """Add the routes of labels."""
    label = access(authenticator, "label")

    @api.post(
        "/v1/labels",
        tags=["labels"],
        summary="Store labels of components, for training",
        description='A label, a list of labels, `{"labels": [...]}`, or one label a line as '
        "NDJSON. A label replaces the stored one of the same component and start; one that "
        "overlaps another stored label is rejected.",
        dependencies=[label],
        openapi_extra=_body(),
        responses=answer_of(LabelsAnswer),
    )
    async def post_labels(request: Request) -> Response:
        body = await read_body(request, MAX_LABELS_BYTES)
        answer = await service.add(body, request.headers.get("content-type", ""))
        if answer.rejected and not answer.accepted and not answer.duplicates:
            return problem_response(_all_rejected(answer, request.scope["trace_id"]))
        return json_response(answer.model_dump_json(exclude_none=True).encode())

    @api.get(
        "/v1/equipment/{equipment_id}/labels",
        tags=["labels"],
        summary="A machine's labels that overlap [start, end), by start, then component",
        dependencies=[access(authenticator, "read")],
        responses=problems(404),
    )
    async def list_labels(
        equipment_id: str,
        start: Annotated[AwareTime | None, Query(description="labels that end after it")] = None,
        end: Annotated[AwareTime | None, Query(description="labels that begin before it")] = None,
        component_id: Annotated[
            Identifier | None, Query(description="only labels of this component")
        ] = None,
        limit: PageLimit = 100,
        cursor: PageCursor = None,
    ) -> LabelPage:
        found = await service.page(
            checked_equipment_id(equipment_id),
            checked_interval(start, end),
            component_id,
            limit + 1,
            read_cursor(cursor, _Place),
        )
        more = None
        if len(found) > limit:
            last = found[limit - 1]
            more = cursor_of(last.start, last.component_id)
        return LabelPage(labels=found[:limit], next_cursor=more)

    @api.delete(
        "/v1/equipment/{equipment_id}/labels",
        tags=["labels"],
        summary="Remove the labels of a machine that begin in [start, end)",
        dependencies=[label],
        responses=problems(404),
    )
    async def delete_labels(
        equipment_id: str,
        start: Annotated[AwareTime, Query(description="of the first label to remove")],
        end: Annotated[AwareTime, Query(description="labels that begin at it or later stay")],
        component_id: Annotated[
            Identifier | None, Query(description="only labels of this component")
        ] = None,
    ) -> LabelsDeleted:
        checked = checked_equipment_id(equipment_id)
        first, last = checked_interval(start, end)
        if first is None or last is None:
            raise InputError("expected a start and an end, found one alone: give both", "start")
        return LabelsDeleted(deleted=await service.remove(checked, first, last, component_id))


def _body() -> dict[str, Any]:
    one = schema_of(Label)
    many = {"type": "array", "items": one}
    wrapped = {"type": "object", "properties": {"labels": many}, "required": ["labels"]}
    examples = {"one label": _EXAMPLE, "a list": [_EXAMPLE, _EXAMPLE | {"component_id": "valve"}]}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"anyOf": [one, many, wrapped]},
                    "examples": {
                        name: {"summary": name, "value": value} for name, value in examples.items()
                    },
                },
                "application/x-ndjson": {"schema": one},
            },
        }
    }


def _all_rejected(answer: LabelsAnswer, trace_id: str) -> Problem:
    first = answer.rejected[0]
    return Problem.model_validate(
        {
            "type": TYPE_PREFIX + "labels",
            "title": "No label could be taken",
            "status": 422,
            "detail": f"line {first.line}: {first.reason}",
            "field": first.field,
            "trace_id": trace_id,
            **answer.model_dump(exclude_none=True),
        }
    )
