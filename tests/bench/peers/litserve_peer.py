"""Peer (c): LitServe with batching, in the peers' own environment.

Its HTTP process passes requests to worker processes, each of which collects and computes batches. A
worker has its own connection pool, network and event loop; nothing is shared across the fork.
"""

import asyncio
import contextlib

import litserve
from fastapi import Response

from tests.bench.peers.common import ROUTE, Diagnoser, DiagnosisRequest, Options, SizeLog, options

BATCH_WAIT_S = 0.002


class DiagnosisApi(litserve.LitAPI):
    """API that diagnoses batches of requests."""

    def __init__(self, given: Options) -> None:
        super().__init__(max_batch_size=given.max_batch, batch_timeout=BATCH_WAIT_S, api_path=ROUTE)
        self._given = given

    def setup(self, _: str) -> None:
        """Load the network in the worker."""
        self._loop = asyncio.new_event_loop()
        self._diagnoser = Diagnoser(self._given.dsn, self._given.threads)
        self._loop.run_until_complete(self._diagnoser.start())
        self._loop.run_until_complete(self._diagnoser.warm_up())
        self._sizes = SizeLog(self._given.sizes)

    def decode_request(self, request: dict[str, str]) -> DiagnosisRequest:
        """Validate a body."""
        return DiagnosisRequest.model_validate(request)

    def batch(self, inputs: list[DiagnosisRequest]) -> list[DiagnosisRequest]:
        """Return the batch unchanged."""
        return inputs

    def predict(self, items: list[DiagnosisRequest]) -> list[bytes]:
        """Diagnose a batch."""
        self._sizes.note(len(items))
        fetched = self._loop.run_until_complete(self._diagnoser.fetch(items))
        return [item.to_json() for item in self._diagnoser.diagnose(fetched)]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Return the response bodies unchanged."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """Wrap a response body."""
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
