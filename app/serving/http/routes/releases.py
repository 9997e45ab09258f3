"""Releases over HTTP: weights, deployments and the way back, for keys with the scope `admin`.

The routes call a `ReleaseBackend`, which `app.release` implements and the composition root provides.
Invariant: nothing is changed for a key without the scope, nor when `If-Match` names another state of the file.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple, Protocol

from fastapi import FastAPI, Query, Request, Response
from pydantic import SecretStr

from app.core.errors import InputError
from app.schemas.diagnosis import Version
from app.schemas.places import shown
from app.schemas.releases import DeployOrder, ReleaseAnswer, RollbackOrder, TrafficOrder
from app.serving.http.auth import Authenticator, key_in
from app.serving.http.openapi import answer_of, body_of
from app.serving.http.routes.common import access, json_answer, read_body

MAX_ORDER_BYTES = 16 * 1024


class ReleaseRequest(NamedTuple):
    """Who requests a release, and how.

    Args:
        actor: name of the API key, recorded in the release history.
        key: the API key itself, used for requests to the service on the caller's behalf.
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
    """Changes releases. Its methods raise the errors of `app.core.errors` that `app.release` does."""

    async def split(self, request: ReleaseRequest, weights: Mapping[str, float]) -> ReleaseAnswer:
        """Give versions their weights."""

    async def deploy(
        self, request: ReleaseRequest, version: str, device: str | None
    ) -> ReleaseAnswer:
        """Add a version with weight 0."""

    async def rollback(self, request: ReleaseRequest) -> ReleaseAnswer:
        """Put the weights before those of now in force again."""

    async def close(self) -> None:
        """Give up what is under way."""


def add_admin_routes(api: FastAPI, authenticator: Authenticator, backend: ReleaseBackend) -> None:
    """Add the routes that change releases."""
    may = access(authenticator, "admin")

    def release_request(request: Request, reason: str, *, dry_run: bool) -> ReleaseRequest:
        return ReleaseRequest(
            request.state.key_name,
            SecretStr(key_in(request.headers) or ""),
            reason,
            _expected_digest(request),
            dry_run,
        )

    @api.put(
        "/v1/traffic",
        tags=["models"],
        summary="Give versions their weights; `If-Match` with a digest refuses when the file has changed since",
        dependencies=[may],
        openapi_extra=body_of("TrafficOrder"),
        responses=answer_of("ReleaseAnswer"),
    )
    async def put_traffic(
        request: Request, *, dry_run: Annotated[bool, Query()] = False
    ) -> Response:
        order = TrafficOrder.model_validate_json(
            await read_body(request.headers, request.receive, MAX_ORDER_BYTES)
        )
        return _answered(
            await backend.split(
                release_request(request, order.reason, dry_run=dry_run), order.weights
            )
        )

    @api.post(
        "/v1/traffic/rollback",
        tags=["models"],
        summary="Put the weights before those of now in force again",
        dependencies=[may],
        openapi_extra=body_of("RollbackOrder"),
        responses=answer_of("ReleaseAnswer"),
    )
    async def roll_back(request: Request, *, dry_run: Annotated[bool, Query()] = False) -> Response:
        order = RollbackOrder.model_validate_json(
            await read_body(request.headers, request.receive, MAX_ORDER_BYTES) or b"{}"
        )
        return _answered(
            await backend.rollback(release_request(request, order.reason, dry_run=dry_run))
        )

    @api.post(
        "/v1/models/{version}/deploy",
        tags=["models"],
        summary="Add a shipped or registered version with weight 0, once it has answered warm-up diagnoses",
        dependencies=[may],
        openapi_extra=body_of("DeployOrder"),
        responses=answer_of("ReleaseAnswer"),
    )
    async def deploy(
        request: Request, version: Version, *, dry_run: Annotated[bool, Query()] = False
    ) -> Response:
        order = DeployOrder.model_validate_json(
            await read_body(request.headers, request.receive, MAX_ORDER_BYTES) or b"{}"
        )
        return _answered(
            await backend.deploy(
                release_request(request, order.reason, dry_run=dry_run), version, order.device
            )
        )


def _answered(answer: ReleaseAnswer) -> Response:
    response = json_answer(
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
            f"expected the `digest` of an earlier answer in double quotes, or *, found {shown(given)}: correct If-Match",
            "If-Match",
        )
    return given[1:-1]
