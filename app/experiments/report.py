"""A comparison of two versions, as the HTTP interface returns it.

Invariant: a version is better or worse only by labels.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.diagnosis import Version

Verdict = Literal["better", "worse", "mixed", "alike", "unknown"]
ComponentVerdict = Literal["better", "worse", "alike", "unknown"]
Interval = tuple[float, float]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Share(_Strict):
    """A number of windows, and the always-valid 95 % interval of the true share."""

    count: Annotated[int, Field(description="windows of which it is true")]
    windows: Annotated[int, Field(description="all windows")]
    interval: Annotated[Interval, Field(description="[low, high] of the true share")]


class HealthDifference(_Strict):
    """Mean health of `b` minus `a` over windows with both; always-valid 95 % interval."""

    windows: Annotated[int, Field(description="windows with a health of both")]
    mean: Annotated[float, Field(description="of `b` minus `a`")]
    interval: Annotated[Interval, Field(description="[low, high] of the true mean")]


class Accuracy(_Strict):
    """Accuracy of both versions over windows that a label covers.

    A grade scores 1 when it equals the label and 0 otherwise, a health 1 minus its error, an
    abstention 0. `difference` is `b` minus `a`; its interval is always-valid with 95 % for all
    components together. `verdict` is about the compared machines and conditions, `elsewhere` also
    about others: there all windows of one machine under the same labels count once, and
    `conditions` is their number.
    """

    windows: Annotated[int, Field(description="windows that a label covers")]
    conditions: Annotated[
        int, Field(description="machines and labels that count once each in `elsewhere`")
    ]
    a: Annotated[float, Field(description="accuracy of `a`")]
    b: Annotated[float, Field(description="accuracy of `b`")]
    difference: Annotated[float, Field(description="of `b` minus `a`")]
    interval: Annotated[Interval, Field(description="[low, high] of the true difference")]
    verdict: Annotated[
        ComponentVerdict, Field(description="about the compared machines and conditions")
    ]
    elsewhere: Annotated[ComponentVerdict, Field(description="about others too")]


class ComponentComparison(_Strict):
    """One component.

    A pair disagrees when the conditions differ, or the states where neither has a condition.
    `untold_a` and `untold_b` count windows in which a version answered neither health nor
    condition.
    """

    component_id: Annotated[str, Field(description="the component")]
    disagreement: Annotated[Share, Field(description="windows in which the versions disagree")]
    untold_a: Annotated[
        int, Field(description="windows in which `a` gave neither health nor condition")
    ]
    untold_b: Annotated[
        int, Field(description="windows in which `b` gave neither health nor condition")
    ]
    health_difference: Annotated[
        HealthDifference | None, Field(description="null where no window has a health of both")
    ]
    accuracy: Annotated[Accuracy | None, Field(description="null without labels")]


class Latency(_Strict):
    """Seconds of building and scoring: median and 95th percentile. Shadows wait for traffic."""

    p50_s: Annotated[float, Field(description="median")]
    p95_s: Annotated[float, Field(description="95th percentile")]


class Experiment(_Strict):
    """Two versions on windows that both answered.

    `verdict` compares `b` with `a` on the compared machines and conditions: `mixed` is better at
    one component and worse at another, `alike` within a point at each labelled one. `more`
    estimates how many more labelled windows, like those so far, would decide an `unknown` verdict.
    `elsewhere` and `more_conditions` are the same for other machines and conditions, where all
    windows of one machine under the same labels count once. A window counts once; `repeated` is
    the number of answers about one again, or about one that shares readings with it. `complete` is
    false when there were more answers than were read; the newest are compared then.
    """

    a: Version
    b: Version
    verdict: Annotated[Verdict, Field(description="about the compared machines and conditions")]
    sentence: Annotated[str, Field(description="the verdict for people")]
    more: Annotated[
        int | None,
        Field(description="labelled windows that would decide an `unknown` verdict; null if none"),
    ]
    elsewhere: Annotated[Verdict, Field(description="about other machines and conditions too")]
    more_conditions: Annotated[
        int | None, Field(description="further conditions that would decide `elsewhere`")
    ]
    windows: Annotated[int, Field(description="windows that both answered")]
    machines: Annotated[int, Field(description="machines of these windows")]
    repeated: Annotated[
        int, Field(description="answers about a window again, or about one that shares readings")
    ]
    complete: Annotated[
        bool, Field(description="false when there were more answers than were read")
    ]
    start: Annotated[datetime, Field(description="when the first of the answers was made")]
    end: Annotated[datetime, Field(description="when the last of the answers was made")]
    disagreement: Annotated[Share, Field(description="windows in which any component disagrees")]
    abstained_a: Annotated[
        int, Field(description="windows for which `a` had insufficient evidence")
    ]
    abstained_b: Annotated[
        int, Field(description="windows for which `b` had insufficient evidence")
    ]
    latency_a: Annotated[Latency, Field(description="of `a`")]
    latency_b: Annotated[Latency, Field(description="of `b`")]
    components: Annotated[
        tuple[ComponentComparison, ...], Field(description="the components of all machines")
    ]


class ExperimentList(_Strict):
    """Comparisons of all pairs of versions with answers in common."""

    experiments: Annotated[tuple[Experiment, ...], Field(description="pairs of versions")]
