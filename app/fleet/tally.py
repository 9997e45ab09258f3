"""What a run has done so far, counted as its outcomes come in, and its two forms: a line of progress and a summary.

Invariant: it grows with the number of different reasons, which is bounded, not with the number of machines.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.fleet.scorer import Outcome

MAX_REASONS = 100
MAX_EXAMPLES = 5
OTHER_REASONS = "other reasons, beyond the first hundred"


class Failures(BaseModel):
    """Machines that could not be scored for one reason, and the ids of a few of them."""

    model_config = ConfigDict(frozen=True)

    reason: str
    machines: int
    examples: tuple[str, ...]


class Summary(BaseModel):
    """A run's end.

    `seconds` counts from when its workers were asked for; `start_s` of them went by until the first outcomes came, and
    `machines_per_s` is the rate after that, in which the few pages that were under way then count.
    `known` are machines that the run had scored when it was started before; `compute_s` is what features, network and
    diagnosis took, over all workers.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    at: datetime
    machines: int
    ok: int
    insufficient_evidence: int
    failed: int
    known: int
    versions: dict[str, int]
    failures: tuple[Failures, ...]
    workers: int
    seconds: Annotated[float, Field(ge=0)]
    start_s: Annotated[float, Field(ge=0)]
    compute_s: Annotated[float, Field(ge=0)]
    machines_per_s: Annotated[float, Field(ge=0)]


class Tally:
    """Counts outcomes.

    Args:
        expected: machines of the run, as far as known when it began.
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.statuses: Counter[str] = Counter()
        self.compute_s = 0.0
        self._start_s: float | None = None
        self._scored_first = 0
        self._versions: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    @property
    def done(self) -> int:
        """Machines that have an outcome."""
        return self.statuses.total()

    @property
    def scored(self) -> int:
        """Machines that this start of the run dealt with, failed ones included."""
        return self.done - self.statuses["known"]

    def add(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Count outcomes that came together after so many seconds."""
        for outcome in outcomes:
            self._add(outcome)
        if self._start_s is None:
            self._start_s, self._scored_first = seconds, self.scored

    def rate(self, seconds: float) -> float:
        """Return how many machines are scored in a second since the first ones were; since the beginning when all came at once."""
        since_s, scored = seconds - (self._start_s or 0.0), self.scored - self._scored_first
        if scored == 0 or since_s <= 0:
            since_s, scored = seconds, self.scored
        return scored / since_s if since_s > 0 else 0.0

    def _add(self, outcome: Outcome) -> None:
        self.statuses[outcome.status] += 1
        self.compute_s += outcome.compute_s
        if outcome.status in ("ok", "insufficient_evidence"):
            self._versions[outcome.version] += 1
        if outcome.status == "failed":
            few = outcome.reason in self._reasons or len(self._reasons) < MAX_REASONS
            reason = outcome.reason if few else OTHER_REASONS
            self._reasons[reason] += 1
            examples = self._examples.setdefault(reason, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(outcome.equipment_id)

    def progress(self, seconds: float) -> str:
        """Return a line that says how far the run is after so many seconds."""
        rate = self.rate(seconds)
        left = "?" if rate == 0 else _clock(max(0, self.expected - self.done) / rate)
        return f"{self.done}/{self.expected} machines, {rate:.0f} machines/s, {self.statuses['failed']} failed, {left} left"

    def summary(self, run: str, at: datetime, workers: int, seconds: float) -> Summary:
        """Return the end of a run that took so many seconds."""
        return Summary(
            run=run,
            at=at,
            machines=self.done,
            ok=self.statuses["ok"],
            insufficient_evidence=self.statuses["insufficient_evidence"],
            failed=self.statuses["failed"],
            known=self.statuses["known"],
            versions=dict(sorted(self._versions.items())),
            failures=tuple(
                Failures(reason=reason, machines=count, examples=tuple(self._examples[reason]))
                for reason, count in self._reasons.most_common()
            ),
            workers=workers,
            seconds=seconds,
            start_s=self._start_s or 0.0,
            compute_s=self.compute_s,
            machines_per_s=self.rate(seconds),
        )


def told(summary: Summary) -> str:
    """Return a summary as text for a terminal."""
    known = f", {summary.known} scored before" if summary.known else ""
    versions = ", ".join(f"{version}: {count}" for version, count in summary.versions.items())
    counts = f"{summary.ok} ok, {summary.insufficient_evidence} with insufficient evidence, {summary.failed} failed{known}"
    lines = [
        f"run {summary.run}: {summary.machines} machines at {summary.at.isoformat(timespec='seconds')}: {counts}",
        f"{summary.seconds:.1f} s with {summary.workers} workers ({summary.start_s:.1f} s to start them), "
        f"{summary.machines_per_s:.0f} machines/s"
        + (f"; machines by version: {versions}" if versions else ""),
    ]
    lines += [
        f"failed, {item.machines} machines ({', '.join(item.examples)}{' ...' if item.machines > len(item.examples) else ''}): "
        f"{item.reason}"
        for item in summary.failures
    ]
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
