"""`/v1/experiments`: compares versions on windows that both answered."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from fastapi import FastAPI, Query

from app.core.errors import InputError, UnknownError
from app.experiments.reading import DEFAULT_ANSWERS, MAX_ANSWERS, ExperimentQuery, read_experiments
from app.experiments.report import Experiment, ExperimentList
from app.schemas.diagnosis import Version
from app.schemas.times import AwareTime
from app.serving.http.auth import Authenticator
from app.serving.http.openapi import problems
from app.serving.http.routes.common import access, checked_interval
from app.store.store import Store

_VERDICT = """The verdict is about one version compared with the other one, by labels that have
arrived since; without labels it says how the two differ and that it is unknown which one is right.

The verdict may be read at any time and any number of times: two versions that are equally often
right are called different with a probability of at most 5 %, over all reads together. That holds
for labels that are independent of each other, for an interval whose start does not move, and while
`complete` is true."""
_PAIRS = """Each pair of versions of which one answered copies of windows that the other one
answered. """

Start = Annotated[AwareTime | None, Query(description="answers made from here on")]
End = Annotated[AwareTime | None, Query(description="answers made before this")]
Limit = Annotated[
    int, Query(ge=1, le=MAX_ANSWERS, description="answers of two versions, the newest")
]


def add_experiment_routes(api: FastAPI, store: Store, authenticator: Authenticator) -> None:
    """Add the routes of experiments."""
    read = access(authenticator, "read")
    # one comparison at a time bounds the replica's memory and the database's work
    alone = asyncio.Lock()

    async def found(query: ExperimentQuery, field: str) -> ExperimentList:
        if query.a is not None and query.a == query.b:
            raise InputError(
                f"expected two versions, found {query.a} twice: compare it with another one", field
            )
        async with alone:
            return await read_experiments(store.answer_pairs(), query, datetime.now(UTC))

    @api.get(
        "/v1/experiments",
        tags=["models"],
        summary="How versions compare on windows that both answered, with a verdict",
        description=_PAIRS + _VERDICT,
        dependencies=[read],
    )
    async def experiments(
        a: Annotated[
            Version | None, Query(description="the version to compare with; any without it")
        ] = None,
        b: Annotated[
            Version | None, Query(description="the version that the verdict is of; any without it")
        ] = None,
        start: Start = None,
        end: End = None,
        limit: Limit = DEFAULT_ANSWERS,
    ) -> ExperimentList:
        return await found(ExperimentQuery(a, b, *checked_interval(start, end), limit), "b")

    @api.get(
        "/v1/experiments/compare",
        tags=["models"],
        summary="How a version compares with a baseline on windows that both answered",
        description=_VERDICT,
        dependencies=[read],
        responses=problems(s404="No window was answered by both versions"),
    )
    async def compare_versions(
        baseline: Annotated[Version, Query(description="the version to compare with")],
        candidate: Annotated[Version, Query(description="the version that the verdict is of")],
        start: Start = None,
        end: End = None,
        limit: Limit = MAX_ANSWERS,
    ) -> Experiment:
        interval = checked_interval(start, end)
        query = ExperimentQuery(baseline, candidate, *interval, limit)
        pairs = (await found(query, "candidate")).experiments
        if not pairs:
            raise UnknownError(
                f"expected windows that versions {baseline} and {candidate} both answered, found "
                "none: score copies of the traffic with "
                f"POST /v1/models/{candidate}/shadow",
                "candidate",
            )
        return pairs[0]
