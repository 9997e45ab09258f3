"""From requests to diagnoses: finds the machine, chooses the version, caches and micro-batches.

The work of a batch is in `batch`, what one holds in `diagnosis_batchers`; the meaning of a request
in `windows`. A response is JSON bytes, made once. An item that can't be answered yields its error
and does not affect the others.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import chain
from math import inf
from operator import attrgetter
from typing import Any

from app.core.errors import (
    HydraulicDiagnosticsError,
    Overloaded,
    StoreUnavailable,
    UnknownDiagnosis,
)
from app.diagnosis.input_quality import Thresholds
from app.schemas.diagnosis import DiagnosisRequest
from app.schemas.equipment import Equipment
from app.schemas.places import shown
from app.serving.ingress.batch import BatchDiagnosis, BatchItem, DiagnosisParts, Outcome
from app.serving.ingress.diagnosis_batchers import DiagnosisBatchers
from app.serving.ingress.item_groups import (
    deadline_exceeded,
    groups_of,
    outcomes_of_group,
    outcomes_of_items,
)
from app.serving.ingress.last_diagnoses import LastDiagnoses
from app.serving.ingress.response_cache import ResponseCache, ResponseKey
from app.serving.ingress.shadows import Shadows
from app.serving.ingress.traffic import machine_of
from app.serving.ingress.windows import resolve
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.observability import tracing
from app.serving.observability.ecs import current_traces
from app.store.caller import DEFAULT_TENANT, current_caller
from app.store.diagnoses import StoredDiagnosis

logger = logging.getLogger(__name__)

LARGE_TOPOLOGY = 200
"""Components and connections of an inline topology that is read in a thread: reading 4,500 of them
takes .03 to .15 s."""
MAX_GROUPS = 8
"""Groups of one large batch in progress: two fill a micro-batch, so each of four stages has one."""
MAX_GROUPS_SHARED = 4
"""The same until the first is answered, and while single requests wait and `SHARED_S` after."""
SHARED_S = 1.0


def _free(_: int) -> None:
    """Charge nothing."""


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
            observe=metrics.stages["store"].observe,
        )
        self._shadows = Shadows(router, store, metrics, lambda: self._batchers.crowded)
        self._batch = BatchDiagnosis(parts, self._write_queue, self._shadows)
        self._batchers = DiagnosisBatchers(self._batch, metrics)
        self._cache = ResponseCache(metrics, lambda: parts.now().timestamp())
        self._last = LastDiagnoses()
        self._max_wait_s = inf
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

    @property
    def is_alive(self) -> bool:
        """Whether its background work has not ended by itself."""
        return self._write_queue.is_alive and self._shadows.is_alive

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Change the thresholds of states and abstention for later diagnoses."""
        self._batch.thresholds = thresholds
        self._cache.clear()

    def note_maintenance(self, equipment_id: str) -> None:
        """Drop what the maintenance of a machine voids: its responses, trends, last diagnosis."""
        self._last.forget(equipment_id)
        self._cache.forget(equipment_id)
        self._batch.trends.forget(equipment_id)

    def set_max_wait(self, max_wait_s: float) -> None:
        """Change how long single requests may wait for a batch before later ones are refused."""
        self._max_wait_s = max_wait_s

    def check_load(self) -> None:
        """Refuse a single request before it costs anything, while those before it wait too long.

        Raises:
            Overloaded: one has waited for longer than `set_max_wait` allows.
        """
        if self._batchers.longest_wait_s > self._max_wait_s:
            raise Overloaded(
                f"expected requests to wait at most {self._max_wait_s:g} s for their turn, found "
                "one that has waited longer: try again in a few seconds"
            )

    async def answer(
        self,
        request: DiagnosisRequest,
        charge: Callable[[int], None] = _free,
        *,
        background: bool = False,
    ) -> bytes:
        """Answer one request with a diagnosis as JSON.

        Args:
            request: to answer.
            charge: counts what it costs, see `Resolved.units`; raises what refuses it.
            background: whether all others go first.

        Raises:
            HydraulicDiagnosticsError: the request can't be answered.
        """
        self._singles += 1
        try:
            with tracing.span("find equipment"):
                registered = None
                if request.equipment is None:
                    registered = await self._parts.registry.topology(
                        request.equipment_id, any_age=request.readings is None
                    )
                item = await self._route(request, registered)
                charge(item.resolved.units)
            with tracing.span("answer"):
                item = item.called_by(tracing.current_span())
                submit = partial(self._batchers.submit, item, background=background)
                if item.resolved.inline is not None:
                    return await submit()
                grid_s = item.resolved.equipment.grid_s
                body = await self._cache.get(_key_of(item), grid_s, submit)
                self._last.note(request, body)
        except StoreUnavailable:
            last = self._last.of(request, self._parts.now())
            if last is None:
                raise
            self._parts.metrics.stale_answers.inc()
            return last
        else:
            return body
        finally:
            self._singles -= 1
            self._last_single_s = asyncio.get_running_loop().time()

    async def answer_many(
        self,
        items: Sequence[DiagnosisRequest | Exception],
        limit_s: float,
        charge: Callable[[int], None] = _free,
        *,
        background: bool = False,
    ) -> AsyncGenerator[list[tuple[int, Outcome]], None]:
        """Answer many requests; yields lists of (index, outcome) as groups are ready.

        Args:
            items: requests, or why there is none.
            limit_s: longest time; items without an outcome then have `DeadlineExceeded`.
            charge: see `answer`; an item that it refuses has its error.
            background: see `answer`.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + limit_s
        invalid = [(index, item) for index, item in enumerate(items) if isinstance(item, Exception)]
        if invalid:
            yield list(invalid)
        groups = groups_of(items)
        running: dict[asyncio.Task[list[Outcome]], Sequence[int]] = {}
        is_first = True
        try:
            while True:
                most = MAX_GROUPS_SHARED if is_first or self._serves_singles() else MAX_GROUPS
                while len(running) < most and (group := next(groups, None)) is not None:
                    indices, of_group = zip(*group, strict=True)
                    running[
                        asyncio.create_task(
                            self._answer_group(of_group, charge, background=background)
                        )
                    ] = indices
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
                    yield list(zip(positions, outcomes_of_group(task, len(positions)), strict=True))
                if not done:
                    late = deadline_exceeded(
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

    async def _answer_group(
        self,
        requests: Sequence[DiagnosisRequest],
        charge: Callable[[int], None],
        *,
        background: bool,
    ) -> list[Outcome]:
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
                item = await self._route(request, known)
                charge(item.resolved.units)
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
                submitted.append(self._batchers.submit(item, bulk=True, background=background))
        found = iter(await outcomes_of_items(submitted))
        made = [next(found) if outcome is None else outcome for outcome in outcomes]
        return [
            self._or_last(request, outcome) for request, outcome in zip(requests, made, strict=True)
        ]

    def _or_last(self, request: DiagnosisRequest, outcome: Outcome) -> Outcome:
        """Return the last known diagnosis instead of the error that the database is away."""
        if isinstance(outcome, bytes):
            self._last.note(request, outcome)
        elif isinstance(outcome, StoreUnavailable):
            last = self._last.of(request, self._parts.now())
            if last is not None:
                self._parts.metrics.stale_answers.inc()
                return last
        return outcome

    async def _route(self, request: DiagnosisRequest, registered: Equipment | None) -> BatchItem:
        """Resolve a request and choose its version.

        Raises:
            HydraulicDiagnosticsError: the request can't be answered.
        """
        now = self._parts.now()
        if request.equipment is not None and _size_of(request.equipment) > LARGE_TOPOLOGY:
            resolved = await asyncio.to_thread(resolve, request, registered, now)
        else:
            resolved = resolve(request, registered, now)
        releases = self._parts.router.releases_for(
            machine_of(resolved.equipment), request.model_version
        )
        item = BatchItem(resolved, releases, time.perf_counter(), traces=current_traces())
        return item.called_by(tracing.current_span())

    async def stored_diagnosis(self, diagnosis_id: str) -> bytes:
        """Return a diagnosis as JSON, also one that is still queued for the store.

        Raises:
            UnknownDiagnosis: there is none with this id.
        """
        queued = self._write_queue.queued(diagnosis_id)
        caller = current_caller()
        if queued is not None and caller.tenant in (None, queued.tenant or DEFAULT_TENANT):
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


def _size_of(topology: Mapping[str, Any]) -> int:
    """Return about how many parts an inline topology has, which is not validated yet."""
    parts = (topology.get("components"), topology.get("connections"))
    return sum(len(each) for each in parts if isinstance(each, list | tuple))


def _key_of(item: BatchItem) -> ResponseKey:
    equipment, request = item.resolved.equipment, item.resolved.request
    return ResponseKey(
        tenant=current_caller().tenant,
        equipment_id=equipment.equipment_id,
        revision=equipment.revision,
        first_bin=item.resolved.bins.first,
        versions=tuple([release.version for release in item.releases]),
        forced=request.model_version is not None,
        explain=request.explain,
    )
