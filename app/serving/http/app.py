"""The HTTP interface: routes, limits, access line and problem documents around `Service`.

It decides nothing about machines; each route checks the key, reads the body within its limit and calls one method.
Invariant: every answer that is not a success is a problem document with the request's trace id.
"""

import logging
import re
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, StreamingResponse
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from app.core.errors import (
    HydraulicDiagnosticsError,
    InputError,
    UnknownDiagnosis,
    UnknownEquipment,
)
from app.schemas.diagnosis import DiagnosisRequest
from app.schemas.equipment import Identifier
from app.schemas.places import shown
from app.schemas.readings import IngestAnswer
from app.schemas.times import AwareTime
from app.serving.fastpath.direct_routes import DirectPaths, DirectRoute
from app.serving.fastpath.disconnect_monitor import Callers
from app.serving.http.access_log import AccessLog
from app.serving.http.openapi import answer_of, body_of, document_bodies
from app.serving.http.problems import TYPE_PREFIX, Problem, problem_of, respond
from app.serving.http.routes.common import access, headers_of, json_answer, read_body
from app.serving.http.routes.experiments import add_experiment_route
from app.serving.http.routes.releases import add_admin_routes
from app.serving.ingress.requests import checked_interval, parse_batch
from app.serving.ingress.service import Service

logger = logging.getLogger(__name__)

MAX_READINGS_BYTES = 32 * 1024 * 1024
MAX_DIAGNOSIS_BYTES = 8 * 1024 * 1024
MAX_BATCH_BYTES = 32 * 1024 * 1024
MAX_TOPOLOGY_BYTES = 2 * 1024 * 1024
MAX_HISTORY = 1_000
CLIENT_GONE = 499
"""Status under which a request is logged whose caller left before its body was read; nobody receives it."""

_IDENTIFIER = TypeAdapter[str](Identifier)
_DIAGNOSIS_ID = re.compile("[0-9a-f]{32}")

_DESCRIPTION = """Tells for every component of a hydraulic machine how healthy it is, how sure that is, and why.

Send the API key as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Errors are RFC 9457 problem documents."""


def build_api(service: Service) -> ASGIApp:
    """Build the ASGI application of one ingress replica.

    Args:
        service: what answers; started and closed with the application's lifespan.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    api = FastAPI(
        title="Hydraulic Diagnostics",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        default_response_class=Response,
    )
    _add_health_routes(api, service)
    _add_equipment_routes(api, service)
    _add_diagnosis_routes(api, service)
    _add_release_routes(api, service)
    add_experiment_route(api, service.store, access(service.authenticator, "read"))
    add_admin_routes(api, service.authenticator, service.releases)
    _add_error_answers(api)
    document_bodies(api)
    return AccessLog(DirectPaths(api, Callers()), service.metrics)


def _known_form(equipment_id: str) -> str:
    """Return an equipment id of a path, unless no equipment can have it.

    Raises:
        UnknownEquipment: it is no identifier, so the store need not be asked.
    """
    try:
        return _IDENTIFIER.validate_python(equipment_id)
    except ValidationError as error:
        raise UnknownEquipment(
            equipment_id if len(equipment_id) <= 64 else f"{equipment_id[:61]}..."
        ) from error


def _add_health_routes(api: FastAPI, service: Service) -> None:
    @api.head("/health/live", include_in_schema=False)
    @api.get("/health/live", tags=["health"], summary="Whether this replica runs")
    async def live() -> Response:
        return json_answer(b'{"status":"live"}')

    @api.head("/health/ready", include_in_schema=False)
    @api.get(
        "/health/ready", tags=["health"], summary="Whether the database and a model really answer"
    )
    async def ready() -> Response:
        readiness = await service.status.readiness()
        return json_answer(
            orjson.dumps(readiness.model_dump(mode="json")), 200 if readiness.ready else 503
        )

    @api.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse("/docs")

    @api.get(
        "/metrics", tags=["health"], summary="Metrics of this replica in the Prometheus text format"
    )
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")


def _add_equipment_routes(api: FastAPI, service: Service) -> None:
    @api.put(
        "/v1/equipment/{equipment_id}",
        tags=["equipment"],
        summary="Register a machine's topology; the linter's findings come back",
        dependencies=[access(service.authenticator, "admin")],
        openapi_extra=body_of("Equipment"),
    )
    async def put_equipment(equipment_id: str, request: Request) -> Response:
        answer = await service.machines.put(
            equipment_id, await read_body(request.headers, request.receive, MAX_TOPOLOGY_BYTES)
        )
        return json_answer(answer.model_dump_json().encode(), 201 if answer.created else 200)

    @api.get(
        "/v1/equipment",
        tags=["equipment"],
        summary="List machines",
        dependencies=[access(service.authenticator, "read")],
    )
    async def list_equipment() -> Response:
        return json_answer(
            orjson.dumps(
                {
                    "equipment": [
                        item.model_dump(mode="json") for item in await service.machines.summaries()
                    ]
                }
            )
        )

    @api.get(
        "/v1/equipment/{equipment_id}",
        tags=["equipment"],
        summary="A machine's topology",
        dependencies=[access(service.authenticator, "read")],
        responses=answer_of("Equipment"),
    )
    async def get_equipment(equipment_id: str) -> Response:
        return json_answer(
            (await service.machines.topology(_known_form(equipment_id))).model_dump_json().encode()
        )

    @api.post(
        "/v1/readings",
        tags=["readings"],
        summary="Store readings; idempotent on (equipment, sensor, time)",
        dependencies=[access(service.authenticator, "ingest")],
        openapi_extra=body_of("Reading", "application/json", "application/x-ndjson", "text/csv"),
        responses=answer_of("IngestAnswer"),
    )
    async def post_readings(request: Request) -> Response:
        body = await read_body(request.headers, request.receive, MAX_READINGS_BYTES)
        answer = await service.machines.ingest(body, request.headers.get("content-type", ""))
        if answer.rejected and not answer.accepted and not answer.duplicates:
            return respond(_all_rejected(answer, request.scope["trace_id"]))
        return json_answer(answer.model_dump_json(exclude_none=True).encode())


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


def _add_diagnosis_routes(api: FastAPI, service: Service) -> None:
    async def post_diagnosis(request: Request) -> bytes:
        headers = headers_of(request.scope)
        await service.authenticator.require(headers, "diagnose")
        body = await read_body(headers, request.receive, MAX_DIAGNOSIS_BYTES)
        return await service.diagnostics.answer(DiagnosisRequest.model_validate_json(body))

    api.router.add_api_route(
        "/v1/diagnoses",
        post_diagnosis,
        methods=["POST"],
        tags=["diagnoses"],
        summary="Diagnose a machine from its stored readings, or from readings given inline",
        dependencies=[access(service.authenticator, "diagnose")],
        openapi_extra=body_of("DiagnosisRequest"),
        responses=answer_of("Diagnosis"),
        response_model=None,
        route_class_override=DirectRoute,
    )

    @api.post(
        "/v1/diagnoses/batch",
        tags=["diagnoses"],
        summary="Diagnose many machines; one NDJSON line for each item with its index, as it is ready",
        dependencies=[access(service.authenticator, "diagnose")],
        openapi_extra=body_of("BatchRequest"),
        responses=answer_of("Diagnosis", "application/x-ndjson"),
    )
    async def post_batch(request: Request) -> Response:
        items = parse_batch(await read_body(request.headers, request.receive, MAX_BATCH_BYTES))
        trace_id = request.scope["trace_id"]

        async def lines() -> AsyncIterator[bytes]:
            async for answered in service.diagnostics.answer_many(items):
                yield b"".join(_line(index, outcome, trace_id) for index, outcome in answered)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @api.get(
        "/v1/diagnoses/{diagnosis_id}",
        tags=["diagnoses"],
        summary="A stored diagnosis",
        dependencies=[access(service.authenticator, "read")],
        responses=answer_of("Diagnosis"),
    )
    async def get_diagnosis(diagnosis_id: str) -> Response:
        if not _DIAGNOSIS_ID.fullmatch(diagnosis_id):
            raise UnknownDiagnosis(
                f"expected the id of a stored diagnosis, found {shown(diagnosis_id)}: list a machine's with "
                "GET /v1/equipment/{equipment_id}/diagnoses",
                "diagnosis_id",
            )
        return json_answer(await service.diagnostics.stored_diagnosis(diagnosis_id))

    @api.get(
        "/v1/equipment/{equipment_id}/diagnoses",
        tags=["diagnoses"],
        summary="A machine's diagnoses whose window ends in [start, end), newest first",
        dependencies=[access(service.authenticator, "read")],
    )
    async def get_history(
        equipment_id: str,
        start: Annotated[AwareTime | None, Query()] = None,
        end: Annotated[AwareTime | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_HISTORY)] = 100,
    ) -> Response:
        found = await service.diagnostics.history(
            _known_form(equipment_id), checked_interval(start, end), limit
        )
        return json_answer(b'{"diagnoses":[' + b",".join(found) + b"]}")


def _line(index: int, outcome: bytes | Exception, trace_id: str) -> bytes:
    if isinstance(outcome, bytes):
        return b'{"index":%d,"diagnosis":%s}\n' % (index, outcome)
    return b'{"index":%d,"error":%s}\n' % (
        index,
        orjson.dumps(problem_of(outcome, trace_id).model_dump(mode="json")),
    )


def _add_release_routes(api: FastAPI, service: Service) -> None:
    @api.get(
        "/v1/models",
        tags=["models"],
        summary="Released versions: what they were trained on and how well they did",
        dependencies=[access(service.authenticator, "read")],
    )
    async def models() -> Response:
        return json_answer(orjson.dumps({"models": await service.status.models()}))

    @api.get(
        "/v1/traffic",
        tags=["models"],
        summary="How traffic is split; with equipment_id, which version answers for it",
        dependencies=[access(service.authenticator, "read")],
    )
    async def traffic(equipment_id: Annotated[str | None, Query(max_length=64)] = None) -> Response:
        return json_answer(orjson.dumps(service.status.traffic_report(equipment_id)))


def _add_error_answers(api: FastAPI) -> None:
    async def answer_known(request: Request, error: Exception) -> Response:
        problem = problem_of(error, request.scope["trace_id"])
        if problem.status >= 500:
            logger.error(
                "request failed", extra={"trace_id": problem.trace_id, "reason": str(error)}
            )
        return respond(problem)

    async def answer_invalid(request: Request, error: Exception) -> Response:
        errors = error.errors() if isinstance(error, RequestValidationError) else []
        first = errors[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        message = f"{place}: {first['msg']}, found {str(first.get('input'))[:60]!r}"
        return respond(problem_of(InputError(message, place), request.scope["trace_id"]))

    async def answer_http(request: Request, error: Exception) -> Response:
        status, headers = (
            (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
        )
        if status == 405:
            # a path has a route for each method; Starlette tells of the first only
            headers = {"allow": ", ".join(_methods_of(api, request.scope))}
        title = {404: "There is no such path", 405: "The path has no such method"}.get(
            status, "The request can't be used"
        )
        problem = Problem(
            type=f"{TYPE_PREFIX}http-{status}",
            title=title,
            status=status,
            detail=f"expected a path and method of /docs, found {request.method} {request.url.path[:200]}",
            trace_id=request.scope["trace_id"],
        )
        return respond(problem, headers)

    async def answer_gone(request: Request, _: Exception) -> Response:
        problem = Problem(
            type=TYPE_PREFIX + "client-gone",
            title="The caller left",
            status=CLIENT_GONE,
            detail="expected the caller to wait for the answer, found the connection closed: send it again",
            trace_id=request.scope["trace_id"],
        )
        return respond(problem)

    api.add_exception_handler(ClientDisconnect, answer_gone)
    for known in (HydraulicDiagnosticsError, ValidationError):
        api.add_exception_handler(known, answer_known)

    async def answer_unexpected(request: Request, error: Exception) -> Response:
        return respond(problem_of(error, request.scope["trace_id"]))

    api.add_exception_handler(Exception, answer_unexpected)
    api.add_exception_handler(RequestValidationError, answer_invalid)
    api.add_exception_handler(HTTPException, answer_http)


def _methods_of(api: FastAPI, scope: MutableMapping[str, Any]) -> list[str]:
    routes = [
        route
        for route in api.routes
        if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE
    ]
    return sorted({method for route in routes for method in route.methods or ()})
