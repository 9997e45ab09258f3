"""A comparison of two versions as the HTTP interface names its fields.

Invariant: a version is better or worse only where labels say so.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.schemas.diagnosis import Version

Verdict = Literal["better", "worse", "mixed", "alike", "unknown"]
ComponentVerdict = Literal["better", "worse", "alike", "unknown"]
Interval = tuple[float, float]

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class Share(BaseModel):
    """How many of some windows, and an interval that holds the true share, always-valid with 95 %."""

    model_config = _FROZEN

    count: int
    windows: int
    interval: Interval


class HealthDifference(BaseModel):
    """Health as `b` told it less health as `a` did, over windows in which both told one; the interval is always-valid with 95 %."""

    model_config = _FROZEN

    windows: int
    mean: float
    interval: Interval


class Accuracy(BaseModel):
    """How right both were where labels say, over windows that a label holds whole.

    A told grade scores 1 when it is the label's and 0 otherwise, a told health 1 less its distance from the label's, nothing told 0.
    `difference` is `b` less `a`; its interval is always-valid with 95 % for all components of the comparison together.
    `verdict` is of the machines and conditions that were compared, `elsewhere` of others too: there all windows of one machine under the same
    labels count once, and `conditions` says how many such there are.
    """

    model_config = _FROZEN

    windows: int
    conditions: int
    a: float
    b: float
    difference: float
    interval: Interval
    verdict: ComponentVerdict
    elsewhere: ComponentVerdict


class ComponentComparison(BaseModel):
    """One component. A pair disagrees when the conditions differ, or the states where neither told a condition.

    `untold_a` and `untold_b` count windows in which a version told neither a health nor a condition.
    """

    model_config = _FROZEN

    component_id: str
    disagreement: Share
    untold_a: int
    untold_b: int
    health_difference: HealthDifference | None
    accuracy: Accuracy | None


class Latency(BaseModel):
    """Seconds of building and scoring: the median, and what 95 % stay below. A shadow waits behind the traffic that it copies."""

    model_config = _FROZEN

    p50_s: float
    p95_s: float


class Experiment(BaseModel):
    """Two versions on windows that both answered.

    `verdict` is of `b` against `a` on the machines and conditions that were compared: `mixed` is better at one component and worse
    at another, `alike` within a point at each that is labelled. `more` is about how many labelled windows more make it known, if they are
    like those so far; null when it is known or when there are none. `elsewhere` and `more_conditions` say the same of other machines and
    conditions, where all windows of one machine under the same labels count once. A window counts once, `repeated` is how many
    answers asked for one again, or for one that shares readings with it. `complete` is false when there were more answers than were read: the newest are compared then.
    """

    model_config = _FROZEN

    a: Version
    b: Version
    verdict: Verdict
    sentence: Annotated[str, Field(description="the verdict for people")]
    more: int | None
    elsewhere: Verdict
    more_conditions: int | None
    windows: int
    machines: int
    repeated: int
    complete: bool
    start: Annotated[datetime, Field(description="when the first of the answers was made")]
    end: Annotated[datetime, Field(description="when the last of the answers was made")]
    disagreement: Annotated[Share, Field(description="windows in which any component disagrees")]
    abstained_a: Annotated[
        int, Field(description="windows for which `a` had insufficient evidence")
    ]
    abstained_b: int
    latency_a: Latency
    latency_b: Latency
    components: tuple[ComponentComparison, ...]


class Experiments(BaseModel):
    """Versions with answers in common, and the verdict on each two."""

    model_config = _FROZEN

    experiments: tuple[Experiment, ...]
