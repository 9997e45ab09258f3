"""Requests for diagnoses, and the record of a diagnosis, with the fields of the HTTP interface.

The record is made of plain dataclasses: pydantic validates what is read, and what the service
builds itself is neither validated nor copied, which made a diagnosis and its JSON take 1.7 times as
long. Invariant: an unknown value is null with a reason beside it, never a number that looks like an
answer.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

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
    """A window to diagnose: stored readings of a registered machine, or inline readings."""

    model_config = _FROZEN

    equipment_id: Identifier
    at: Annotated[
        AwareTime | None,
        Field(
            description="end of the window; default: the last complete window, or cycle, before now"
        ),
    ] = None
    model_version: Annotated[
        Version | None,
        Field(
            description="released version that answers, instead of the one traffic weights choose"
        ),
    ] = None
    explain: Annotated[bool, Field(description="compute each component's evidence")] = False
    readings: Annotated[
        InlineReadings | None,
        Field(description="the window's readings; none are read from the store"),
    ] = None
    equipment: Annotated[
        dict[str, Any] | None,
        Field(description="topology of a machine that is not registered; with `readings` only"),
    ] = None


class _Record:
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass
class Window(_Record):
    """Half-open interval of time, UTC."""

    start: datetime
    end: datetime


@dataclass
class FaultySensor(_Record):
    """A sensor that was left out because its readings are implausible, and why."""

    sensor_id: str
    reason: Literal["out_of_range", "frozen", "noisy"]


@dataclass(kw_only=True)
class InputQuality(_Record):
    """Quality of the readings behind a diagnosis.

    `coverage` is the share of the window's sensor bins that hold a reading; `missing_sensors` had
    none; `faulty_sensors` were left out; `unusual_sensors` leave the range of training further than
    held-out windows did; `stale_s` is the age of the newest reading at the request, null for inline
    readings.
    """

    source: Literal["store", "inline"]
    missing_sensors: tuple[str, ...]
    faulty_sensors: tuple[FaultySensor, ...]
    unusual_sensors: tuple[str, ...]
    coverage: Fraction
    stale_s: float | None
    digest: Annotated[
        str | None,
        Field(
            description="BLAKE2b-128 of the window's bins as float32; null in diagnoses from "
            "before it was kept"
        ),
    ] = None


@dataclass
class Evidence(_Record):
    """Contribution of one sensor to a component's lost health.

    `contribution` is the health without this sensor less the health with it: positive when the
    sensor indicates wear.
    """

    sensor_id: str
    contribution: float


@dataclass
class DistanceEvidence(_Record):
    """Contribution of one sensor to a component's OOD distance.

    `contribution` is the distance with this sensor less the distance without it. Sensors that do
    not increase it are left out, and so are those whose contribution is unknown.
    """

    sensor_id: str
    contribution: float


@dataclass(kw_only=True)
class ComponentDiagnosis(_Record):
    """Health, condition, wear and evidence of one component.

    `health` is 1 as new and 0 at the failure threshold; `interval` holds the true health with the
    coverage in the checkpoint's report. `basis` is what health rests on: labels of training
    (`labels`), how usual the component's readings are (`novelty`), or nothing. `condition` is the
    most probable grade and `confidence` its probability; the health of a graded component is the
    mean health of its grades under the same probabilities. `degradation_rate` is health lost per
    1000 operating hours, positive when worsening. `rul_h` is remaining life in operating hours and
    `rul_interval_h` its interval; both end where training stopped looking ahead, and `rul_reason`
    says so. A component that abstains has state `unknown`, basis `none` and nulls; `reasons` of the
    diagnosis say why.
    """

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
            description="OOD distance; 1 is where windows of held-out conditions begin to be "
            "outliers; null where it is unknown or not finite",
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
            description="with `explain`: contribution of each sensor to `distance`, largest first"
        ),
    ] = ()


@dataclass(kw_only=True)
class Diagnosis(_Record):
    """The full answer for one equipment at one time.

    `health` is that of the worst component with basis `labels`, else of the least usual component;
    null where a component with labels abstains and no other answers.
    """

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

    @classmethod
    def from_json(cls, body: bytes | str) -> Self:
        """Validate a diagnosis in JSON.

        Raises:
            ValidationError: a value does not fit the schema, or a field is unknown.
        """
        return _ADAPTER.validate_json(body)  # type: ignore[return-value]

    def to_json(self) -> bytes:
        """Return the diagnosis as JSON, times in UTC with `Z`."""
        return orjson.dumps(self, option=orjson.OPT_UTC_Z)


_ADAPTER = TypeAdapter(Diagnosis)


class BatchRequest(BaseModel):
    """Many requests at once; each is answered by a line as soon as it is ready."""

    model_config = _FROZEN

    items: Annotated[tuple[DiagnosisRequest, ...], Field(min_length=1, max_length=MAX_BATCH_ITEMS)]
