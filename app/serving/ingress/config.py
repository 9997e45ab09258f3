"""Typed arguments of the applications in `serve_config.yaml`, and the ingress's `user_config`.

Unknown keys are refused. It imports neither Ray nor torch, so that checking the file needs neither.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.diagnosis.input_quality import Thresholds
from app.serving.http.rate_limits import RateLimits
from app.serving.ingress.quotas import QuotaConfig
from app.serving.ingress.traffic import Traffic
from app.serving.observability.logging import LogConfig

MAX_RETENTION_DAYS = 36_500


class DiagnosticsArgs(BaseModel):
    """Arguments of the `diagnostics` application."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment: tuple[str, ...] = Field(
        default=(), description="topology files to register at the start"
    )
    timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0


class ModelArgs(BaseModel):
    """Arguments of a version's application."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = Field(
        description="directory relative to the project, or registry:VERSION, which each node "
        "fetches once into var/models"
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1


class IngressConfig(BaseModel):
    """The ingress's `user_config`: releases, thresholds, limits, retention and logging."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    traffic: Traffic
    thresholds: Thresholds = Thresholds()
    limits: RateLimits = RateLimits()
    quotas: QuotaConfig = QuotaConfig()
    max_wait_ms: Annotated[
        float,
        Field(
            gt=0,
            le=60_000,
            description="how long a single request may wait for its turn before others are refused",
        ),
    ] = 2_000.0
    retention_days: Annotated[
        float | None,
        Field(
            gt=0, le=MAX_RETENTION_DAYS, allow_inf_nan=False, description="null keeps everything"
        ),
    ] = None
    logging: LogConfig = LogConfig()
