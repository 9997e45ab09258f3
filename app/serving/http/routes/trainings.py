"""`/v1/trainings`: starts trainings on the cluster, reports and cancels them, for admin keys.

The routes call a `TrainingBackend`, which `app.release` implements.
"""

from datetime import datetime
from typing import Annotated, Protocol

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from app.schemas.times import EARLIEST
from app.schemas.trainings import (
    Training,
    TrainingId,
    TrainingLog,
    TrainingRequest,
)
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import answer_of, body_of, problems
from app.serving.http.routes.common import (
    NextCursor,
    PageCursor,
    PageLimit,
    access,
    cursor_of,
    json_response,
    read_cursor,
    read_json,
)
from app.store.audit import AuditRepository

MAX_LOG_LINES = 10_000


class TrainingPage(BaseModel):
    """Trainings, newest first."""

    model_config = ConfigDict(frozen=True)

    trainings: tuple[Training, ...]
    next_cursor: NextCursor = None


class TrainingBackend(Protocol):
    """Runs trainings; errors are those of `app.core.errors`."""

    async def start(self, actor: str, request: TrainingRequest) -> Training:
        """Submit a training for the owner of an API key."""

    async def newest(self) -> list[Training]:
        """Return all trainings, newest first."""

    async def get(self, training_id: str) -> Training:
        """Return a training."""

    async def log(self, training_id: str, lines: int) -> TrainingLog:
        """Return the last lines of a training's output."""

    async def cancel(self, training_id: str) -> Training:
        """Cancel a training that has not ended."""


def add_training_routes(
    api: FastAPI, backend: TrainingBackend, audit: AuditRepository, authenticator: Authenticator
) -> None:
    """Add the routes of trainings."""
    operator = access(authenticator, "operator")
    unknown = problems(s404="There is no such training")

    @api.post(
        "/v1/trainings",
        tags=["trainings"],
        summary="Train on machines of a topology, and register the checkpoint",
        dependencies=[operator],
        openapi_extra=body_of(TrainingRequest),
        responses=answer_of(Training, status=202, description="The training was submitted")
        | problems(s409="The training extra is not installed, or too many trainings run"),
        status_code=202,
    )
    async def start_training(request: Request) -> Response:
        order = await read_json(request, TrainingRequest)
        found = await backend.start(request.state.key_name, order)
        await audit.audit("start_training", found.training_id, {})
        response = json_response(found.model_dump_json().encode(), 202)
        response.headers["location"] = f"/v1/trainings/{found.training_id}"
        return response

    @api.get(
        "/v1/trainings",
        tags=["trainings"],
        summary="List trainings, newest first",
        dependencies=[operator],
    )
    async def list_trainings(limit: PageLimit = 100, cursor: PageCursor = None) -> TrainingPage:
        place = read_cursor(cursor, tuple[datetime, str])
        found = [
            each for each in await backend.newest() if place is None or _place_of(each) < place
        ]
        page = tuple(found[:limit])
        return TrainingPage(
            trainings=page,
            next_cursor=cursor_of(*_place_of(page[-1])) if len(found) > limit else None,
        )

    @api.get(
        "/v1/trainings/{training_id}",
        tags=["trainings"],
        summary="A training's status, and the version of its checkpoint",
        dependencies=[operator],
        responses=unknown,
    )
    async def get_training(training_id: TrainingId) -> Training:
        return await backend.get(training_id)

    @api.get(
        "/v1/trainings/{training_id}/log",
        tags=["trainings"],
        summary="The end of a training's output",
        dependencies=[operator],
        responses=unknown,
    )
    async def get_training_log(
        training_id: TrainingId,
        lines: Annotated[
            int, Query(ge=1, le=MAX_LOG_LINES, description="most lines of the answer")
        ] = 200,
    ) -> TrainingLog:
        return await backend.log(training_id, lines)

    @api.post(
        "/v1/trainings/{training_id}/cancel",
        tags=["trainings"],
        summary="Cancel a training; one that has ended stays as it is",
        dependencies=[operator],
        responses=unknown,
    )
    async def cancel_training(training_id: TrainingId) -> Training:
        found = await backend.cancel(training_id)
        await audit.audit("cancel_training", training_id, {})
        return found


def _place_of(training: Training) -> tuple[datetime, str]:
    return training.submitted_at or EARLIEST, training.training_id
