"""Peer (b): FastAPI without batching: each request reads its window, computes in a thread and answers.

Invariant: the event loop computes nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Response

from tests.bench.peers.common import ROUTE, Asked, Diagnoser, compute_thread, options


def build() -> FastAPI:
    """Build the application."""
    given = options()

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        diagnoser = Diagnoser(given.dsn, given.threads)
        await diagnoser.start()
        await diagnoser.warm_up()
        api.state.diagnoser, api.state.thread = diagnoser, compute_thread()
        yield
        await diagnoser.store.close()

    api = FastAPI(lifespan=lifespan)

    @api.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @api.post(ROUTE)
    async def diagnose(asked: Asked) -> Response:
        diagnoser: Diagnoser = api.state.diagnoser
        fetched = await diagnoser.fetch([asked])
        body = await asyncio.get_running_loop().run_in_executor(
            api.state.thread, lambda: diagnoser.answer(fetched)[0].to_json()
        )
        return Response(body, media_type="application/json")

    return api


if __name__ == "__main__":
    uvicorn.run(
        build(),
        host="127.0.0.1",
        port=options().port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
