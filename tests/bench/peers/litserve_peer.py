"""Peer (c): LitServe with batching, in the peers' own environment.

Its HTTP process hands requests to worker processes, each of which gathers a batch and then does all
the work of it.
Invariant: a worker has its own connection pool, network and event loop; nothing is shared across
its fork.
"""

import asyncio
import contextlib

import litserve
from fastapi import Response

from tests.bench.peers.common import ROUTE, Asked, Diagnoser, Options, SizeLog, options

BATCH_WAIT_S = 0.002


class DiagnosisApi(litserve.LitAPI):
    """Batches of requests to answers."""

    def __init__(self, given: Options) -> None:
        super().__init__(max_batch_size=given.most, batch_timeout=BATCH_WAIT_S, api_path=ROUTE)
        self._given = given

    def setup(self, _: str) -> None:
        """Load the network in the worker."""
        self._loop = asyncio.new_event_loop()
        self._diagnoser = Diagnoser(self._given.dsn, self._given.threads)
        self._loop.run_until_complete(self._diagnoser.start())
        self._loop.run_until_complete(self._diagnoser.warm_up())
        self._sizes = SizeLog(self._given.sizes)

    def decode_request(self, request: dict[str, str]) -> Asked:
        """Check a body."""
        return Asked.model_validate(request)

    def batch(self, inputs: list[Asked]) -> list[Asked]:
        """Keep a batch as a list."""
        return inputs

    def predict(self, items: list[Asked]) -> list[bytes]:
        """Answer a batch."""
        self._sizes.note(len(items))
        fetched = self._loop.run_until_complete(self._diagnoser.fetch(items))
        return [item.to_json() for item in self._diagnoser.answer(fetched)]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Take a batch apart."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """Answer bytes as they are."""
        return Response(output, media_type="application/json")


if __name__ == "__main__":
    given = options()
    server = litserve.LitServer(
        DiagnosisApi(given),
        accelerator="cpu",
        workers_per_device=given.workers,
        fast_queue=True,
        healthcheck_path="/ready",
    )
    with contextlib.suppress(KeyboardInterrupt):
        server.run(
            host="127.0.0.1",
            port=given.port,
            num_api_servers=1,
            log_level="warning",
            generate_client_file=False,
            access_log=False,
        )
