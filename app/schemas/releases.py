"""What may be asked of releases over HTTP, and what comes back.

Invariant: weights that are asked for name each version once and sum to 100.
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
    Field(description="why; goes into the history of releases"),
]


class TrafficOrder(BaseModel):
    """Weights to put in force: the share of equipment in percent by version; a version that is not named gets none."""

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
            description="of its replicas; as the version with most weight without it",
        ),
    ] = None
    reason: Reason = ""


class RollbackOrder(BaseModel):
    """Why the weights before are to be put in force again."""

    model_config = _FROZEN

    reason: Reason = ""


class ReleaseAnswer(BaseModel):
    """What became of an order.

    `state` is `done`; `running` when it takes longer than a request may, as a deployment can: `GET /v1/models` lists the version
    once it is there, `GET /v1/traffic` has the weights, and what went wrong is in the log; `would_change` for a dry run, whose `said` is the difference of the file. `weights`
    and `digest`, for `If-Match`, are those of the file afterwards.
    """

    model_config = _FROZEN

    state: Literal["done", "running", "would_change"]
    said: tuple[str, ...]
    weights: Mapping[str, float]
    digest: str
