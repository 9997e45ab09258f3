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

    count: int
    windows: int
    interval: Interval


class HealthDifference(_Strict):
    """Mean health of `b` minus `a` over windows with both; always-valid 95 % interval."""

    windows: int
    mean: float
    interval: Interval


class Accuracy(_Strict):
    """Accuracy of both versions over windows that a label covers.

    A grade scores 1 when it equals the label and 0 otherwise, a health 1 minus its error, an
    abstention 0. `difference` is `b` minus `a`; its interval is always-valid with 95 % for all
    components together. `verdict` is about the compared machines and conditions, `elsewhere` also
    about others: there all windows of one machine under the same labels count once, and
    `conditions` is their number.
    """

    windows: int
    conditions: int
    a: float
    b: float
    difference: float
    interval: Interval
    verdict: ComponentVerdict
    elsewhere: ComponentVerdict


class ComponentComparison(_Strict):
    """One component.

    A pair disagrees when the conditions differ, or the states where neither has a condition.
    `untold_a` and `untold_b` count windows in which a version answered neither health nor
    condition.
    """

    component_id: str
    disagreement: Share
    untold_a: int
    untold_b: int
    health_difference: HealthDifference | None
    accuracy: Accuracy | None


class Latency(_Strict):
    """Seconds of building and scoring: median and 95th percentile. Shadows wait for traffic."""

    p50_s: float
    p95_s: float


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


class Experiments(_Strict):
    """Comparisons of all pairs of versions with answers in common."""

    experiments: tuple[Experiment, ...]
