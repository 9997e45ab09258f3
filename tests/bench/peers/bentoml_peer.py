"""Peer (d): BentoML with adaptive batching, in the peers' own environment.

The batchable API is the public one, so a request passes through one process; its body has to be a
list, here of one item. A response is a plain dictionary, because BentoML computes the JSON schema
of a model for each response. BentoML alone decides how long a batch waits for more requests.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bentoml
import orjson

from tests.bench.peers.common import (
    ROUTE,
    Diagnoser,
    DiagnosisRequest,
    FetchedWindow,
    SizeLog,
    compute_thread,
    options,
)

LATENCY_MS = 2_000
MAX_BATCH = 32


@bentoml.service(
    name="diagnostics",
    workers=2,
    traffic={"timeout": 60, "max_concurrency": 1024},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Diagnostics:
    """Service that diagnoses batches of requests."""

    @bentoml.on_startup
    async def load(self) -> None:
        """Load the network in the worker."""
        self._diagnoser = Diagnoser(os.environ["BENCH_DSN"], int(os.environ["BENCH_THREADS"]))
        await self._diagnoser.start()
        await self._diagnoser.warm_up()
        self._thread = compute_thread()
        self._sizes = SizeLog(Path(os.environ["BENCH_SIZES"]))

    @bentoml.api(route=ROUTE, batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=LATENCY_MS)
    async def diagnose(self, items: list[DiagnosisRequest], /) -> list[dict[str, Any]]:
        """Diagnose a batch."""
        self._sizes.note(len(items))
        fetched = await self._diagnoser.fetch(items)
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._diagnose, fetched
        )

    def _diagnose(self, fetched: Sequence[FetchedWindow]) -> list[dict[str, Any]]:
        return [orjson.loads(item.to_json()) for item in self._diagnoser.diagnose(fetched)]


if __name__ == "__main__":
    given = options()
    os.environ |= {
        "BENCH_DSN": given.dsn,
        "BENCH_THREADS": str(given.threads),
        "BENCH_SIZES": str(given.sizes),
        "BENTOML_DO_NOT_TRACK": "true",
    }
    command = [
        *(str(Path(sys.executable).with_name("bentoml")), "serve"),
        "tests.bench.peers.bentoml_peer:Diagnostics",
        *("--host", "127.0.0.1", "--port", str(given.port)),
    ]
    sys.exit(subprocess.call(command))
