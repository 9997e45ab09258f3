"""Requests and answers of the endpoints of trainings."""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.schemas.diagnosis import Version
from app.schemas.equipment import Identifier
from app.schemas.releases import Reason
from app.schemas.times import AwareTime

_STRICT = ConfigDict(frozen=True, extra="forbid")

TrainingId = Annotated[str, StringConstraints(pattern=r"^training-[0-9a-f]{12}$")]
TrainingStatus = Literal["pending", "running", "succeeded", "failed", "cancelled"]
Count = Annotated[int, Field(strict=True, ge=1)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class TrainingSettings(BaseModel):
    """Hyper-parameters of a training; `hydraulic train start --help` describes them.

    What is not given has the default of the training.
    """

    model_config = _STRICT

    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    split: Literal["auto", "group", "machine", "time"] | None = None
    folds: Annotated[Count, Field(ge=2, le=20)] | None = None
    holdout_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    validation_share: Share | None = None
    patience: Annotated[Count, Field(le=500)] | None = None
    stride_s: Annotated[float, Field(gt=0, le=31_536_000)] | None = None
    rul_cap_h: Annotated[float, Field(gt=0, le=1e6)] | None = None
    workers: (
        Annotated[str, StringConstraints(pattern=r"^(auto|[1-9]\d{0,2}(:[1-9]\d{0,2})?)$")] | None
    ) = None
    epochs: Annotated[Count, Field(le=500)] | None = None
    batch: Annotated[Count, Field(le=8_192)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1)] | None = None
    hidden: Annotated[Count, Field(le=512)] | None = None
    heads: Annotated[Count, Field(le=32)] | None = None
    attention_layers: Annotated[int, Field(strict=True, ge=0, le=8)] | None = None
    lstm_layers: Annotated[Count, Field(le=4)] | None = None
    dropout: Share | None = None
    members: Annotated[Count, Field(le=16)] | None = None
    deep_share: Annotated[float, Field(gt=0, le=1)] | None = None
    sensor_dropout: Share | None = None
    mixup: Annotated[float, Field(ge=0, le=10)] | None = None


class TrainingRequest(BaseModel):
    """What to train on and how. The checkpoint is registered; it gets no traffic."""

    model_config = _STRICT

    equipment_ids: Annotated[
        tuple[Identifier, ...],
        Field(max_length=500, description="machines of one topology; or give `design`"),
    ] = ()
    design: Annotated[
        Identifier | None, Field(description="train on all machines of this design")
    ] = None
    start: Annotated[
        AwareTime | None, Field(description="train on windows from here on; default all")
    ] = None
    end: Annotated[
        AwareTime | None, Field(description="train on windows that end by then; default all")
    ] = None
    settings: TrainingSettings = TrainingSettings()
    reason: Reason = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if bool(self.equipment_ids) == (self.design is not None):
            found = "both" if self.design else "neither"
            raise ValueError(f"expected one of equipment_ids and design, found {found}")
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError(
                f"expected start before end, found {self.start.isoformat()} and "
                f"{self.end.isoformat()}: exchange or widen them"
            )
        return self


class Training(BaseModel):
    """A training job of the cluster."""

    model_config = _STRICT

    training_id: TrainingId
    status: TrainingStatus
    message: Annotated[str, Field(description="of Ray about the job")]
    submitted_at: AwareDatetime | None
    ended_at: AwareDatetime | None
    requested_by: Annotated[str, Field(description="name of the API key")]
    request: TrainingRequest
    version: Annotated[
        Version | None,
        Field(description="of the registered checkpoint, once the training has succeeded"),
    ] = None


class TrainingLog(BaseModel):
    """The end of a training's output."""

    model_config = _STRICT

    training_id: TrainingId
    lines: tuple[str, ...]
    complete: Annotated[bool, Field(description="false when earlier lines were left out")]
