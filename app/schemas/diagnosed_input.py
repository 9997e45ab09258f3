"""What a diagnosis says of its window, its input and the sensors, as parts of its record."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Record:
    """Base of the records of a diagnosis: a field that is not known is refused."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass
class Window(Record):
    """Half-open interval of time, UTC."""

    start: Annotated[datetime, Field(description="first moment of the window")]
    end: Annotated[datetime, Field(description="first moment after the window")]


@dataclass
class UsedBaseline(Record):
    """The baseline of the machine that its readings were normalised by."""

    baseline_id: Annotated[str, Field(description="as `PUT` of the baseline answered it")]
    start: Annotated[datetime, Field(description="first moment of the healthy interval")]
    end: Annotated[datetime, Field(description="first moment after it")]


@dataclass
class FaultySensor(Record):
    """A sensor that was left out because its readings are implausible, and why."""

    sensor_id: Annotated[str, Field(description="the sensor")]
    reason: Annotated[
        Literal["out_of_range", "frozen", "noisy", "implausible"],
        Field(
            description="beyond what the instrument can read; without any change; with far more "
            "noise than in training; or contradicted by the other sensors"
        ),
    ]


@dataclass
class SensorFault(Record):
    """A fault of a sensor: what kind, since when in the window, and how strong."""

    sensor_id: Annotated[str, Field(description="the sensor")]
    kind: Annotated[
        Literal[
            "stuck",
            "drift",
            "offset",
            "gain",
            "spike",
            "noise",
            "dropout",
            "unit_swap",
            "out_of_range",
            "implausible",
        ],
        Field(
            description="the change that, undone, leaves what the other sensors predict; "
            "`implausible`: contradicted by them in no known way"
        ),
    ]
    since: Annotated[
        datetime,
        Field(description="when it begins to show; the start of the window where it may be older"),
    ]
    size: Annotated[
        float | None,
        Field(
            description="offset, rise of a drift over the window, height of spikes or standard "
            "deviation of noise, in the sensor's unit; factor of a gain or of another unit; value "
            "of a stuck sensor; null where there is none"
        ),
    ]
    score: Annotated[
        float | None,
        Field(
            description="square of the deviation from what the other sensors predict, in units of "
            "its limit; null where the sensor's own signal shows the fault"
        ),
    ]
    masked: Annotated[
        bool,
        Field(
            description="whether the diagnosis goes on without the sensor; false for `dropout`, "
            "whose readings are right where there are any"
        ),
    ]


@dataclass(kw_only=True)
class InputQuality(Record):
    """Quality of the readings behind a diagnosis."""

    source: Annotated[
        Literal["store", "inline"], Field(description="stored readings, or those of the request")
    ]
    missing_sensors: Annotated[
        tuple[str, ...], Field(description="sensors without any reading in the window")
    ]
    faulty_sensors: Annotated[
        tuple[FaultySensor, ...], Field(description="sensors that were left out, and why")
    ]
    sensor_faults: Annotated[
        tuple[SensorFault, ...],
        Field(
            description="faults of sensors, with their kind; also of some that were not left out"
        ),
    ] = ()
    unusual_sensors: Annotated[
        tuple[str, ...],
        Field(
            description="sensors that leave the range of training further than held-out windows did"
        ),
    ]
    coverage: Annotated[
        Fraction, Field(description="share of the window's sensor bins that hold a reading")
    ]
    stale_s: Annotated[
        float | None,
        Field(
            description="age of the newest reading at the request, in seconds; null for inline "
            "readings"
        ),
    ]
    digest: Annotated[
        str | None,
        Field(
            description="BLAKE2b-128 of the window's bins as float32; null in diagnoses from "
            "before it was kept"
        ),
    ] = None
