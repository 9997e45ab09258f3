"""Requests and answers of the endpoints of versions, traffic and releases.

Invariant: requested weights name each version once and sum to 100.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.schemas.diagnosis import Version
from app.schemas.equipment import Identifier

_FROZEN = ConfigDict(frozen=True, extra="forbid")

Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
DesignWeights = Mapping[str, Mapping[Version, Weight]]
"""Percent by version, of each design."""
Reason = Annotated[
    str,
    StringConstraints(max_length=500, pattern=r"^[^\x00]*$"),
    Field(description="why; recorded in the history of releases"),
]

REPLICA_HEADER = "x-replica"
"""Header of `GET /v1/traffic`: the name of the ingress replica that answered."""


class TrafficOrder(BaseModel):
    """Requested traffic weights: percent of equipment by version; 0 for versions not named."""

    model_config = _FROZEN

    weights: Annotated[
        Mapping[Version, Weight],
        Field(description="empty with a `design`: it has the weights of all machines again"),
    ]
    design: Annotated[
        Identifier | None,
        Field(description="whose machines get these weights; default all without their own"),
    ] = None
    reason: Reason = ""

    @model_validator(mode="after")
    def _sum_to_100(self) -> Self:
        total = sum(self.weights.values())
        if abs(total - 100.0) > 1e-6 and (self.weights or self.design is None):
            raise ValueError(f"expected weights that sum to 100, found {total:g}: correct them")
        return self


class DeployOrder(BaseModel):
    """How to deploy a shipped or registered version."""

    model_config = _FROZEN

    device: Annotated[
        str | None,
        Field(
            pattern=r"^(auto|cpu|cuda(:\d+)?)$",
            description="of its replicas; default: that of the version with most weight",
        ),
    ] = None
    reason: Reason = ""


class RollbackOrder(BaseModel):
    """Why the previous weights are restored."""

    model_config = _FROZEN

    reason: Reason = ""


class RetireOrder(BaseModel):
    """Why a version without weight is removed."""

    model_config = _FROZEN

    reason: Reason = ""


class ShadowOrder(BaseModel):
    """Whether a version scores copies of the traffic."""

    model_config = _FROZEN

    enabled: Annotated[bool, Field(strict=True, description="false ends it")] = True
    reason: Reason = ""


class PromoteOrder(BaseModel):
    """How a version's weight rises, and what restores the weights from before."""

    model_config = _FROZEN

    steps: Annotated[
        tuple[Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)], ...],
        Field(
            min_length=1,
            max_length=20,
            description="successive weights in percent; each is above the one before; default: 100",
        ),
    ] = (100.0,)
    hold_s: Annotated[
        float, Field(ge=0, le=86_400, allow_inf_nan=False, description="seconds on each step")
    ] = 0.0
    guards: Annotated[
        tuple[Annotated[str, StringConstraints(max_length=64)], ...],
        Field(
            max_length=8,
            description="limits on `errors`, `p95` and `disagreement` meanwhile, such as "
            "`errors<0.1%`, `p95<80ms`; a broken one restores the weights from before",
        ),
    ] = ()
    design: Annotated[
        Identifier | None,
        Field(description="whose machines' weights change; default all designs that it serves"),
    ] = None
    reason: Reason = ""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)):
            found = ", ".join(f"{step:g}" for step in self.steps)
            raise ValueError(f"expected steps that rise, found {found}: put them in order")
        return self


class ReleaseAnswer(BaseModel):
    """Result of a release request.

    `state` is `done`; `running` when a deployment or promotion takes longer than a request may
    (`GET /v1/models` then lists the version, `GET /v1/traffic` has the weights, and the log has the
    errors); or
    `would_change` for a dry run, where `said` is the diff of the file. `weights` and `digest`, for
    `If-Match`, are those of the file afterwards; `designs` has those of designs with weights of
    their own.
    """

    model_config = _FROZEN

    state: Literal["done", "running", "would_change"]
    said: tuple[str, ...]
    weights: Mapping[str, float]
    designs: Annotated[
        DesignWeights, Field(description="weights of the designs that have their own")
    ] = {}
    digest: str


class UploadAnswer(BaseModel):
    """Result of the upload of a checkpoint.

    `state` is `done`, or `running` when the registration takes longer than a request may: upload
    the same archive again to read its version, which is null until then. `digest` is the SHA-256 of
    its manifest; archives with the same one have the same version.
    """

    model_config = _FROZEN

    state: Literal["done", "running"]
    version: Annotated[
        Version | None, Field(description="for `POST /v1/models/{version}/deploy`")
    ] = None
    created: Annotated[bool, Field(description="false when it was registered before")] = False
    digest: str = ""
    said: Annotated[tuple[str, ...], Field(description="what was checked and found")] = ()


class ReleasedVersion(BaseModel):
    """A released version and its weight."""

    model_config = _FROZEN

    version: Version
    application: Annotated[str, Field(description="of Ray Serve, which runs its replicas")]
    designs: Annotated[
        tuple[Identifier, ...] | None,
        Field(description="whose machines it serves; any where the configuration does not say"),
    ] = None
    weight: Annotated[Weight, Field(description="percent of the equipment that it can serve")]


class RegisteredVersion(BaseModel):
    """A shipped or registered version: one that can be deployed."""

    model_config = _FROZEN

    state: Annotated[Literal["registered"], Field(description="it can be deployed")] = "registered"
    version: Version
    designs: Annotated[tuple[str, ...], Field(description="that it was trained on")]
    registered_at: Annotated[
        AwareDatetime, Field(description="or when it was trained, where no registry knows it")
    ]
    aliases: Annotated[
        tuple[str, ...], Field(description="of the registry, such as `champion`")
    ] = ()
    run_id: Annotated[str, Field(description="of the MLflow run that trained it")] = ""
    scores: Annotated[
        Mapping[str, str], Field(description="of its training and on the reference set, by name")
    ] = {}


class TrafficReport(BaseModel):
    """How traffic is split in the replica that answers."""

    model_config = _FROZEN

    releases: tuple[ReleasedVersion, ...]
    designs: Annotated[
        DesignWeights, Field(description="weights of the designs that have their own")
    ] = {}
    shares: Annotated[
        DesignWeights,
        Field(description="by design: the versions that answer for its machines, and how many"),
    ] = {}
    shadows: Annotated[
        tuple[Version, ...], Field(description="versions that score copies of the traffic")
    ] = ()
    equipment_id: Annotated[str | None, Field(description="as in the request")] = None
    design: Annotated[str | None, Field(description="of that machine")] = None
    version: Annotated[
        Version | None, Field(description="that answers for the equipment of the request")
    ] = None
