"""`/v1/models` and `/v1/traffic`: shows released versions and, for admin keys, changes them.

The routes that change releases call a `ReleaseBackend`, which `app.release` implements. Nothing is
changed when `If-Match` names another digest of `serve_config.yaml` than the file has.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple, Protocol

import orjson
from fastapi import FastAPI, Query, Request, Response
from pydantic import SecretStr

from app.core.errors import InputError
from app.schemas.diagnosis import Version
from app.schemas.places import shown
from app.schemas.releases import (
    REPLICA_HEADER,
    DeployOrder,
    ReleaseAnswer,
    RollbackOrder,
    TrafficOrder,
)
from app.serving.http.auth import Authenticator, key_in
from app.serving.http.openapi import answer_of, body_of
from app.serving.http.routes.common import access, json_response, read_body
from app.serving.http.routes.health import Status

MAX_ORDER_BYTES = 16 * 1024


class ReleaseRequest(NamedTuple):
    """Who requests a release, and how.

    Args:
        actor: name of the API key, recorded in the release history.
        key: the API key itself, used for requests to the service on behalf of its owner.
        reason: why, recorded in the release history.
        expected_digest: SHA-256 that `serve_config.yaml` must have; None accepts any content.
        dry_run: report the difference of the file without changing anything.
    """

    actor: str
    key: SecretStr
    reason: str
    expected_digest: str | None
    dry_run: bool


class ReleaseBackend(Protocol):
    """Changes releases; errors are those of `app.core.errors`."""

    async def split(self, request: ReleaseRequest, weights: Mapping[str, float]) -> ReleaseAnswer:
        """Give versions their weights."""

    async def deploy(
        self, request: ReleaseRequest, version: str, device: str | None
    ) -> ReleaseAnswer:
        """Add a version with weight 0."""

    async def rollback(self, request: ReleaseRequest) -> ReleaseAnswer:
        """Restore the weights that were in force before the present ones."""

    async def close(self) -> None:
        """Cancel running work."""


def add_release_routes(
    api: FastAPI,
    status: Status,
    backend: ReleaseBackend,
    authenticator: Authenticator,
    replica_name: str,
) -> None:
    """Add the routes that show and change releases; `replica_name` marks whose traffic is shown."""
    read, admin = access(authenticator, "read"), access(authenticator, "admin")

    @api.get(
        "/v1/models",
        tags=["models"],
        summary="Released versions: what they were trained on and how well they did",
        dependencies=[read],
    )
    async def models() -> Response:
        return json_response(orjson.dumps({"models": await status.models()}))

    @api.get(
        "/v1/traffic",
        tags=["models"],
        summary="How traffic is split; with equipment_id, which version answers for it",
        dependencies=[read],
    )
    async def traffic(equipment_id: Annotated[str | None, Query(max_length=64)] = None) -> Response:
        response = json_response(orjson.dumps(status.traffic_report(equipment_id)))
        response.headers[REPLICA_HEADER] = replica_name
        return response

    @api.put(
        "/v1/traffic",
        tags=["models"],
        summary="Give versions their weights; `If-Match` with a digest refuses when the file has "
        "changed since",
        dependencies=[admin],
        openapi_extra=body_of(TrafficOrder),
        responses=answer_of(ReleaseAnswer),
    )
    async def put_traffic(
        request: Request, *, dry_run: Annotated[bool, Query()] = False
    ) -> Response:
        order = TrafficOrder.model_validate_json(await _order_body(request))
        release = _release_request(request, order.reason, dry_run=dry_run)
        return _response(await backend.split(release, order.weights))

    @api.post(
        "/v1/traffic/rollback",
        tags=["models"],
        summary="Put the weights before those of now in force again",
        dependencies=[admin],
        openapi_extra=body_of(RollbackOrder),
        responses=answer_of(ReleaseAnswer),
    )
    async def roll_back(request: Request, *, dry_run: Annotated[bool, Query()] = False) -> Response:
        order = RollbackOrder.model_validate_json(await _order_body(request) or b"{}")
        return _response(
            await backend.rollback(_release_request(request, order.reason, dry_run=dry_run))
        )

    @api.post(
        "/v1/models/{version}/deploy",
        tags=["models"],
        summary="Add a shipped or registered version with weight 0, once it has answered warm-up "
        "diagnoses",
        dependencies=[admin],
        openapi_extra=body_of(DeployOrder),
        responses=answer_of(ReleaseAnswer),
    )
    async def deploy(
        request: Request, version: Version, *, dry_run: Annotated[bool, Query()] = False
    ) -> Response:
        order = DeployOrder.model_validate_json(await _order_body(request) or b"{}")
        release = _release_request(request, order.reason, dry_run=dry_run)
        return _response(await backend.deploy(release, version, order.device))


async def _order_body(request: Request) -> bytes:
    return await read_body(request, MAX_ORDER_BYTES)


def _release_request(request: Request, reason: str, *, dry_run: bool) -> ReleaseRequest:
    return ReleaseRequest(
        actor=request.state.key_name,
        key=SecretStr(key_in(request.headers) or ""),
        reason=reason,
        expected_digest=_expected_digest(request),
        dry_run=dry_run,
    )


def _response(answer: ReleaseAnswer) -> Response:
    response = json_response(
        answer.model_dump_json().encode(), 202 if answer.state == "running" else 200
    )
    response.headers["etag"] = f'"{answer.digest}"'
    return response


def _expected_digest(request: Request) -> str | None:
    given = request.headers.get("if-match", "*").strip()
    if given == "*":
        return None
    if len(given) < 3 or given[0] != '"' or given[-1] != '"':
        raise InputError(
            "expected the `digest` of an earlier answer in double quotes, or *, found "
            f"{shown(given)}: correct If-Match",
            "If-Match",
        )
    return given[1:-1]
