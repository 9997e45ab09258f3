"""Reads pairs of answers from the store and compares versions, for HTTP and the command line.

Invariant: one query reads at most `MAX_ANSWERS`, however many versions there are, and holds those
of two versions at a time.
"""

import asyncio
from datetime import datetime, timedelta
from typing import NamedTuple

from app.experiments.compare import compare
from app.experiments.pairs import collect_pairs
from app.experiments.report import Experiment, ExperimentList
from app.store.experiments import BEGINNING, AnswerPairs, PairRow

MAX_ANSWERS = 20_000
"""Most answers that one query reads, of all versions together."""
DEFAULT_ANSWERS = 5_000


class ExperimentQuery(NamedTuple):
    """Selects comparisons.

    Args:
        a: The version to compare with; None for any.
        b: The version that the verdict is about; None for any.
        start: Start of the interval of the answers; None for the beginning.
        end: End of the interval; None for now.
        limit: Newest answers to read of two versions; fewer where many versions share
            `MAX_ANSWERS`.
    """

    a: str | None = None
    b: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    limit: int = DEFAULT_ANSWERS


async def read_experiments(
    source: AnswerPairs, query: ExperimentQuery, now: datetime
) -> ExperimentList:
    """Compare versions that have answers in common.

    Without `a` and `b`, newer versions are compared with older ones.

    Raises:
        StoreError: The database does not answer.
    """
    start, end = query.start or BEGINNING, query.end or now + timedelta(microseconds=1)
    found = []
    wanted = _oriented(await source.versions(start, end), query)
    limit = min(query.limit, MAX_ANSWERS // max(1, len(wanted)))
    for a, b in wanted:
        experiment = await _experiment(source, a, b, start, end, limit)
        if experiment is not None:
            found.append(experiment)
    return ExperimentList(experiments=tuple(found))


async def _experiment(
    source: AnswerPairs, a: str, b: str, start: datetime, end: datetime, limit: int
) -> Experiment | None:
    rows: list[PairRow] = []
    # one more, to know whether there are more
    async for page in source.pages(a, b, start, end, limit + 1):
        rows += page
    return await asyncio.to_thread(_compared, a, b, rows, limit)


def _compared(a: str, b: str, rows: list[PairRow], limit: int) -> Experiment | None:
    answers = rows[:limit]
    pairs = collect_pairs(answers)
    if not len(pairs):
        return None
    repeated = len(answers) - len(pairs)
    return compare(a, b, pairs, repeated=repeated, complete=len(rows) <= limit)


def _oriented(found: list[tuple[str, str]], query: ExperimentQuery) -> list[tuple[str, str]]:
    """Return each pair of versions once, as the query names them or the older one first."""
    both = {tuple(sorted(item, key=_age)) for item in found if item[0] != item[1]}
    wanted = []
    for older, newer in sorted(both, key=lambda item: (_age(item[0]), _age(item[1]))):
        for a, b in ((older, newer), (newer, older)):
            if query.a in (None, a) and query.b in (None, b):
                wanted.append((a, b))
                break
    return wanted


def _age(version: str) -> tuple[int, int, str]:
    """Return the sort key of versions: numbers before names."""
    return (0, int(version), version) if version.isdecimal() else (1, 0, version)
