"""`GET /v1/experiments`: compares versions on windows that both answered."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from fastapi import FastAPI, Query

from app.core.errors import InputError
from app.experiments.reading import DEFAULT_ANSWERS, MAX_ANSWERS, ExperimentQuery, read_experiments
from app.experiments.report import Experiments
from app.schemas.diagnosis import Version
from app.schemas.times import AwareTime
from app.serving.http.auth import Authenticator
from app.serving.http.routes.common import access, checked_interval
from app.store.store import Store

_DESCRIPTION = """Each pair of versions of which one answered copies of windows that the other one
answered. The verdict is about `b` compared with `a`, by labels that have arrived since; without
labels it says how the two differ and that it is unknown which one is right.

The verdict may be read at any time and any number of times: two versions that are equally often
right are called different with a probability of at most 5 %, over all reads together. That holds
for labels that are independent of each other, for an interval whose start does not move, and while
`complete` is true."""


def add_experiment_routes(api: FastAPI, store: Store, authenticator: Authenticator) -> None:
    """Add the route of experiments."""
    # one comparison at a time bounds the replica's memory and the database's work
    alone = asyncio.Lock()

    @api.get(
        "/v1/experiments",
        tags=["models"],
        summary="How versions compare on windows that both answered, with a verdict",
        description=_DESCRIPTION,
        dependencies=[access(authenticator, "read")],
    )
    async def experiments(
        a: Annotated[
            Version | None, Query(description="the version to compare with; any without it")
        ] = None,
        b: Annotated[
            Version | None, Query(description="the version that the verdict is of; any without it")
        ] = None,
        start: Annotated[AwareTime | None, Query(description="answers made from here on")] = None,
        end: Annotated[AwareTime | None, Query(description="answers made before this")] = None,
        limit: Annotated[
            int, Query(ge=1, le=MAX_ANSWERS, description="answers of two versions, the newest")
        ] = DEFAULT_ANSWERS,
    ) -> Experiments:
        if a is not None and a == b:
            raise InputError(
                f"expected two versions, found {a} twice: compare it with another one", "b"
            )
        query = ExperimentQuery(a, b, *checked_interval(start, end), limit)
        async with alone:
            return await read_experiments(store.answer_pairs(), query, datetime.now(UTC))
