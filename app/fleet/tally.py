"""Counts the outcomes of a run; gives a line of progress and a summary.

Its size is bounded by the number of different reasons, not by the number of machines.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, NonNegativeFloat

from app.fleet.scorer import Outcome

MAX_REASONS = 100
MAX_EXAMPLES = 5
OTHER_REASONS = "other reasons, beyond the first hundred"


class Failures(BaseModel, frozen=True):
    """Machines that could not be scored for one reason, and the ids of a few of them."""

    reason: str
    machines: int
    examples: tuple[str, ...]


class Summary(BaseModel, frozen=True):
    """The summary of a run.

    `seconds` counts from the start of the workers; `start_s` is the time to the first outcomes, and
    `machines_per_s` the rate after that, including the pages that were in progress then. `known`
    machines were scored before the run was started again. `compute_s` is the time for features,
    network and diagnosis, over all workers.
    """

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
    seconds: NonNegativeFloat
    start_s: NonNegativeFloat
    compute_s: NonNegativeFloat
    machines_per_s: NonNegativeFloat


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
            self.statuses[outcome.status] += 1
            self.compute_s += outcome.compute_s
            if outcome.status in ("ok", "insufficient_evidence"):
                self._versions[outcome.version] += 1
            if outcome.status == "failed":
                self._add_failure(outcome)
        if self._start_s is None:
            self._start_s, self._scored_first = seconds, self.scored

    def rate(self, seconds: float) -> float:
        """Return machines per second since the first outcomes; since the start if all came then."""
        since_s, scored = seconds - (self._start_s or 0.0), self.scored - self._scored_first
        if scored == 0 or since_s <= 0:
            since_s, scored = seconds, self.scored
        return scored / since_s if since_s > 0 else 0.0

    def _add_failure(self, outcome: Outcome) -> None:
        few = outcome.reason in self._reasons or len(self._reasons) < MAX_REASONS
        reason = outcome.reason if few else OTHER_REASONS
        self._reasons[reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(outcome.equipment_id)

    def progress(self, seconds: float) -> str:
        """Return a line of progress after so many seconds."""
        rate = self.rate(seconds)
        left = "?" if rate == 0 else _clock(max(0, self.expected - self.done) / rate)
        return (
            f"{self.done}/{self.expected} machines, {rate:.0f} machines/s, "
            f"{self.statuses['failed']} failed, {left} left"
        )

    def summary(self, run: str, at: datetime, workers: int, seconds: float) -> Summary:
        """Return the summary of a run that took so many seconds."""
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


def summary_text(summary: Summary) -> str:
    """Return a summary as text for a terminal."""
    known = f", {summary.known} scored before" if summary.known else ""
    versions = ", ".join(f"{version}: {count}" for version, count in summary.versions.items())
    counts = (
        f"{summary.ok} ok, {summary.insufficient_evidence} with insufficient evidence, "
        f"{summary.failed} failed{known}"
    )
    rate = (
        f"{summary.seconds:.1f} s with {summary.workers} workers ({summary.start_s:.1f} s to start "
        f"them), {summary.machines_per_s:.0f} machines/s"
    )
    at = summary.at.isoformat(timespec="seconds")
    lines = [
        f"run {summary.run}: {summary.machines} machines at {at}: {counts}",
        rate + (f"; machines by version: {versions}" if versions else ""),
    ]
    for item in summary.failures:
        more = " ..." if item.machines > len(item.examples) else ""
        examples = ", ".join(item.examples) + more
        lines.append(f"failed, {item.machines} machines ({examples}): {item.reason}")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
