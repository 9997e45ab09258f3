"""The HTTP interface: composes the routes, error responses, access log and fast path of a replica.

Every response that is not a success is a problem document with the request's trace id.
"""

import logging
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route
from starlette.types import ASGIApp

from app.core.errors import DeadlineExceeded, HydraulicDiagnosticsError, Overloaded
from app.schemas.places import shown
from app.serving.fastpath.direct_routes import DirectRouter
from app.serving.fastpath.disconnect_monitor import DisconnectMonitor
from app.serving.http.access_log import AccessLog
from app.serving.http.auth import Authenticator
from app.serving.http.deadlines import Deadlines
from app.serving.http.openapi import document
from app.serving.http.problems import (
    CLIENT_GONE,
    TYPE_PREFIX,
    Problem,
    problem_of,
    problem_response,
    validation_problem,
)
from app.serving.http.rate_limits import RateLimiter
from app.serving.http.routes.administration import add_administration_routes
from app.serving.http.routes.baselines import Baselines, add_baseline_routes
from app.serving.http.routes.common import refuse_unknown_query
from app.serving.http.routes.diagnoses import DiagnosisService, add_diagnosis_routes
from app.serving.http.routes.equipment import Registry, add_equipment_routes
from app.serving.http.routes.experiments import add_experiment_routes
from app.serving.http.routes.health import MetricsSource, Status, add_health_routes
from app.serving.http.routes.keys import Quotas, add_key_routes
from app.serving.http.routes.labels import LabelService, add_label_routes
from app.serving.http.routes.maintenance import MaintenanceService, add_maintenance_routes
from app.serving.http.routes.pages import add_pages
from app.serving.http.routes.readings import Readings, add_reading_routes
from app.serving.http.routes.releases import ReleaseBackend, add_release_routes
from app.serving.http.routes.trainings import add_training_routes
from app.serving.http.routes.trends import add_trend_routes
from app.serving.http.security_headers import SecurityHeaders
from app.serving.observability.metrics import Metrics
from app.store.store import Store

logger = logging.getLogger(__name__)


_TITLES = {404: "There is no such path", 405: "The path has no such method"}


@dataclass(frozen=True, slots=True)
class Replica:
    """The parts of an ingress replica that the routes call; `app.serving.ingress` extends it."""

    authenticator: Authenticator
    registry: Registry
    baselines: Baselines
    labels: LabelService
    maintenance: MaintenanceService
    readings: Readings
    diagnostics: DiagnosisService
    limiter: RateLimiter
    quotas: Quotas
    status: Status
    release_service: ReleaseBackend
    metrics: Metrics
    gatherer: MetricsSource
    store: Store

    async def start(self) -> None:
        """Start background work in the running event loop."""

    async def close(self) -> None:
        """Write queued data and close connections."""


def build_api(replica: Replica) -> ASGIApp:
    """Build the ASGI application of one ingress replica.

    Args:
        replica: the parts that the routes call; started and closed with the application's lifespan.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await replica.start()
        yield
        await replica.close()

    api = FastAPI(
        title="Hydraulic Diagnostics",
        version="1",
        lifespan=lifespan,
        dependencies=[Depends(refuse_unknown_query)],
        docs_url=None,  # `add_pages` adds one that needs no other server
        redoc_url=None,
        redirect_slashes=False,  # the address of the redirection would have the caller's Host
        generate_unique_id_function=lambda route: route.name,
    )
    authenticator = replica.authenticator
    api.state.limiter = replica.limiter
    add_health_routes(api, replica.status, replica.gatherer)
    add_equipment_routes(api, replica.registry, authenticator)
    add_baseline_routes(api, replica.baselines, authenticator)
    add_reading_routes(api, replica.readings, authenticator, replica.limiter)
    add_label_routes(api, replica.labels, authenticator)
    add_maintenance_routes(api, replica.maintenance, authenticator)
    add_diagnosis_routes(api, replica.diagnostics, authenticator, replica.limiter)
    add_trend_routes(api, replica.store, replica.registry, authenticator)
    add_release_routes(
        api,
        replica.status,
        replica.release_service,
        replica.store,
        replica.store,
        authenticator,
        replica.metrics.replica_name,
    )
    add_training_routes(api, replica.release_service.trainings, replica.store, authenticator)
    add_experiment_routes(api, replica.store, authenticator)
    add_key_routes(api, replica.store, authenticator, lambda: datetime.now(UTC), replica.quotas)
    add_administration_routes(api, replica.store, authenticator)
    add_pages(api)
    _add_error_responses(api)
    document(api)
    routed = Deadlines(DirectRouter(api, DisconnectMonitor()))
    return AccessLog(SecurityHeaders(routed), replica.metrics)


def _add_error_responses(api: FastAPI) -> None:
    @api.exception_handler(HydraulicDiagnosticsError)
    @api.exception_handler(ValidationError)
    async def known_error(request: Request, error: Exception) -> Response:
        problem = problem_of(error, request.scope["trace_id"])
        # those are what overload and slow callers get, and lines for each would add to it
        is_expected = isinstance(error, Overloaded | DeadlineExceeded)
        if problem.status >= 500 and not is_expected:
            logger.error(
                "request failed", extra={"trace_id": problem.trace_id, "reason": str(error)}
            )
        return problem_response(problem)

    @api.exception_handler(RequestValidationError)
    async def invalid_parameter(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        trace_id = request.scope["trace_id"]
        return problem_response(validation_problem(found, len(found), trace_id, skip=1))

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        status, headers = error.status_code, error.headers
        found = f"found {request.method} {shown(request.url.path, 200)}"
        detail = f"expected a path of the interface, {found}: see /docs"
        if status == 405:
            # Starlette lists the methods of the first route of a path only
            methods = ", ".join(_methods_of(api, request.scope))
            headers = {"allow": methods}
            detail = f"expected a method of the path ({methods}), {found}: use one of them"
        problem = Problem(
            type=f"{TYPE_PREFIX}http-{status}",
            title=_TITLES.get(status, "The request can't be used"),
            status=status,
            detail=detail,
            trace_id=request.scope["trace_id"],
        )
        return problem_response(problem, headers)

    @api.exception_handler(ClientDisconnect)
    async def client_gone(request: Request, _: ClientDisconnect) -> Response:
        problem = Problem(
            type=TYPE_PREFIX + "client-gone",
            title="The client disconnected",
            status=CLIENT_GONE,
            detail="expected the client to wait for the answer, found the connection closed: "
            "send the request again",
            trace_id=request.scope["trace_id"],
        )
        return problem_response(problem)

    @api.exception_handler(Exception)
    async def unexpected_error(request: Request, error: Exception) -> Response:
        return problem_response(problem_of(error, request.scope["trace_id"]))


def _methods_of(api: FastAPI, scope: MutableMapping[str, Any]) -> list[str]:
    routes = [
        route
        for route in api.routes
        if isinstance(route, Route) and route.matches(scope)[0] != Match.NONE
    ]
    # a fixed path comes before one with a parameter that matches it too
    path = routes[0].path if routes else ""
    methods = {method for route in routes if route.path == path for method in route.methods or ()}
    return sorted(methods) or ["GET", "HEAD"]  # of a directory of files
