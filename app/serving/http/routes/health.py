"""`/health/live`, `/health/ready` and `/metrics`; none of them needs an API key."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from app.serving.http.routes.common import PUBLIC
from app.serving.observability.exposition import CONTENT_TYPE

_FROZEN = ConfigDict(frozen=True)


class Liveness(BaseModel):
    """Answer of a replica that runs."""

    status: Annotated[Literal["live"], Field(description="always `live`")]


class Readiness(BaseModel):
    """Whether the database, the graph builders and each released version answered a probe."""

    model_config = _FROZEN

    ready: Annotated[bool, Field(description="whether diagnoses can be answered now")]
    database: Annotated[bool, Field(description="whether the database answered")]
    builders: Annotated[bool, Field(description="whether the graph builders answered")]
    versions: Annotated[
        Mapping[str, bool], Field(description="whether each version in service answered")
    ]
    reasons: Annotated[tuple[str, ...], Field(description="what does not answer, and why")]


class Status(Protocol):
    """Reports readiness and the released versions of this replica."""

    async def readiness(self) -> Readiness:
        """Return the result of a probe that is at most about a second old."""

    async def models(self) -> Sequence[Mapping[str, Any]]:
        """Return the manifest, weight and circuit state of every released version."""

    async def traffic_report(
        self, equipment_id: str | None = None, design: str | None = None
    ) -> Mapping[str, Any]:
        """Return the weights and, with an equipment id, the version chosen for the machine."""


class MetricsSource(Protocol):
    """Collects the metrics of the service."""

    async def exposition(self) -> bytes:
        """Return the metrics of all replicas in the Prometheus text format."""

    async def close(self) -> None:
        """Cancel what is in progress."""


def add_health_routes(api: FastAPI, status: Status, metrics: MetricsSource) -> None:
    """Add the routes of liveness, readiness and metrics."""

    @api.head("/health/live", include_in_schema=False, dependencies=[PUBLIC])
    @api.get(
        "/health/live",
        tags=["health"],
        summary="Whether this replica runs",
        dependencies=[PUBLIC],
    )
    async def get_liveness() -> Liveness:
        return Liveness(status="live")

    @api.head("/health/ready", include_in_schema=False, dependencies=[PUBLIC])
    @api.get(
        "/health/ready",
        tags=["health"],
        dependencies=[PUBLIC],
        summary="Whether the database and a model really answer",
        responses={503: {"model": Readiness, "description": "Diagnoses can't be answered now"}},
    )
    async def get_readiness(response: Response) -> Readiness:
        readiness = await status.readiness()
        response.status_code = 200 if readiness.ready else 503
        return readiness

    @api.get(
        "/metrics",
        tags=["health"],
        dependencies=[PUBLIC],
        summary="Metrics of all replicas in the Prometheus text format",
        response_class=PlainTextResponse,
    )
    async def get_metrics() -> Response:
        return Response(await metrics.exposition(), media_type=CONTENT_TYPE)
