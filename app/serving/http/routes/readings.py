"""`POST /v1/readings`: stores readings given as JSON, NDJSON or CSV."""

from typing import Protocol

from fastapi import FastAPI, Request, Response

from app.schemas.readings import IngestAnswer, Reading
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import answer_of, body_of
from app.serving.http.problems import TYPE_PREFIX, Problem, problem_response
from app.serving.http.routes.common import access, json_response, read_body

MAX_READINGS_BYTES = 32 * 1024 * 1024


class ReadingSink(Protocol):
    """Stores readings; errors are those of `app.core.errors`."""

    async def ingest(self, body: bytes, content_type: str) -> IngestAnswer:
        """Store a body of readings; accepted readings are committed on return."""


def add_reading_routes(api: FastAPI, sink: ReadingSink, authenticator: Authenticator) -> None:
    """Add the routes of readings."""

    @api.post(
        "/v1/readings",
        tags=["readings"],
        summary="Store readings; idempotent on (equipment, sensor, time)",
        dependencies=[access(authenticator, "ingest")],
        openapi_extra=body_of(Reading, "application/json", "application/x-ndjson", "text/csv"),
        responses=answer_of(IngestAnswer),
    )
    async def post_readings(request: Request) -> Response:
        body = await read_body(request, MAX_READINGS_BYTES)
        answer = await sink.ingest(body, request.headers.get("content-type", ""))
        if answer.rejected and not answer.accepted and not answer.duplicates:
            return problem_response(_all_rejected(answer, request.scope["trace_id"]))
        return json_response(answer.model_dump_json(exclude_none=True).encode())


def _all_rejected(answer: IngestAnswer, trace_id: str) -> Problem:
    first = answer.rejected[0]
    return Problem.model_validate(
        {
            "type": TYPE_PREFIX + "readings",
            "title": "No reading could be taken",
            "status": 422,
            "detail": f"line {first.line}: {first.reason}",
            "field": first.field,
            "trace_id": trace_id,
            **answer.model_dump(exclude_none=True),
        }
    )
