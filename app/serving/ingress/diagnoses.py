"""Requests to diagnoses: machine, door, window, scores, answer and journal, for one request or thousands.

What a request means is in `requests`, who waits for whom in `coalesce`, what is known already in `answers`, the decisions in
`released` and `app.diagnosis.build`; this is the way between them. ResponseCache are JSON bytes, made once.
Invariant: an item that can't be answered yields its error and disturbs no other.
"""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from math import inf
from operator import attrgetter
from typing import NamedTuple

from app.core.errors import HydraulicDiagnosticsError, ModelUnavailable, UnknownDiagnosis
from app.diagnosis.build import DiagnosisContext, DiagnosisFields, as_json, build_diagnosis
from app.diagnosis.input_quality import Thresholds
from app.schemas.diagnosis import Diagnosis, DiagnosisRequest, State
from app.schemas.places import shown
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.micro_batcher import BatchingConfig, MicroBatchers, Work
from app.serving.ingress.requests import Resolved, resolve
from app.serving.ingress.response_cache import ResponseCache, ResponseKey
from app.serving.ingress.shadows import PrimaryResult, Shadows
from app.serving.ingress.stored import row_of
from app.serving.ingress.version_router import Scored, VersionRouter, WindowToScore
from app.serving.ingress.window_source import WindowSource, age_s
from app.serving.ingress.windows import interval_of
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.observability import tracing
from app.serving.observability.metrics import Metrics
from app.serving.rpc.messages import WindowInput
from app.store.diagnoses import StoredDiagnosis
from app.store.store import Store

logger = logging.getLogger(__name__)

ITEMS_AT_ONCE = 32
"""Items of a large batch that are resolved together."""
GROUPS_AT_ONCE = 8
"""Such groups that are under way for one large batch: the door makes batches of two, so that each stage of a diagnosis has one."""
FEWER_GROUPS = 4
"""The same until the first is answered, which comes sooner then, and while others wait for single answers and for `RECENT_S` after."""
RECENT_S = 1.0
MAX_REMEMBERED_STATES = 50_000

Outcome = bytes | Exception
"""A diagnosis as JSON, or why there is none."""


class _Stood(NamedTuple):
    """How a machine's components stood in its newest window, and before it: the same window asked again says the same."""

    window_end: datetime
    before: Mapping[str, State]
    states: Mapping[str, State]


class _Kind(NamedTuple):
    """What requests have in common that one batch of work answers: the version, and whether with evidence."""

    version: str
    explain: bool


class _Concluded(NamedTuple):
    """A diagnosis that was made: as JSON, as its fields, and what it was made of."""

    body: bytes
    fields: DiagnosisFields
    context: DiagnosisContext
    previous: Mapping[str, State]


class Diagnostics:
    """Makes diagnoses, stores them and finds them again.

    Args:
        store: the database; may be away.
        machines: finds topologies.
        versions: the released versions.
        metrics: of this replica.
        now: UTC clock.
    """

    def __init__(
        self,
        store: Store,
        machines: EquipmentRegistry,
        versions: VersionRouter,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._machines = machines
        self._versions = versions
        self._metrics = metrics
        self._now = now
        self._thresholds = Thresholds()
        self._source = WindowSource(store, machines, metrics)
        self._journal: WriteBehindQueue[StoredDiagnosis] = WriteBehindQueue(
            store.insert_diagnoses,
            attrgetter("diagnosis_id"),
            metrics.journal_length,
            metrics.unstored,
        )
        self._states: OrderedDict[str, _Stood] = OrderedDict()
        self._doors: MicroBatchers[Resolved, bytes] = MicroBatchers(
            self._work_of, BatchingConfig(), metrics.batch_size.observe
        )
        self._shadows = Shadows(
            versions.apart(),
            store.insert_shadow_answers,
            metrics,
            lambda: self._doors.crowded,
            lambda: versions.traffic,
        )
        self._answers = ResponseCache(metrics)
        self._singles = 0
        """Who wait for a single answer."""
        self._single_at = -inf
        """When the last of them had it, in time of the event loop."""
        machines.when_changed(self._answers.forget)

    def start(self) -> None:
        """Begin to write diagnoses and what shadows told to the store, in the running event loop."""
        self._journal.start()
        self._shadows.start()

    async def close(self) -> None:
        """Give up what is under way and write what waits."""
        await self._doors.close()
        await self._shadows.close()
        await self._journal.close()

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Change states and abstention for the diagnoses from now on."""
        self._thresholds = thresholds
        self._answers.clear()

    async def answer(self, request: DiagnosisRequest) -> bytes:
        """Answer one request with a diagnosis as JSON.

        Raises:
            HydraulicDiagnosticsError: it can't be answered, and why.
        """
        self._singles += 1
        try:
            registered = None
            if request.equipment is None:
                asked = (
                    self._machines.remembered
                    if request.readings is None
                    else self._machines.topology
                )
                registered = await asked(request.equipment_id)
            return await self._enter(_traced(resolve(request, registered, self._now())))
        finally:
            self._singles -= 1
            self._single_at = asyncio.get_running_loop().time()

    async def answer_many(
        self, items: Sequence[DiagnosisRequest | Exception]
    ) -> AsyncIterator[list[tuple[int, Outcome]]]:
        """Answer many requests; lists of (index, outcome) as they are ready, a few groups at a time."""
        found = [(index, item) for index, item in enumerate(items) if isinstance(item, Exception)]
        if found:
            yield list(found)
        requests = [
            (index, item) for index, item in enumerate(items) if isinstance(item, DiagnosisRequest)
        ]
        groups = iter(
            [
                requests[start : start + ITEMS_AT_ONCE]
                for start in range(0, len(requests), ITEMS_AT_ONCE)
            ]
        )
        running: dict[asyncio.Task[list[Outcome]], list[int]] = {}
        is_first = True
        try:
            while True:
                most = FEWER_GROUPS if is_first or self._serves_singles() else GROUPS_AT_ONCE
                while len(running) < most and (group := next(groups, None)) is not None:
                    indices = [index for index, _ in group]
                    running[
                        asyncio.create_task(self._answer_group([item for _, item in group]))
                    ] = indices
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                is_first = False
                for task in done:
                    indices = running.pop(task)
                    yield list(zip(indices, _outcomes(task, len(indices)), strict=True))
        finally:
            for task in running:
                task.cancel()

    def _serves_singles(self) -> bool:
        return self._singles > 0 or asyncio.get_running_loop().time() < self._single_at + RECENT_S

    async def _answer_group(self, requests: Sequence[DiagnosisRequest]) -> list[Outcome]:
        registered_ones = [item for item in requests if item.equipment is None]
        of_store = [item.equipment_id for item in registered_ones if item.readings is None]
        # no window is read for these, so nothing would tell that a remembered topology has changed
        of_caller = [item.equipment_id for item in registered_ones if item.readings is not None]
        registered = await self._machines.remembered_of(of_store) | await self._machines.topologies(
            of_caller
        )
        now = self._now()
        outcomes: list[Outcome | None] = []
        entered: list[asyncio.Future[bytes]] = []
        for request in requests:
            known = registered.get(request.equipment_id) if request.equipment is None else None
            if isinstance(known, HydraulicDiagnosticsError):
                outcomes.append(known)
                continue
            try:
                resolved = _traced(resolve(request, known, now))
                order = self._order(resolved)
            except HydraulicDiagnosticsError as error:
                outcomes.append(error)
                continue
            except Exception as error:
                logger.exception("item not resolved", extra={"equipment_id": request.equipment_id})
                outcomes.append(error)
                continue
            kept = (
                None
                if resolved.inline is not None
                else self._answers.kept(_key_of(resolved, order))
            )
            outcomes.append(kept)
            if kept is None:
                door = self._doors.to(_Kind(order[0], request.explain))
                entered.append(door.enter(resolved, resolved.weight, bulk=True))
        try:
            answered = iter(await asyncio.gather(*entered, return_exceptions=True))
        finally:
            for future in entered:
                future.cancel()  # of a caller that left; the others are done
        return [_outcome(next(answered)) if outcome is None else outcome for outcome in outcomes]

    async def _enter(self, resolved: Resolved) -> bytes:
        """Wait for an answer with those who wait anyway, or take one that is there."""
        order = self._order(resolved)
        door = self._doors.to(_Kind(order[0], resolved.request.explain))
        if resolved.inline is not None:
            return await door.enter(resolved, resolved.weight)
        return await self._answers.get(
            _key_of(resolved, order),
            resolved.equipment.grid_s,
            lambda: door.enter(resolved, resolved.weight),
        )

    def _order(self, resolved: Resolved) -> tuple[str, ...]:
        releases = self._versions.order(
            resolved.equipment.equipment_id, resolved.request.model_version
        )
        return tuple([release.version for release in releases])

    def _work_of(self, kind: Hashable) -> "Work[Resolved, bytes]":
        assert isinstance(kind, _Kind)

        async def work(items: Sequence[Resolved]) -> list[Outcome]:
            callers = [item.asked_by for item in items]
            with tracing.batch_span(
                "diagnose", callers, version=kind.version, explain=kind.explain, windows=len(items)
            ):
                return await self._answer_together(kind, items)

        return work

    async def _answer_together(self, kind: _Kind, items: Sequence[Resolved]) -> list[Outcome]:
        """Do a batch's work: one statement, one call to the builders, one to the model."""
        now = self._now()
        outcomes: list[Outcome] = []
        ready: dict[int, WindowToScore] = {}
        newest_s: dict[int, float | None] = {}
        items, windows = await self._source.read(items, now)
        for position, (item, found) in enumerate(zip(items, windows, strict=True)):
            if isinstance(found, HydraulicDiagnosticsError):
                outcomes.append(found)
                continue
            outcomes.append(RuntimeError("not answered yet"))
            newest_s[position] = age_s(found, now)
            ready[position] = WindowToScore(
                WindowInput(item.equipment, found), item.request.model_version, kind.explain
            )
        scored = await self._versions.score(list(ready.values()))
        for position, outcome in zip(ready, scored, strict=True):
            if not isinstance(outcome, Scored):
                outcomes[position] = outcome
                continue
            try:
                made = self._conclude(items[position], outcome, newest_s[position], now)
                outcomes[position] = made.body
                self._show(ready[position], outcome, made)
            except Exception as error:
                logger.exception(
                    "diagnosis not made",
                    extra={"equipment_id": items[position].equipment.equipment_id},
                )
                outcomes[position] = error
        return outcomes

    def _conclude(
        self, resolved: Resolved, scored: Scored, stale_s: float | None, now: datetime
    ) -> _Concluded:
        equipment = resolved.equipment
        inline = resolved.inline is not None
        context = DiagnosisContext(
            diagnosis_id=secrets.token_hex(16),
            created_at=now,
            window=interval_of(resolved.bins, equipment),
            source="inline" if inline else "store",
            stale_s=stale_s,
            fallback=scored.fallback,
            input_digest=scored.input_digest,
        )
        live = not inline and resolved.request.model_version is None
        previous = self._previous(equipment.equipment_id, context.window.end) if live else None
        told = build_diagnosis(
            equipment,
            context,
            scored.scores,
            scored.summary,
            scored.decoder,
            self._thresholds,
            previous or {},
        )
        body = as_json(told)
        if previous is not None:
            states = {item["component_id"]: item["state"] for item in told["components"]}
            self._states[equipment.equipment_id] = _Stood(context.window.end, previous, states)
            self._states.move_to_end(equipment.equipment_id)
            if len(self._states) > MAX_REMEMBERED_STATES:
                self._states.popitem(last=False)
        self._journal.add(row_of(told, body))
        self._metrics.note_diagnosis(
            told["model_version"], told["status"], fallback=scored.fallback
        )
        return _Concluded(body, told, context, previous or {})

    def _show(self, asked: WindowToScore, scored: Scored, made: _Concluded) -> None:
        """Give the shadows what the version that traffic chose has told; what was forced or stood in for compares nothing."""
        if (
            not self._versions.traffic.shadows
            or asked.forced_version is not None
            or scored.fallback
        ):
            return
        try:
            self._shadows.offer(
                PrimaryResult(
                    asked.window,
                    made.context,
                    made.previous,
                    self._thresholds,
                    Diagnosis.model_validate(made.fields),
                    scored.seconds,
                )
            )
        except Exception:  # the caller has its answer
            logger.exception("copy not made", extra={"equipment_id": made.fields["equipment_id"]})

    def _previous(self, equipment_id: str, window_end: datetime) -> Mapping[str, State] | None:
        """Return how the machine stood before this window; None when a newer one was diagnosed already."""
        stood = self._states.get(equipment_id)
        if stood is None:
            return {}
        if window_end == stood.window_end:
            return stood.before
        return stood.states if window_end > stood.window_end else None

    async def stored_diagnosis(self, diagnosis_id: str) -> bytes:
        """Return a diagnosis as JSON, also one that still waits to be stored.

        Raises:
            UnknownDiagnosis: there is none of this id.
        """
        waiting = self._journal.waiting(diagnosis_id)
        if waiting is not None:
            return waiting.body.encode()
        body = await self._store.get_diagnosis(diagnosis_id)
        if body is None:
            raise UnknownDiagnosis(
                f"expected the id of a stored diagnosis, found {shown(diagnosis_id)}: list a machine's with "
                "GET /v1/equipment/{equipment_id}/diagnoses",
                "diagnosis_id",
            )
        return body

    async def history(
        self, equipment_id: str, interval: tuple[datetime | None, datetime | None], limit: int
    ) -> Sequence[bytes]:
        """Return a machine's diagnoses whose window ends in the interval, as JSON, newest first."""
        await self._machines.topology(equipment_id)
        await self._journal.flush()
        return await self._store.diagnosis_history(equipment_id, *interval, limit)


def _key_of(resolved: Resolved, order: tuple[str, ...]) -> ResponseKey:
    equipment, request = resolved.equipment, resolved.request
    return ResponseKey(
        equipment_id=equipment.equipment_id,
        revision=equipment.revision,
        first_bin=resolved.bins.first,
        versions=order,
        forced=request.model_version is not None,
        explain=request.explain,
    )


def _traced(resolved: Resolved) -> Resolved:
    """Return a request with its caller's span, which its batch is told of."""
    caller = tracing.current_span()
    return resolved if caller is None else replace(resolved, asked_by=caller)


def _outcomes(task: asyncio.Task[list[Outcome]], count: int) -> list[Outcome]:
    """Return what became of a group; an error that nobody expected becomes the error of each of its items."""
    try:
        return task.result()
    except Exception as error:
        logger.exception("group of a batch failed", extra={"items": count})
        return [error] * count


def _outcome(found: bytes | BaseException) -> Outcome:
    if isinstance(found, asyncio.CancelledError):
        return ModelUnavailable("expected an answer, found its work cancelled: ask again")
    if isinstance(found, BaseException) and not isinstance(found, Exception):
        raise found
    return found
