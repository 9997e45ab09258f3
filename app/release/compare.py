"""How two versions compare, for people: the verdict, and the figures that it rests on.

Invariant: the verdict is the one that `GET /v1/experiments` gives.
"""

from datetime import datetime, timedelta

from app.core.errors import InputError, ReleaseError
from app.experiments.reading import MOST, AnswerSource, AskedFor, read_experiments
from app.experiments.report import ComponentComparison, Experiment, HealthDifference, Latency

_LONGEST_DAYS = 10_000
_HEAD = ("component", "differ", "right", "of labelled windows", "health, {b} less {a}")


async def compared(
    source: AnswerSource, a: str, b: str, days: float | None, now: datetime
) -> list[str]:
    """Compare a version with another one.

    Args:
        source: where the answers are.
        a: the version compared with.
        b: the version that the verdict is of.
        days: how far back answers count; None for all.
        now: UTC.

    Returns:
        Lines, the verdict first.

    Raises:
        InputError: the days are not above 0, or more than there are.
        ReleaseError: no window was answered by both.
        StoreError: the database can't be reached.
    """
    if days is not None and not 0 < days <= _LONGEST_DAYS:
        raise InputError(
            f"expected days above 0 and at most {_LONGEST_DAYS:,}, found {days:g}: correct --days",
            "days",
        )
    start = None if days is None else now - timedelta(days=days)
    found = (await read_experiments(source, AskedFor(a, b, start, None, MOST), now)).experiments
    if not found:
        raise ReleaseError(
            f"expected windows that versions {a} and {b} both answered, found none: have one answer on copies with "
            f"`python -m app.release shadow {b}`"
        )
    return lines_of(found[0])


def lines_of(found: Experiment) -> list[str]:
    """Return a comparison as lines, the verdict first."""
    a, b = found.a, found.b
    newest = "" if found.complete else "the newest "
    again = (
        f", {found.repeated} answers asked again for one or a part of it" if found.repeated else ""
    )
    interval = f"{found.start:%Y-%m-%d %H:%M}Z to {found.end:%Y-%m-%d %H:%M}Z"
    differ = _share(found.disagreement.count, found.disagreement.windows)
    lines = [
        found.sentence,
        f"{newest}{found.windows} windows of {found.machines} machine(s), {interval}{again}",
        f"they differ in {differ}; insufficient evidence: {a} in {found.abstained_a}, {b} in {found.abstained_b}",
        f"building and scoring: {a} {_latency(found.latency_a)}; {b} {_latency(found.latency_b)}",
    ]
    head = tuple(text.format(a=a, b=b) for text in _HEAD)
    rows = [head, *(_row(item, a, b) for item in found.components)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return lines + [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(item: ComponentComparison, a: str, b: str) -> tuple[str, ...]:
    differ = _share(item.disagreement.count, item.disagreement.windows)
    right, labels = "no label", ""
    if item.accuracy is not None:
        right = f"{a} {item.accuracy.a:.1%}, {b} {item.accuracy.b:.1%}: {item.accuracy.verdict}"
        labels = f"{item.accuracy.windows} in {item.accuracy.conditions} conditions"
    return item.component_id, differ, right, labels, _health(item.health_difference)


def _health(found: HealthDifference | None) -> str:
    if found is None:
        return "not told by both"
    low, high = found.interval
    return f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _share(count: int, windows: int) -> str:
    return f"{count} of {windows} ({count / windows:.1%})" if windows else "none"


def _latency(found: Latency) -> str:
    return f"{1000 * found.p50_s:.0f} ms at the median, {1000 * found.p95_s:.0f} ms at 95 %"
