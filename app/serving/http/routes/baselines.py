"""`/v1/equipment/{equipment_id}/baseline`: records, returns and deletes a machine's baseline."""

from typing import Annotated, Protocol

from fastapi import FastAPI, Query, Request, Response

from app.schemas.baselines import BaselineRequest, MachineBaseline
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import answer_of, body_of, problems
from app.serving.http.routes.common import (
    access,
    checked_equipment_id,
    checked_interval,
    json_response,
    read_json,
)

_ABSENT = "The machine is not registered, or has no such baseline: the problem's type says which"


class Baselines(Protocol):
    """Records baselines; errors are those of `app.core.errors`."""

    async def put(self, equipment_id: str, request: BaselineRequest, actor: str) -> MachineBaseline:
        """Measure a healthy interval of a machine and use it from now on."""

    async def get(self, equipment_id: str, baseline_id: str | None) -> MachineBaseline:
        """Return the baseline in force, or any that the machine had."""

    async def delete(self, equipment_id: str, actor: str) -> MachineBaseline:
        """Stop using the baseline."""


def add_baseline_routes(api: FastAPI, baselines: Baselines, authenticator: Authenticator) -> None:
    """Add the routes of baselines."""
    read, admin = access(authenticator, "read"), access(authenticator, "admin")
    path = "/v1/equipment/{equipment_id}/baseline"

    @api.put(
        path,
        tags=["equipment"],
        summary="Record a machine's baseline from an interval in which it was healthy",
        description="From then on the machine's readings are compared with its own healthy ones "
        "instead of those of its design. A machine of a design that no version was trained on "
        "needs a baseline to be diagnosed. Another one is replaced; all are kept.",
        dependencies=[admin],
        openapi_extra=body_of(BaselineRequest, "application/json"),
        responses=answer_of(MachineBaseline)
        | problems(
            s404="The machine is not registered, or was deleted: the problem's type says which",
            s409="Labels say that the machine was worn in the interval, or its topology has just "
            "changed",
        ),
    )
    async def put_baseline(equipment_id: str, request: Request) -> Response:
        checked = checked_equipment_id(equipment_id)
        wanted = await read_json(request, BaselineRequest)
        checked_interval(wanted.start, wanted.end)
        return _response(await baselines.put(checked, wanted, request.state.key_name))

    @api.get(
        path,
        tags=["equipment"],
        summary="A machine's baseline",
        dependencies=[read],
        responses=answer_of(MachineBaseline) | problems(s404=_ABSENT),
    )
    async def get_baseline(
        equipment_id: str,
        baseline_id: Annotated[
            str | None,
            Query(max_length=64, description="an earlier one, as a diagnosis names it"),
        ] = None,
    ) -> Response:
        return _response(await baselines.get(checked_equipment_id(equipment_id), baseline_id))

    @api.delete(
        path,
        tags=["equipment"],
        summary="Stop using a machine's baseline",
        description="It is kept for the diagnoses that name it.",
        dependencies=[admin],
        responses=answer_of(MachineBaseline) | problems(s404=_ABSENT),
    )
    async def delete_baseline(equipment_id: str, request: Request) -> Response:
        checked = checked_equipment_id(equipment_id)
        return _response(await baselines.delete(checked, request.state.key_name))


def _response(baseline: MachineBaseline) -> Response:
    response = json_response(baseline.model_dump_json().encode())
    response.headers["etag"] = f'"{baseline.baseline_id}"'
    return response
