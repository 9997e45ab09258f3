"""Micro-batches of requests for a diagnosis: which requests may share one, and its work.

How requests are joined is in `micro_batcher`; what is done with a batch in `batch`.
"""

import asyncio
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import NamedTuple

from app.core.errors import Overloaded
from app.serving.ingress.batch import BatchDiagnosis, BatchItem, Outcome
from app.serving.ingress.micro_batcher import BatchingConfig, MicroBatchers, Work
from app.serving.observability import tracing
from app.serving.observability.ecs import traces_of
from app.serving.observability.metrics import Metrics
from app.store.caller import Caller, acting_as, current_caller

MAX_HEAVY_WAITING = 16
"""Heavy requests that wait at a version, each for a second of those before it."""


class _Kind(NamedTuple):
    """What the requests of one micro-batch have in common; one statement reads for one tenant."""

    version: str
    explain: bool
    heavy: bool
    tenant: str | None


class DiagnosisBatchers(MicroBatchers[BatchItem, bytes]):
    """Joins requests of one version, tenant and kind to micro-batches and has them diagnosed.

    Args:
        batch: does the work of a micro-batch.
        metrics: of this replica.
    """

    def __init__(self, batch: BatchDiagnosis, metrics: Metrics) -> None:
        super().__init__(self._diagnosing, _batching_of, metrics.note_batch)
        self._batch = batch
        metrics.queued_windows.set_function(lambda: self.waiting)
        metrics.running_batches.set_function(lambda: self.running)

    def submit(
        self, item: BatchItem, *, bulk: bool = False, background: bool = False
    ) -> "asyncio.Future[bytes]":
        """Queue an item with those of its kind.

        Args:
            item: a request with its window and releases.
            bulk: whether it is an item of a large batch.
            background: whether all others go first.

        Returns:
            A future with the diagnosis as JSON.

        Raises:
            Overloaded: it is heavy, and too many heavy ones wait.
        """
        resolved = item.resolved
        kind = _Kind(
            item.releases[0].version,
            resolved.request.explain,
            resolved.is_heavy,
            current_caller().tenant,
        )
        batcher = self.to(kind)
        if kind.heavy and not bulk and batcher.waiting_single >= MAX_HEAVY_WAITING:
            raise Overloaded(
                f"expected at most {MAX_HEAVY_WAITING} requests of large machines or explanations "
                "to wait, found as many: try again in a few seconds"
            )
        return batcher.submit(item, resolved.weight, bulk=bulk, background=background)

    def _diagnosing(self, kind: Hashable) -> "Work[BatchItem, bytes]":
        assert isinstance(kind, _Kind)

        async def work(items: Sequence[BatchItem]) -> list[Outcome]:
            callers = [item.caller for item in items]
            for item in items:
                tracing.note_wait("wait for batch", item.caller, item.since_ns)
            traces = tuple(dict.fromkeys(chain.from_iterable(item.traces for item in items)))
            with (
                acting_as(Caller(kind.tenant)),
                traces_of(traces),
                tracing.batch_span(
                    "diagnose",
                    callers,
                    version=kind.version,
                    explain=kind.explain,
                    windows=len(items),
                ),
            ):
                return await self._batch.diagnose(items, explain=kind.explain)

        return work


def _batching_of(kind: Hashable) -> BatchingConfig:
    """Return how items of a kind are batched: heavy ones one at a time, so that others go on."""
    assert isinstance(kind, _Kind)
    return BatchingConfig(size=1, bulk=0, running=1) if kind.heavy else BatchingConfig()
