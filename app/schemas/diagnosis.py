"""A request for a diagnosis and the diagnosis itself, field by field as the HTTP interface names them.

Invariant: what could not be told is null with a reason beside it, never a number that looks like an answer.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.schemas.equipment import Identifier
from app.schemas.readings import InlineReadings
from app.schemas.times import AwareTime

State = Literal["healthy", "watch", "degraded", "critical", "unknown"]
Basis = Literal["labels", "novelty", "none"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Hours = Annotated[float, Field(ge=0.0)]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
"""Name of a released version."""

MAX_BATCH_ITEMS = 5_000

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class DiagnosisRequest(BaseModel):
    """What to diagnose: a registered machine's stored window, or readings given inline."""

    model_config = _FROZEN

    equipment_id: Identifier
    at: Annotated[
        AwareTime | None,
        Field(
            description="end of the window; without it the last complete window, or cycle, before now"
        ),
    ] = None
    model_version: Annotated[
        Version | None,
        Field(
            description="answer with this released version instead of the one traffic weights choose"
        ),
    ] = None
    explain: Annotated[bool, Field(description="work out each component's evidence")] = False
    readings: Annotated[
        InlineReadings | None, Field(description="the window's readings; the store is not asked")
    ] = None
    equipment: Annotated[
        dict[str, Any] | None,
        Field(description="topology of a machine that is not registered; with `readings` only"),
    ] = None


class Window(BaseModel):
    """Half-open interval of time, UTC."""

    model_config = _FROZEN

    start: datetime
    end: datetime


class FaultySensor(BaseModel):
    """A sensor that was left out because its readings can't be true, and why."""

    model_config = _FROZEN

    sensor_id: str
    reason: Literal["out_of_range", "frozen", "noisy"]


class InputQuality(BaseModel):
    """What the diagnosis had to go by.

    `coverage` is the share of the window's sensor bins that hold a reading; `missing_sensors` had none at all;
    `faulty_sensors` were left out; `unusual_sensors` leave the range of training further than held-out windows did;
    `stale_s` is the age of the newest reading when asked, null for inline readings. `digest` is that of the window's bins.
    """

    model_config = _FROZEN

    source: Literal["store", "inline"]
    missing_sensors: tuple[str, ...]
    faulty_sensors: tuple[FaultySensor, ...]
    unusual_sensors: tuple[str, ...]
    coverage: Fraction
    stale_s: float | None
    digest: Annotated[
        str | None,
        Field(
            description="BLAKE2b-128 of the window's bins as float32; null in diagnoses from before it was kept"
        ),
    ] = None


class Evidence(BaseModel):
    """How much of a component's lost health one sensor accounts for.

    `contribution` is the health that the component would have without this sensor, less its health with it: positive
    when the sensor speaks for wear.
    """

    model_config = _FROZEN

    sensor_id: str
    contribution: float


class DistanceEvidence(BaseModel):
    """How much of a component's distance from training one sensor accounts for.

    `contribution` is the distance with this sensor less the distance without it; sensors that bring it no further are left out, and so
    is one without which no distance is known, or whose share is no finite number.
    """

    model_config = _FROZEN

    sensor_id: str
    contribution: float


class ComponentDiagnosis(BaseModel):
    """One component's condition.

    `health` is 1 as new and 0 at the failure threshold; `interval` holds the true health with the coverage that the
    checkpoint's report states. `basis` says what health rests on: conditions known in training (`labels`), how usual the
    component's readings are (`novelty`), or nothing. `condition` is the most probable named grade and `confidence` its
    probability. `degradation_rate` is health lost per 1000 operating hours, positive when worsening. `rul_h` is remaining life
    in operating hours and `rul_interval_h` holds the true one with the same coverage; training looks only so far ahead, and a
    number that ends there may be larger, which `rul_reason` says of `rul_h`. `distance` is how far the component's evidence is from
    training's; null where that is not known, where no finite number comes of it, and in diagnoses from before it was told.
    A component whose answer is less sure than the checkpoint's calibration asks for abstains: it is told as one that nothing is
    known of, and `reasons` of the diagnosis say why.
    """

    model_config = _FROZEN

    component_id: str
    health: Fraction | None
    interval: tuple[Fraction, Fraction]
    state: State
    basis: Basis
    condition: str | None
    confidence: Fraction | None
    distance: Annotated[
        float | None,
        Field(
            ge=0.0,
            allow_inf_nan=False,
            description="of the evidence from training's; 1 is where windows of held-out conditions begin to be outliers",
        ),
    ] = None
    degradation_rate: float | None
    degradation_reason: str | None
    rul_h: Hours | None
    rul_interval_h: tuple[Hours, Hours] | None
    rul_reason: str | None
    evidence: tuple[Evidence, ...] = ()
    distance_evidence: Annotated[
        tuple[DistanceEvidence, ...],
        Field(
            description="with `explain`: how much of `distance` each sensor accounts for, the most first"
        ),
    ] = ()


class Diagnosis(BaseModel):
    """The full answer for one equipment at one time.

    `health` is that of the worst component that rests on labels; where there is none, of the least usual one; null where a component
    with labels is there and none of them could be told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    diagnosis_id: str
    equipment_id: str
    created_at: datetime
    window: Window
    model_version: str
    weights_sha256: Annotated[
        str | None,
        Field(description="of the version's weights; null in diagnoses from before it was kept"),
    ] = None
    topology_revision: str
    fallback: bool
    input: InputQuality
    status: Literal["ok", "insufficient_evidence"]
    reasons: tuple[str, ...]
    health: Fraction | None
    components: tuple[ComponentDiagnosis, ...]


class BatchRequest(BaseModel):
    """Many requests at once; the answer streams a line for each as it is ready."""

    model_config = _FROZEN

    items: Annotated[tuple[DiagnosisRequest, ...], Field(min_length=1, max_length=MAX_BATCH_ITEMS)]
