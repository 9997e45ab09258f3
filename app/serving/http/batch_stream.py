"""The NDJSON response of a batch: a line for each item as it is ready, and a summary as last line.

A stream without the summary was cut off. When the client leaves, or does not read for `STALLED_S`,
the work ends and the connection is closed.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import orjson
from fastapi.responses import StreamingResponse
from starlette.types import Scope, Send

from app.serving.fastpath.disconnect_monitor import ARRIVED, DEADLINE, TIMEOUT_S
from app.serving.http.problems import problem_of

logger = logging.getLogger(__name__)

Outcome = bytes | Exception
"""A diagnosis as JSON, or why there is none."""
Outcomes = AsyncGenerator[Sequence[tuple[int, Outcome]], None]
"""Lists of (index, outcome)."""

STALLED_S = 30.0
"""How long a client may leave the buffers of its connection full."""
MAX_STREAM_S = 600.0
"""Longest duration of a batch; items that are unanswered then get an error line."""
MARGIN_S = 5.0
"""The same ends this long before Serve's own timeout, where that one is not turned off."""


def limit_of(scope: Scope) -> float:
    """Return the longest duration of a batch in seconds, given its request's ASGI scope."""
    longest = MAX_STREAM_S if ARRIVED in scope else TIMEOUT_S - MARGIN_S
    deadline_s: float | None = scope.get(DEADLINE)
    if deadline_s is None:
        return longest
    return min(longest, deadline_s - asyncio.get_running_loop().time())


class BatchStream(StreamingResponse):
    """The response of a batch.

    Args:
        outcomes: of each item once; closed at the end.
        count: number of items.
        trace_id: of the request.
    """

    def __init__(self, outcomes: Outcomes, count: int, trace_id: str) -> None:
        super().__init__(iter(()), media_type="application/x-ndjson")
        self._outcomes = outcomes
        self._count = count
        self._trace_id = trace_id

    async def stream_response(self, send: Send) -> None:
        """Send the lines; without the end of the body if the client has stopped reading."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        async with aclosing(self._lines()) as lines:
            async for body in lines:
                try:
                    async with asyncio.timeout(STALLED_S):
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                except TimeoutError:
                    logger.warning("batch not read", extra={"trace_id": self._trace_id})
                    return
        await send({"type": "http.response.body", "body": b""})

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        left, diagnosed = set(range(self._count)), 0
        async with aclosing(self._outcomes) as groups:
            try:
                async for outcomes in groups:
                    left.difference_update(index for index, _ in outcomes)
                    diagnosed += sum(isinstance(outcome, bytes) for _, outcome in outcomes)
                    yield b"".join(self._line(*each) for each in outcomes)
            except Exception as error:
                fields = {"trace_id": self._trace_id, "items": len(left)}
                logger.exception("batch not answered", extra=fields)
                yield b"".join(self._line(index, error) for index in sorted(left))
        counts = {"items": self._count, "diagnosed": diagnosed, "failed": self._count - diagnosed}
        yield orjson.dumps({"summary": counts}) + b"\n"

    def _line(self, index: int, outcome: Outcome) -> bytes:
        if isinstance(outcome, bytes):
            return b'{"index":%d,"diagnosis":%s}\n' % (index, outcome)
        problem = problem_of(outcome, self._trace_id).model_dump(mode="json")
        return b'{"index":%d,"error":%s}\n' % (index, orjson.dumps(problem))
