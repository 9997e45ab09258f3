"""From the store to verdicts: which versions have answers in common, and what came of them.

The HTTP interface and the command line call this.
Invariant: one question reads at most `MOST` answers, however many versions there are, and holds those of two versions at a time.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from app.experiments.compare import Reading, compare
from app.experiments.pairs import Gathering
from app.experiments.report import Experiment, Experiments
from app.store.experiments import BEGINNING, PairRow

MOST = 20_000
"""Most answers that one question reads, of all versions together."""
USUAL = 5_000
"""As many are read when nobody says how many."""


class AskedFor(NamedTuple):
    """Which comparisons.

    Args:
        a: the version to compare with; None for any.
        b: the version that the verdict is of; None for any.
        start: of the interval in which answers were made; None for the beginning.
        end: of the interval; None for now.
        most: answers of two versions that are read, the newest; fewer where many versions share `MOST`.
    """

    a: str | None = None
    b: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    most: int = USUAL


class AnswerSource(Protocol):
    """Where pairs of answers are; the store's `AnswerPairs` is one."""

    async def versions(self, start: datetime, end: datetime) -> list[tuple[str, str]]:
        """Return which versions have answers in common."""

    def pages(
        self, a: str, b: str, start: datetime, end: datetime, most: int
    ) -> AsyncIterator[list[PairRow]]:
        """Read pairs, newest first."""


async def read_experiments(source: AnswerSource, asked: AskedFor, now: datetime) -> Experiments:
    """Compare versions that have answers in common.

    Without `a` and `b` the older of two versions is the one compared with.

    Raises:
        StoreError: the database can't be reached.
    """
    start, end = asked.start or BEGINNING, asked.end or now + timedelta(microseconds=1)
    found = []
    wanted = _oriented(await source.versions(start, end), asked)
    most = min(asked.most, MOST // max(1, len(wanted)))
    for a, b in wanted:
        experiment = await _experiment(source, a, b, start, end, most)
        if experiment is not None:
            found.append(experiment)
    return Experiments(experiments=tuple(found))


async def _experiment(
    source: AnswerSource, a: str, b: str, start: datetime, end: datetime, most: int
) -> Experiment | None:
    gathering = Gathering()
    read = 0
    # one more than counts, to know whether there are more
    async for rows in source.pages(a, b, start, end, most + 1):
        gathering.add(rows[: max(0, most - read)])
        read += len(rows)
    complete = read <= most

    def work() -> Experiment | None:
        pairs = gathering.pairs()
        reading = Reading(gathering.answers - len(pairs), complete)
        return compare(a, b, pairs, reading) if len(pairs) else None

    return await asyncio.to_thread(work)


def _oriented(found: list[tuple[str, str]], asked: AskedFor) -> list[tuple[str, str]]:
    """Return each two versions once, as asked or the older one first."""
    both = {tuple(sorted(item, key=_age)) for item in found if item[0] != item[1]}
    wanted = []
    for older, newer in sorted(both, key=lambda item: (_age(item[0]), _age(item[1]))):
        for a, b in ((older, newer), (newer, older)):
            if asked.a in (None, a) and asked.b in (None, b):
                wanted.append((a, b))
                break
    return wanted


def _age(version: str) -> tuple[int, int, str]:
    """Return what puts versions in order: numbers before names."""
    return (0, int(version), version) if version.isdecimal() else (1, 0, version)
