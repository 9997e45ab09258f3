"""Peers (a) and (b): FastAPI with hand-written micro-batching, or without batching.

With batching, one SQL statement, one pass of features and one forward pass serve a batch, and no
request waits while a batch could begin. Without it, each request reads its window and is computed
alone. In both, one thread computes while the event loop receives. Several processes may share the
port.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Response

from tests.bench.peers.common import (
    ROUTE,
    Batcher,
    Diagnoser,
    DiagnosisRequest,
    SizeLog,
    compute_thread,
    options,
)


def build() -> FastAPI:
    """Build the application of one process."""
    given = options()

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        diagnoser = Diagnoser(given.dsn, given.threads)
        await diagnoser.start()
        thread = compute_thread()

        async def work(items: Sequence[DiagnosisRequest]) -> list[bytes]:
            fetched = await diagnoser.fetch(items)
            return await asyncio.get_running_loop().run_in_executor(
                thread,
                lambda: [item.to_json() for item in diagnoser.diagnose(fetched)],
            )

        async def work_alone(item: DiagnosisRequest) -> bytes:
            return (await work([item]))[0]

        await diagnoser.warm_up()
        batcher = Batcher(work, given.max_batch, given.in_flight, SizeLog(given.sizes))
        api.state.respond = batcher.submit if given.batching else work_alone
        yield
        await diagnoser.store.close()

    api = FastAPI(lifespan=lifespan)

    @api.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @api.post(ROUTE)
    async def diagnose(request: DiagnosisRequest) -> Response:
        return Response(await api.state.respond(request), media_type="application/json")

    return api


if __name__ == "__main__":
    given = options()
    uvicorn.run(
        "tests.bench.peers.fastapi_peer:build",
        factory=True,
        host="127.0.0.1",
        port=given.port,
        workers=given.workers,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
