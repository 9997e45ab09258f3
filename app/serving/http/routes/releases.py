"""`/v1/models` and `/v1/traffic`: shows released versions and, for admin keys, changes them.

The routes that change releases call a `ReleaseBackend`, which `app.release` implements. Nothing is
changed when `If-Match` names another digest of `serve_config.yaml` than the file has.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.checkpoint.manifest import Manifest
from app.core.errors import InputError
from app.schemas.diagnosis import Version
from app.schemas.equipment import Identifier
from app.schemas.places import shown
from app.schemas.releases import (
    REPLICA_HEADER,
    DeployOrder,
    PromoteOrder,
    RegisteredVersion,
    ReleaseAnswer,
    ReleasedVersion,
    RetireOrder,
    RollbackOrder,
    ShadowOrder,
    TrafficOrder,
    TrafficReport,
    UploadAnswer,
)
from app.serving.http.auth import Authenticator, key_in
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
from app.serving.http.routes.health import Status
from app.serving.http.routes.trainings import TrainingBackend
from app.store.audit import AuditRepository
from app.store.releases import ReleaseEvent, ReleaseRepository

_ARCHIVES = (
    "application/octet-stream",
    "application/x-tar",
    "application/gzip",
    "application/zstd",
)
_Handler = TypeVar("_Handler", bound=Callable[..., Any])
_Order = TypeVar(
    "_Order", TrafficOrder, DeployOrder, RollbackOrder, RetireOrder, ShadowOrder, PromoteOrder
)
_BINARY = {"type": "string", "format": "binary"}
_UPLOAD = """The body is a tar archive, plain or compressed with gzip or zstd, of exactly the files
that the checkpoint's manifest states, without directories, as `tar -C CHECKPOINT -c .` makes it.
Its SHA-256 sums are verified before anything of it is loaded; then it is run on the registered
machines of its designs."""

DryRun = Annotated[
    bool, Query(description="answer the difference of the file without changing anything")
]

_CHANGED = (
    answer_of(ReleaseAnswer)
    | answer_of(
        ReleaseAnswer, status=202, description="It takes longer than a request may and goes on"
    )
    | problems(404, 409, 501, s422="The release was refused")
)


class ReleasedModel(ReleasedVersion):
    """A released version: whether it answers, and the manifest of its checkpoint."""

    state: Annotated[Literal["deployed"], Field(description="it answers requests")] = "deployed"
    circuit: Annotated[
        Literal["open", "closed"], Field(description="open while calls to it are held back")
    ]
    available: bool
    reason: Annotated[str | None, Field(description="why it does not answer")] = None
    device: Annotated[str | None, Field(description="of the replica that answered")] = None
    implementation: Annotated[str | None, Field(description="how the network is executed")] = None
    checkpoint: Manifest | None = None


class ModelPage(BaseModel):
    """Deployed versions in the order of the configuration, then registered ones, newest first."""

    model_config = ConfigDict(frozen=True)

    models: tuple[Annotated[ReleasedModel | RegisteredVersion, Field(discriminator="state")], ...]
    next_cursor: NextCursor = None


class ReleasePage(BaseModel):
    """Changes of releases, newest first."""

    model_config = ConfigDict(frozen=True)

    events: Annotated[Sequence[ReleaseEvent], Field(description="newest first")]
    next_cursor: NextCursor = None


class _Place(NamedTuple):
    release_id: Annotated[int, Field(ge=0, lt=2**63)]


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

    @property
    def trainings(self) -> TrainingBackend:
        """What makes new versions."""

    async def split(
        self, request: ReleaseRequest, weights: Mapping[str, float], design: str | None
    ) -> ReleaseAnswer:
        """Give versions their weights, for all machines or for those of a design."""

    async def deploy(
        self, request: ReleaseRequest, version: str, device: str | None
    ) -> ReleaseAnswer:
        """Add a version with weight 0."""

    async def rollback(self, request: ReleaseRequest) -> ReleaseAnswer:
        """Restore the weights that were in force before the present ones."""

    async def promote(
        self, request: ReleaseRequest, version: str, order: PromoteOrder
    ) -> ReleaseAnswer:
        """Raise a version's weight in steps, and restore the weights when a guard breaks."""

    async def shadow(
        self, request: ReleaseRequest, version: str, *, enabled: bool
    ) -> ReleaseAnswer:
        """Start or stop scoring copies of the traffic with a version."""

    async def retire(self, request: ReleaseRequest, version: str) -> ReleaseAnswer:
        """Remove a version without weight."""

    async def registered(self) -> Sequence[RegisteredVersion]:
        """Return the versions that can be deployed."""

    async def upload(self, actor: str, body: AsyncIterator[bytes]) -> UploadAnswer:
        """Verify the archive of a checkpoint and register the checkpoint."""

    async def close(self) -> None:
        """Cancel running work."""


def add_release_routes(
    api: FastAPI,
    status: Status,
    backend: ReleaseBackend,
    history: ReleaseRepository,
    audit: AuditRepository,
    authenticator: Authenticator,
    replica_name: str,
) -> None:
    """Add the routes that show and change releases; `replica_name` marks whose traffic is shown."""
    read, operator = access(authenticator, "read"), access(authenticator, "operator")

    def changing(
        path: str, order: type[BaseModel], summary: str, method: str = "POST"
    ) -> Callable[[_Handler], _Handler]:
        """Return the decorator of a route that changes releases by an order."""
        return api.api_route(
            path,
            methods=[method],
            tags=["models"],
            summary=summary,
            dependencies=[operator],
            openapi_extra=body_of(order),
            responses=_CHANGED,
        )

    @api.get(
        "/v1/models",
        tags=["models"],
        summary="List versions: their weight, and what they were trained on",
        dependencies=[read],
        response_model=ModelPage,
        response_model_exclude_unset=True,
        responses=problems(s422="A parameter is invalid, or the registry does not answer"),
    )
    async def list_models(
        state: Annotated[
            Literal["deployed", "registered", "all"],
            Query(
                description="`registered` lists those that can be deployed and are not; it asks "
                "the registry, which may take seconds"
            ),
        ] = "deployed",
        limit: PageLimit = 100,
        cursor: PageCursor = None,
    ) -> Mapping[str, Any]:
        after = read_cursor(cursor, tuple[str])
        deployed = [*await status.models()]
        found = [{**each, "state": "deployed"} for each in deployed if state != "registered"]
        if state != "deployed":
            known = {each["version"] for each in deployed}
            entries = await backend.registered()
            found += [vars(each) for each in entries if each.version not in known]
        versions = [each["version"] for each in found]
        first = 0 if after is None else 1 + versions.index(after[0]) if after[0] in versions else 0
        page = found[first : first + limit]
        more = first + limit < len(found)
        return {
            "models": page,
            "next_cursor": cursor_of(page[-1]["version"]) if more else None,
        }

    @api.get(
        "/v1/traffic",
        tags=["models"],
        summary="How traffic is split; with equipment_id, which version answers for it",
        dependencies=[read],
        responses=problems(s404="The machine is not registered, and no design is given"),
        response_model=TrafficReport,
        response_model_exclude_unset=True,
    )
    async def get_traffic(
        response: Response,
        equipment_id: Annotated[
            Identifier | None,
            Query(
                description="a machine: the choice depends on its id, its design and the weights "
                "alone"
            ),
        ] = None,
        design: Annotated[
            Identifier | None,
            Query(description="of the machine; default that of the registered machine"),
        ] = None,
    ) -> Mapping[str, Any]:
        response.headers[REPLICA_HEADER] = replica_name
        return await status.traffic_report(equipment_id, design)

    @api.get(
        "/v1/traffic/history",
        tags=["models"],
        summary="Changes of releases, newest first: the weights after each, by whom and why",
        dependencies=[read],
    )
    async def list_releases(limit: PageLimit = 100, cursor: PageCursor = None) -> ReleasePage:
        place = read_cursor(cursor, _Place)
        found = await history.list_releases(limit + 1, place and place.release_id)
        more = cursor_of(found[limit - 1].release_id) if len(found) > limit else None
        return ReleasePage(events=found[:limit], next_cursor=more)

    @changing(
        "/v1/traffic",
        TrafficOrder,
        "Give versions their weights; `If-Match` with a digest refuses when the file has changed "
        "since",
        "PUT",
    )
    async def put_traffic(request: Request, *, dry_run: DryRun = False) -> Response:
        order, release = await _read_order(request, TrafficOrder, dry_run=dry_run)
        return _response(await backend.split(release, order.weights, order.design))

    @changing(
        "/v1/traffic/rollback",
        RollbackOrder,
        "Put the weights before those of now in force again",
    )
    async def roll_back(request: Request, *, dry_run: DryRun = False) -> Response:
        _, release = await _read_order(request, RollbackOrder, dry_run=dry_run)
        return _response(await backend.rollback(release))

    @api.post(
        "/v1/models",
        tags=["models"],
        summary="Upload a checkpoint and register it; the same content keeps its version",
        description=_UPLOAD,
        dependencies=[operator],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {media_type: {"schema": _BINARY} for media_type in _ARCHIVES},
            }
        },
        responses=answer_of(UploadAnswer, description="It was registered before")
        | answer_of(UploadAnswer, status=201, description="It has a new version")
        | answer_of(UploadAnswer, status=202, description="Its registration goes on")
        | problems(s409="Another checkpoint is being uploaded"),
    )
    async def upload_model(request: Request) -> Response:
        answer = await backend.upload(request.state.key_name, request.stream())
        details = {"state": answer.state, "created": answer.created}
        await audit.audit("upload_checkpoint", answer.version or "", details)
        status = 202 if answer.state == "running" else 201 if answer.created else 200
        return json_response(answer.model_dump_json().encode(), status)

    @changing(
        "/v1/models/{version}/deploy",
        DeployOrder,
        "Add a shipped or registered version with weight 0, once it has answered warm-up diagnoses",
    )
    async def deploy(request: Request, version: Version, *, dry_run: DryRun = False) -> Response:
        order, release = await _read_order(request, DeployOrder, dry_run=dry_run)
        return _response(await backend.deploy(release, version, order.device))

    @changing(
        "/v1/models/{version}/promote",
        PromoteOrder,
        "Raise a version's weight in steps; a broken guard restores the earlier weights",
    )
    async def promote(request: Request, version: Version, *, dry_run: DryRun = False) -> Response:
        order, release = await _read_order(request, PromoteOrder, dry_run=dry_run)
        return _response(await backend.promote(release, version, order))

    @changing(
        "/v1/models/{version}/shadow",
        ShadowOrder,
        "Score copies of the traffic with a version, or stop it",
    )
    async def shadow(request: Request, version: Version, *, dry_run: DryRun = False) -> Response:
        order, release = await _read_order(request, ShadowOrder, dry_run=dry_run)
        return _response(await backend.shadow(release, version, enabled=order.enabled))

    @changing(
        "/v1/models/{version}/retire",
        RetireOrder,
        "Remove a version that has no weight and is no shadow",
    )
    async def retire(request: Request, version: Version, *, dry_run: DryRun = False) -> Response:
        _, release = await _read_order(request, RetireOrder, dry_run=dry_run)
        return _response(await backend.retire(release, version))


async def _read_order(
    request: Request, model: type[_Order], *, dry_run: bool
) -> tuple[_Order, ReleaseRequest]:
    order = await read_json(request, model)
    return order, ReleaseRequest(
        actor=request.state.key_name,
        key=SecretStr(key_in(request.headers) or ""),
        reason=order.reason,
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
