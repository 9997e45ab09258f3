"""From requests to diagnoses: finds the machine, chooses the version, caches and micro-batches.

The work of a batch is in `batch`; the meaning of a request in `windows`. A response is JSON bytes,
made once. An item that can't be answered yields its error and does not affect the others.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Hashable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from math import inf
from operator import attrgetter
from typing import NamedTuple

from app.core.errors import (
    DeadlineExceeded,
    HydraulicDiagnosticsError,
    ModelUnavailable,
    UnknownDiagnosis,
)
from app.diagnosis.input_quality import Thresholds
from app.schemas.diagnosis import DiagnosisRequest
from app.schemas.equipment import Equipment
from app.schemas.places import shown
from app.serving.ingress.batch import BatchDiagnosis, BatchItem, DiagnosisParts, Outcome
from app.serving.ingress.micro_batcher import BatchingConfig, MicroBatcher, MicroBatchers, Work
from app.serving.ingress.response_cache import ResponseCache, ResponseKey
from app.serving.ingress.shadows import Shadows
from app.serving.ingress.traffic import machine_of
from app.serving.ingress.windows import resolve
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.observability import tracing
from app.store.diagnoses import StoredDiagnosis

logger = logging.getLogger(__name__)

GROUP_ITEMS = 32
"""Items of a large batch that are resolved together."""
EXPLAINED_ITEMS = 8
"""Items that an item with `explain` counts as: it takes a forward pass for each sensor."""
ITEM_S = 60.0
"""Longest time from the start of an item's group to its outcome, as of a single request."""
MAX_GROUPS = 8
"""Groups of one large batch in progress: two fill a micro-batch, so each of four stages has one."""
MAX_GROUPS_SHARED = 4
"""The same until the first is answered, and while single requests wait and `SHARED_S` after."""
SHARED_S = 1.0


class _Kind(NamedTuple):
    """What the requests of one micro-batch have in common."""

    version: str
    explain: bool


class Diagnostics:
    """Makes diagnoses, stores them and finds them again.

    Args:
        parts: of the replica.
    """

    def __init__(self, parts: DiagnosisParts) -> None:
        self._parts = parts
        store, router, metrics = parts.store, parts.router, parts.metrics
        self._write_queue: WriteBehindQueue[StoredDiagnosis] = WriteBehindQueue(
            store.insert_diagnoses,
            attrgetter("diagnosis_id"),
            metrics.queue_length,
            metrics.unstored,
        )
        self._batchers: MicroBatchers[BatchItem, bytes] = MicroBatchers(
            self._work_of, BatchingConfig(), metrics.batch_size.observe
        )
        self._shadows = Shadows(router, store, metrics, lambda: self._batchers.crowded)
        self._batch = BatchDiagnosis(parts, self._write_queue, self._shadows)
        self._cache = ResponseCache(metrics, lambda: parts.now().timestamp())
        self._singles = 0
        """Single requests in progress."""
        self._last_single_s = -inf
        """When the last one ended, in time of the event loop."""
        parts.registry.when_changed(self._cache.forget)

    def start(self) -> None:
        """Start to write diagnoses and shadow answers, in the running event loop."""
        self._write_queue.start()
        self._shadows.start()

    async def close(self) -> None:
        """Cancel what is in progress and write what is queued."""
        await self._batchers.close()
        await self._shadows.close()
        await self._batch.trends.close()
        await self._write_queue.close()

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Change the thresholds of states and abstention for later diagnoses."""
        self._batch.thresholds = thresholds
        self._cache.clear()

    def note_maintenance(self, equipment_id: str) -> None:
        """Drop what the maintenance of a machine voids: its cached responses and trends."""
        self._cache.forget(equipment_id)
        self._batch.trends.forget(equipment_id)

    async def answer(self, request: DiagnosisRequest) -> bytes:
        """Answer one request with a diagnosis as JSON.

        Raises:
            HydraulicDiagnosticsError: the request can't be answered.
        """
        self._singles += 1
        try:
            registered = None
            if request.equipment is None:
                registered = await self._parts.registry.topology(
                    request.equipment_id, any_age=request.readings is None
                )
            item = self._route(request, registered)
            submit = partial(self._batcher_of(item).submit, item, item.resolved.weight)
            if item.resolved.inline is not None:
                return await submit()
            return await self._cache.get(_key_of(item), item.resolved.equipment.grid_s, submit)
        finally:
            self._singles -= 1
            self._last_single_s = asyncio.get_running_loop().time()

    async def answer_many(
        self, items: Sequence[DiagnosisRequest | Exception], limit_s: float
    ) -> AsyncGenerator[list[tuple[int, Outcome]], None]:
        """Answer many requests; yields lists of (index, outcome) as groups are ready.

        Args:
            items: requests, or why there is none.
            limit_s: longest time; items without an outcome then have `DeadlineExceeded`.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + limit_s
        invalid = [(index, item) for index, item in enumerate(items) if isinstance(item, Exception)]
        if invalid:
            yield list(invalid)
        groups = _groups(items)
        running: dict[asyncio.Task[list[Outcome]], Sequence[int]] = {}
        is_first = True
        try:
            while True:
                most = MAX_GROUPS_SHARED if is_first or self._serves_singles() else MAX_GROUPS
                while len(running) < most and (group := next(groups, None)) is not None:
                    indices, of_group = zip(*group, strict=True)
                    running[asyncio.create_task(self._answer_group(of_group))] = indices
                if not running:
                    return
                done, _ = await asyncio.wait(
                    running,
                    timeout=max(0.0, end_s - loop.time()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                is_first = False
                for task in done:
                    positions = running.pop(task)
                    yield list(zip(positions, _outcomes(task, len(positions)), strict=True))
                if not done:
                    late = _late(
                        f"the outcomes of a batch within {limit_s:g} s", "send smaller batches"
                    )
                    left = [index for group in groups for index, _ in group]
                    yield [(index, late) for index in (*chain(*running.values()), *left)]
                    return
        finally:
            for task in running:
                task.cancel()

    def _serves_singles(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        return self._singles > 0 or now_s < self._last_single_s + SHARED_S

    async def _answer_group(self, requests: Sequence[DiagnosisRequest]) -> list[Outcome]:
        by_id = [item for item in requests if item.equipment is None]
        stored = [item.equipment_id for item in by_id if item.readings is None]
        # no window is read for these, so nothing would show that a remembered topology has changed
        inline = [item.equipment_id for item in by_id if item.readings is not None]
        registered = await self._parts.registry.topologies(stored, any_age=True)
        registered |= await self._parts.registry.topologies(inline)
        outcomes: list[Outcome | None] = []
        submitted: list[asyncio.Future[bytes]] = []
        for request in requests:
            known = registered.get(request.equipment_id) if request.equipment is None else None
            if isinstance(known, HydraulicDiagnosticsError):
                outcomes.append(known)
                continue
            try:
                item = self._route(request, known)
            except HydraulicDiagnosticsError as error:
                outcomes.append(error)
                continue
            except Exception as error:
                logger.exception("item not resolved", extra={"equipment_id": request.equipment_id})
                outcomes.append(error)
                continue
            is_inline = item.resolved.inline is not None
            body = None if is_inline else self._cache.cached(_key_of(item))
            outcomes.append(body)
            if body is None:
                batcher = self._batcher_of(item)
                submitted.append(batcher.submit(item, item.resolved.weight, bulk=True))
        try:
            if submitted:
                await asyncio.wait(submitted, timeout=ITEM_S)
            answered = [_outcome_of(future) for future in submitted]
        finally:
            for future in submitted:
                future.cancel()  # of a caller that disconnected, or late; the others are done
        found = iter(answered)
        return [next(found) if outcome is None else outcome for outcome in outcomes]

    def _route(self, request: DiagnosisRequest, registered: Equipment | None) -> BatchItem:
        """Resolve a request and choose its version.

        Raises:
            HydraulicDiagnosticsError: the request can't be answered.
        """
        resolved = resolve(request, registered, self._parts.now())
        releases = self._parts.router.releases_for(
            machine_of(resolved.equipment), request.model_version
        )
        return BatchItem(resolved, releases, tracing.current_span())

    def _batcher_of(self, item: BatchItem) -> MicroBatcher[BatchItem, bytes]:
        return self._batchers.to(_Kind(item.releases[0].version, item.resolved.request.explain))

    def _work_of(self, kind: Hashable) -> "Work[BatchItem, bytes]":
        assert isinstance(kind, _Kind)

        async def work(items: Sequence[BatchItem]) -> list[Outcome]:
            callers = [item.caller for item in items]
            with tracing.batch_span(
                "diagnose", callers, version=kind.version, explain=kind.explain, windows=len(items)
            ):
                return await self._batch.diagnose(items, explain=kind.explain)

        return work

    async def stored_diagnosis(self, diagnosis_id: str) -> bytes:
        """Return a diagnosis as JSON, also one that is still queued for the store.

        Raises:
            UnknownDiagnosis: there is none with this id.
        """
        queued = self._write_queue.queued(diagnosis_id)
        if queued is not None:
            return queued.body.encode()
        body = await self._parts.store.get_diagnosis(diagnosis_id)
        if body is None:
            raise UnknownDiagnosis(
                f"expected the id of a stored diagnosis, found {shown(diagnosis_id)}: list a "
                "machine's with GET /v1/equipment/{equipment_id}/diagnoses",
                "diagnosis_id",
            )
        return body

    async def history(
        self,
        equipment_id: str,
        interval: tuple[datetime | None, datetime | None],
        limit: int,
        after: tuple[datetime, str] | None = None,
    ) -> Sequence[bytes]:
        """Return a machine's diagnoses whose window ends in the interval, as JSON, newest first."""
        await self._parts.registry.known_topology(equipment_id)
        await self._write_queue.flush()
        return await self._parts.store.diagnosis_history(equipment_id, *interval, limit, after)


def _key_of(item: BatchItem) -> ResponseKey:
    equipment, request = item.resolved.equipment, item.resolved.request
    return ResponseKey(
        equipment_id=equipment.equipment_id,
        revision=equipment.revision,
        first_bin=item.resolved.bins.first,
        versions=tuple([release.version for release in item.releases]),
        forced=request.model_version is not None,
        explain=request.explain,
    )


def _outcomes(task: asyncio.Task[list[Outcome]], count: int) -> list[Outcome]:
    """Return the outcomes of a group; an unexpected error becomes the outcome of all its items."""
    try:
        return task.result()
    except Exception as error:
        logger.exception("group of a batch failed", extra={"items": count})
        return [error] * count


def _outcome_of(future: asyncio.Future[bytes]) -> Outcome:
    if not future.done():
        return _late(f"an outcome of each item within {ITEM_S:g} s", "request less at a time")
    if future.cancelled():
        return ModelUnavailable("expected an answer, found its work cancelled: try again")
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, Exception):
        raise error
    return error


def _late(expected: str, what_to_do: str) -> DeadlineExceeded:
    return DeadlineExceeded(f"expected {expected}, found none until then: {what_to_do}")


def _groups(
    items: Sequence[DiagnosisRequest | Exception],
) -> Iterator[list[tuple[int, DiagnosisRequest]]]:
    """Yield the requests with their indices, in groups of about the same work."""
    group: list[tuple[int, DiagnosisRequest]] = []
    size = 0
    for index, item in enumerate(items):
        if isinstance(item, Exception):
            continue
        group.append((index, item))
        size += EXPLAINED_ITEMS if item.explain else 1
        if size >= GROUP_ITEMS:
            yield group
            group, size = [], 0
    if group:
        yield group
