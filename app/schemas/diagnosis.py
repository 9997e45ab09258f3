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

from app.schemas.diagnosed_input import Fraction, InputQuality, Record, UsedBaseline, Window
from app.schemas.equipment import Identifier
from app.schemas.readings import InlineReadings
from app.schemas.times import AwareTime

State = Literal["healthy", "watch", "degraded", "critical", "unknown"]
Basis = Literal["labels", "novelty", "none"]
Verdict = Literal["none", "machine", "sensor", "both", "undecided"]
Hours = Annotated[float, Field(ge=0.0)]
Version = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"),
    Field(description="name of a released version", examples=["1"]),
]
"""Name of a released version."""

MAX_BATCH_ITEMS = 5_000

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class DiagnosisRequest(BaseModel):
    """A window to diagnose: stored readings of a registered machine, or inline readings."""

    model_config = _FROZEN

    equipment_id: Annotated[
        Identifier, Field(description="the machine", examples=["hydraulic-rig"])
    ]
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
    explain: Annotated[
        bool, Field(strict=True, description="compute each component's evidence")
    ] = False
    readings: Annotated[
        InlineReadings | None,
        Field(description="the window's readings; none are read from the store"),
    ] = None
    equipment: Annotated[
        dict[str, Any] | None,
        Field(description="topology of a machine that is not registered; with `readings` only"),
    ] = None


@dataclass
class RootCause(Record):
    """A component as the origin of the machine's deviation."""

    component_id: Annotated[str, Field(description="the component")]
    score: Annotated[
        float,
        Field(description="share of the blame; those of all components sum to 1"),
    ]


@dataclass
class Evidence(Record):
    """Contribution of one sensor to a component's lost health."""

    sensor_id: Annotated[str, Field(description="the sensor")]
    contribution: Annotated[
        float,
        Field(
            description="health without this sensor less the health with it: positive when the "
            "sensor indicates wear"
        ),
    ]


@dataclass
class DistanceEvidence(Record):
    """Contribution of one sensor to a component's OOD distance.

    Sensors that do not increase it are left out, and so are those whose contribution is unknown.
    """

    sensor_id: Annotated[str, Field(description="the sensor")]
    contribution: Annotated[
        float, Field(description="distance with this sensor less the distance without it")
    ]


@dataclass(kw_only=True)
class TrendOfHealth(Record):
    """What the degradation rate and the remaining life of a component rest on.

    `heads` are the model's own for this window, `trend` is that of the stored diagnoses, `both` the
    mean of the two by the inverse squares of their intervals' widths.
    """

    source: Annotated[
        Literal["heads", "trend", "both"] | None,
        Field(description="of the degradation rate; null without one"),
    ]
    points: Annotated[
        int, Field(ge=0, description="stored diagnoses since the change point that count")
    ]
    span_h: Annotated[Hours, Field(description="operating hours from the first to the last")]
    since: Annotated[
        datetime | None, Field(description="window end of the first; null without any")
    ]
    change_point: Annotated[
        Literal["maintenance", "rise"] | None,
        Field(
            description="why the trend begins there: recorded maintenance, or a rise of health "
            "at once; null for the first diagnosis"
        ),
    ]
    hours: Annotated[
        Literal["counter", "readings"],
        Field(
            description="operating hours are those of the machine's counter, or the hours that "
            "have readings"
        ),
    ]
    reason: Annotated[
        str | None, Field(description="why the stored diagnoses give no rate; null if they do")
    ]


@dataclass(kw_only=True)
class ComponentDiagnosis(Record):
    """Health, condition, wear and evidence of one component.

    A component that abstains has state `unknown`, basis `none` and nulls; `reasons` of the
    diagnosis say why.
    """

    component_id: Annotated[str, Field(description="the component")]
    health: Annotated[
        Fraction | None,
        Field(
            description="1 as new, 0 at the failure threshold; of a graded component the mean "
            "health of its grades under their probabilities"
        ),
    ]
    interval: Annotated[
        tuple[Fraction, Fraction],
        Field(
            description="[low, high]; holds the true health with the coverage in the checkpoint's "
            "report"
        ),
    ]
    state: Annotated[State, Field(description="health by the thresholds of the service")]
    basis: Annotated[
        Basis,
        Field(
            description="what health rests on: labels of training, how usual the readings are, or "
            "nothing"
        ),
    ]
    condition: Annotated[str | None, Field(description="most probable grade; null without grades")]
    confidence: Annotated[Fraction | None, Field(description="probability of `condition`")]
    distance: Annotated[
        float | None,
        Field(
            ge=0.0,
            allow_inf_nan=False,
            description="OOD distance; 1 is where windows of held-out conditions begin to be "
            "outliers; null where it is unknown or not finite",
        ),
    ] = None
    degradation_rate: Annotated[
        float | None,
        Field(description="health lost per 1000 operating hours, positive when worsening"),
    ]
    degradation_interval: Annotated[
        tuple[float, float] | None,
        Field(
            description="[low, high] of `degradation_rate`; null where it is unknown, and in "
            "diagnoses from before it was stated"
        ),
    ] = None
    degradation_reason: Annotated[
        str | None, Field(description="why there is no rate; null when there is one")
    ]
    rul_h: Annotated[Hours | None, Field(description="remaining useful life in operating hours")]
    rul_interval_h: Annotated[
        tuple[Hours, Hours] | None,
        Field(
            description="[low, high] of `rul_h`; both end where training stopped looking ahead, "
            "and `rul_reason` says so"
        ),
    ]
    rul_reason: Annotated[
        str | None, Field(description="why there is no remaining life, or what bounds it")
    ]
    trend: Annotated[
        TrendOfHealth | None,
        Field(
            description="what the rate and the remaining life rest on; null where the stored "
            "diagnoses of the machine were not used"
        ),
    ] = None
    evidence: Annotated[
        tuple[Evidence, ...],
        Field(description="with `explain`: contribution of each sensor, largest first"),
    ] = ()
    distance_evidence: Annotated[
        tuple[DistanceEvidence, ...],
        Field(
            description="with `explain`: contribution of each sensor to `distance`, largest first"
        ),
    ] = ()


@dataclass(kw_only=True)
class Diagnosis(Record):
    """The full answer for one equipment at one time."""

    diagnosis_id: Annotated[str, Field(description="32 hexadecimal digits")]
    equipment_id: Annotated[str, Field(description="the machine")]
    created_at: Annotated[datetime, Field(description="when it was made")]
    window: Annotated[Window, Field(description="whose readings it is about")]
    model_version: Annotated[str, Field(description="the version that answered")]
    weights_sha256: Annotated[
        str | None,
        Field(description="of the version's weights; null in diagnoses from before it was kept"),
    ] = None
    topology_revision: Annotated[
        str, Field(description="SHA-256 of the machine's topology at the time")
    ]
    fallback: Annotated[
        bool, Field(description="whether another version than the chosen one answered")
    ]
    design_trained: Annotated[
        bool, Field(description="if not: no grades, no `distance`, and wider intervals")
    ] = True
    baseline: Annotated[
        UsedBaseline | None,
        Field(description="by which readings were normalised; null: references of the design"),
    ] = None
    input: Annotated[InputQuality, Field(description="quality of the readings")]
    status: Annotated[
        Literal["ok", "insufficient_evidence"],
        Field(description="whether any component has a health that rests on evidence"),
    ]
    reasons: Annotated[
        tuple[str, ...], Field(description="why components abstain, or the answer is limited")
    ]
    health: Annotated[
        Fraction | None,
        Field(
            description="that of the worst component with basis `labels`, else of the least usual "
            "component; null where a component with labels abstains and no other answers"
        ),
    ]
    components: Annotated[
        tuple[ComponentDiagnosis, ...], Field(description="all components, in topology order")
    ]
    verdict: Annotated[
        Verdict | None,
        Field(
            description="who is to blame: a component below the threshold `watch` (`machine`), a "
            "faulty sensor, both, or none; `undecided` where the sensors contradict each other "
            "without a few being at fault, or no component is answered; null in diagnoses from "
            "before there was one"
        ),
    ] = None
    root_cause: Annotated[
        tuple[RootCause, ...],
        Field(
            description="components ranked as the origin, most likely first; with a component "
            "below the threshold `watch`, or with `explain`"
        ),
    ] = ()
    stale: Annotated[
        bool,
        Field(
            description="whether this is the last known diagnosis of the machine instead of a new "
            "one, since the database with its readings is away"
        ),
    ] = False
    age_s: Annotated[
        float | None,
        Field(ge=0.0, description="of a stale answer: seconds since it was made; else null"),
    ] = None

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

    items: Annotated[
        tuple[DiagnosisRequest, ...],
        Field(
            min_length=1,
            max_length=MAX_BATCH_ITEMS,
            description="requests; a line's `index` counts them from 0",
        ),
    ]
