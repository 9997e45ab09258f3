"""Requests and answers of the release endpoints.

Invariant: requested weights name each version once and sum to 100.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.schemas.diagnosis import Version

_FROZEN = ConfigDict(frozen=True, extra="forbid")

Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Reason = Annotated[
    str,
    StringConstraints(max_length=500),
    Field(description="why; recorded in the history of releases"),
]

REPLICA_HEADER = "x-replica"
"""Header of `GET /v1/traffic`: the name of the ingress replica that answered."""


class TrafficOrder(BaseModel):
    """Requested traffic weights: percent of equipment by version; 0 for versions not named."""

    model_config = _FROZEN

    weights: Annotated[Mapping[Version, Weight], Field(min_length=1)]
    reason: Reason = ""

    @model_validator(mode="after")
    def _sum_to_100(self) -> Self:
        total = sum(self.weights.values())
        if abs(total - 100.0) > 1e-6:
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


class ReleaseAnswer(BaseModel):
    """Result of a release request.

    `state` is `done`; `running` when a deployment takes longer than a request may (`GET /v1/models`
    then lists the version, `GET /v1/traffic` has the weights, and the log has the errors); or
    `would_change` for a dry run, where `said` is the diff of the file. `weights` and `digest`, for
    `If-Match`, are those of the file afterwards.
    """

    model_config = _FROZEN

    state: Literal["done", "running", "would_change"]
    said: tuple[str, ...]
    weights: Mapping[str, float]
    digest: str
