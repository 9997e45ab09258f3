"""`/health/live`, `/health/ready` and `/metrics`; none of them needs an API key."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict

from app.serving.http.routes.common import json_response
from app.serving.observability.metrics import Metrics


class Readiness(BaseModel):
    """Whether the database, the graph builders and each released version answered a probe."""

    model_config = ConfigDict(frozen=True)

    ready: bool
    database: bool
    builders: bool
    versions: Mapping[str, bool]
    reasons: tuple[str, ...]


class Status(Protocol):
    """Reports readiness and the released versions of this replica."""

    async def readiness(self) -> Readiness:
        """Return the result of a probe that is at most about a second old."""

    async def models(self) -> Sequence[Mapping[str, Any]]:
        """Return the manifest, weight and circuit state of every released version."""

    def traffic_report(self, equipment_id: str | None) -> Mapping[str, Any]:
        """Return the weights and, with an equipment id, the version chosen for it."""


def add_health_routes(api: FastAPI, status: Status, replica_metrics: Metrics) -> None:
    """Add the routes of liveness, readiness and metrics."""

    @api.head("/health/live", include_in_schema=False)
    @api.get("/health/live", tags=["health"], summary="Whether this replica runs")
    async def live() -> Response:
        return json_response(b'{"status":"live"}')

    @api.head("/health/ready", include_in_schema=False)
    @api.get(
        "/health/ready", tags=["health"], summary="Whether the database and a model really answer"
    )
    async def ready() -> Response:
        readiness = await status.readiness()
        return json_response(readiness.model_dump_json().encode(), 200 if readiness.ready else 503)

    @api.get(
        "/metrics", tags=["health"], summary="Metrics of this replica in the Prometheus text format"
    )
    async def metrics() -> Response:
        return Response(replica_metrics.exposition(), media_type="text/plain; version=0.0.4")
