"""Peer (a): FastAPI with hand-written micro-batching, in one process or in several that share the port.

One SQL statement, one pass of features and one forward pass for a batch; the loop goes on receiving
while a thread computes.
Invariant: no request waits while a batch could begin.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Response

from tests.bench.peers.common import (
    ROUTE,
    Asked,
    Batcher,
    Diagnoser,
    SizeLog,
    compute_thread,
    options,
)


def build() -> FastAPI:
    """Build one process's application."""
    given = options()

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        diagnoser = Diagnoser(given.dsn, given.threads)
        await diagnoser.start()
        thread = compute_thread()

        async def work(items: list[Asked]) -> list[bytes]:
            fetched = await diagnoser.fetch(items)
            return await asyncio.get_running_loop().run_in_executor(
                thread,
                lambda: [item.to_json() for item in diagnoser.answer(fetched)],
            )

        await diagnoser.warm_up()
        api.state.batcher = Batcher(work, given.most, given.in_flight, SizeLog(given.sizes))
        yield
        await diagnoser.store.close()

    api = FastAPI(lifespan=lifespan)

    @api.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @api.post(ROUTE)
    async def diagnose(asked: Asked) -> Response:
        return Response(await api.state.batcher.ask(asked), media_type="application/json")

    return api


if __name__ == "__main__":
    given = options()
    uvicorn.run(
        "tests.bench.peers.fastapi_batching:build",
        factory=True,
        host="127.0.0.1",
        port=given.port,
        workers=given.workers,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
