"""The route that tells how versions compare: `GET /v1/experiments`.

Invariant: one comparison at a time in a replica, so that its memory and the database's work are bounded.
"""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response

from app.core.errors import InputError
from app.experiments.reading import DEFAULT_ANSWERS, MAX_ANSWERS, ExperimentQuery, read_experiments
from app.schemas.diagnosis import Version
from app.schemas.times import AwareTime
from app.serving.http.openapi import answer_of
from app.serving.ingress.requests import checked_interval
from app.store.store import Store

_ABOUT = """Each two versions of which one answered on copies of what the other one answered. The verdict is of `b` against `a`, by labels
that have arrived since; without labels it says how the two differ and that nobody knows who is right.

The verdict may be looked at as often as one likes: two versions that are equally often right are told apart with a probability of at most 5 %, over
all looks together. That holds for labels that are independent of each other, for an interval whose start stays where it is, and while `complete` is true."""


def add_experiment_route(api: FastAPI, store: Store, access: Any) -> None:
    """Add the route.

    Args:
        api: to which.
        store: where the answers are.
        access: the dependency that checks the key's scope.
    """
    alone = asyncio.Lock()

    @api.get(
        "/v1/experiments",
        tags=["models"],
        summary="How versions compare on windows that both answered, with a verdict",
        description=_ABOUT,
        dependencies=[access],
        responses=answer_of("Experiments"),
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
    ) -> Response:
        if a is not None and a == b:
            raise InputError(
                f"expected two versions, found {a} twice: compare it with another one", "b"
            )
        query = ExperimentQuery(a, b, *checked_interval(start, end), limit)
        async with alone:
            found = await read_experiments(store.answer_pairs(), query, datetime.now(UTC))
        return Response(found.model_dump_json(), media_type="application/json")
