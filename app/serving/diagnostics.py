"""Requests to diagnoses: machine, window, scores, answer and journal, for one request or thousands.

The decisions are in `windows`, `released` and `app.diagnose`; this is the way between them.
Invariant: an item of a batch that can't be answered yields its error and disturbs no other.
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json

from app.diagnose import MAX_EXPLAINED_SENSORS, Occasion, diagnose, too_large_to_explain
from app.errors import (
    HydraulicDiagnosticsError,
    InputError,
    LimitExceeded,
    ModelUnavailable,
    StoreError,
    UnknownDiagnosis,
    WindowError,
)
from app.evidence import Thresholds
from app.features import Floats
from app.schemas.diagnosis import MAX_BATCH_ITEMS, Diagnosis, DiagnosisRequest, State
from app.schemas.equipment import Equipment
from app.schemas.places import shown
from app.schemas.topology import parse_equipment
from app.serving.journal import Journal
from app.serving.machines import Machines
from app.serving.messages import WindowInput
from app.serving.metrics import Metrics
from app.serving.released import ReleasedVersions, Scored, WindowToScore
from app.serving.windows import Bins, inline_window, interval_of, window_before
from app.store.store import Store
from app.store.windows import StoredWindow

logger = logging.getLogger(__name__)

WINDOWS_AT_ONCE = 32
BATCHES_AT_ONCE = 2
MAX_REMEMBERED_STATES = 50_000


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A request whose machine and window are known; `inline` holds its readings when they came with it."""

    request: DiagnosisRequest
    equipment: Equipment
    bins: Bins
    inline: Floats | None


class _Stood(NamedTuple):
    """How a machine's components stood in its newest window, and before it: the same window asked again says the same."""

    window_end: datetime
    before: Mapping[str, State]
    states: Mapping[str, State]


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
        machines: Machines,
        versions: ReleasedVersions,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._machines = machines
        self._versions = versions
        self._metrics = metrics
        self._now = now
        self._thresholds = Thresholds()
        self._journal = Journal(store.insert_diagnoses, metrics)
        self._states: OrderedDict[str, _Stood] = OrderedDict()

    def start(self) -> None:
        """Begin to write diagnoses to the store, in the running event loop."""
        self._journal.start()

    async def close(self) -> None:
        """Write what waits."""
        await self._journal.close()

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Change states and abstention for the diagnoses from now on."""
        self._thresholds = thresholds

    async def diagnose(self, request: DiagnosisRequest) -> Diagnosis:
        """Answer one request.

        Raises:
            HydraulicDiagnosticsError: it can't be answered, and why.
        """
        try:
            outcome = (await self._diagnose_together([request]))[0]
        except ValidationError as error:
            raise _of_our_own(error) from error
        if isinstance(outcome, Diagnosis):
            return outcome
        raise outcome

    def batch_items(self, body: bytes) -> list[DiagnosisRequest | Exception]:
        """Take a batch's body apart; an item that can't be used becomes its error.

        Raises:
            InputError: the body as a whole is no batch.
            LimitExceeded: it has more items than a batch may have.
        """
        try:
            document = from_json(body)
        except ValueError as error:
            raise InputError(f"expected JSON, found text that does not parse: {error}") from error
        items = document.get("items") if isinstance(document, dict) and set(document) == {"items"} else None
        if not isinstance(items, list) or not items:
            raise InputError(
                f"expected an object with a list `items` and nothing else, found {shown(document)}", "items"
            )
        if len(items) > MAX_BATCH_ITEMS:
            raise LimitExceeded(
                f"expected at most {MAX_BATCH_ITEMS} items, found {len(items)}: send several batches", "items"
            )
        return [_request_of(item) for item in items]

    async def diagnose_many(
        self, items: Sequence[DiagnosisRequest | Exception]
    ) -> AsyncIterator[tuple[int, Diagnosis | Exception]]:
        """Answer many requests; (index, outcome) as each is ready, a few batches at a time."""
        for index, item in enumerate(items):
            if isinstance(item, Exception):
                yield index, item
        requests = [(index, item) for index, item in enumerate(items) if isinstance(item, DiagnosisRequest)]
        groups = [requests[start : start + WINDOWS_AT_ONCE] for start in range(0, len(requests), WINDOWS_AT_ONCE)]
        waiting = iter(groups)
        running: dict[asyncio.Task[list[Diagnosis | Exception]], list[tuple[int, DiagnosisRequest]]] = {}
        try:
            while True:
                while len(running) < BATCHES_AT_ONCE and (group := next(waiting, None)) is not None:
                    running[asyncio.create_task(self._diagnose_together([item for _, item in group]))] = group
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    group = running.pop(task)
                    for (index, _), outcome in zip(group, _outcomes(task, len(group)), strict=True):
                        yield index, outcome
        finally:
            for task in running:
                task.cancel()

    async def _diagnose_together(self, requests: Sequence[DiagnosisRequest]) -> list[Diagnosis | Exception]:
        outcomes: list[Diagnosis | Exception] = [ModelUnavailable("not answered yet")] * len(requests)
        now = self._now()
        topologies = await self._topologies(requests)
        resolved: dict[int, _Resolved] = {}
        for position, request in enumerate(requests):
            try:
                resolved[position] = _resolve(request, topologies, now)
            except HydraulicDiagnosticsError as error:
                outcomes[position] = error
        ready: dict[int, WindowToScore] = {}
        newest_s: dict[int, float | None] = {}
        for position, found in (await self._windows(resolved)).items():
            if isinstance(found, HydraulicDiagnosticsError):
                outcomes[position] = found
                continue
            request = requests[position]
            newest_s[position] = _age_s(found, now)
            ready[position] = WindowToScore(
                WindowInput(resolved[position].equipment, found), request.model_version, request.explain
            )
        scored = await self._versions.score(list(ready.values()))
        for position, outcome in zip(ready, scored, strict=True):
            if not isinstance(outcome, Scored):
                outcomes[position] = outcome
                continue
            try:
                outcomes[position] = self._conclude(resolved[position], outcome, newest_s[position], now)
            except ValidationError as error:
                outcomes[position] = _of_our_own(error)
        return outcomes

    async def _topologies(
        self, requests: Sequence[DiagnosisRequest]
    ) -> dict[str, Equipment | HydraulicDiagnosticsError]:
        """Find each registered machine that is asked about, once and all at the same time."""
        equipment_ids = list(dict.fromkeys(item.equipment_id for item in requests if item.equipment is None))

        async def find(equipment_id: str) -> Equipment | HydraulicDiagnosticsError:
            try:
                return await self._machines.topology(equipment_id)
            except HydraulicDiagnosticsError as error:
                return error

        found = await asyncio.gather(*(find(equipment_id) for equipment_id in equipment_ids))
        return dict(zip(equipment_ids, found, strict=True))

    async def _windows(
        self, resolved: Mapping[int, _Resolved]
    ) -> dict[int, StoredWindow | Floats | HydraulicDiagnosticsError]:
        found: dict[int, StoredWindow | Floats | HydraulicDiagnosticsError] = {
            position: item.inline for position, item in resolved.items() if item.inline is not None
        }
        stored = [position for position, item in resolved.items() if item.inline is None]
        if not stored:
            return found
        started = time.perf_counter()
        try:
            windows = await self._store.read_windows(
                [(resolved[position].equipment.equipment_id, *resolved[position].bins) for position in stored]
            )
        except StoreError as error:
            return {**found, **dict.fromkeys(stored, error)}
        self._metrics.stage_seconds.labels("fetch").observe(time.perf_counter() - started)
        for position, window in zip(stored, windows, strict=True):
            found[position] = window if window.count else _empty(resolved[position])
        return found

    def _conclude(self, resolved: _Resolved, scored: Scored, stale_s: float | None, now: datetime) -> Diagnosis:
        equipment = resolved.equipment
        inline = resolved.inline is not None
        occasion = Occasion(
            diagnosis_id=uuid.uuid4().hex,
            created_at=now,
            window=interval_of(resolved.bins, equipment),
            source="inline" if inline else "store",
            stale_s=stale_s,
            fallback=scored.fallback,
        )
        live = not inline and resolved.request.model_version is None
        previous = self._previous(equipment.equipment_id, occasion.window.end) if live else None
        diagnosis = diagnose(
            equipment, occasion, scored.scores, scored.summary, scored.knowledge, self._thresholds, previous or {}
        )
        if previous is not None:
            states = {item.component_id: item.state for item in diagnosis.components}
            self._states[equipment.equipment_id] = _Stood(occasion.window.end, previous, states)
            self._states.move_to_end(equipment.equipment_id)
            if len(self._states) > MAX_REMEMBERED_STATES:
                self._states.popitem(last=False)
        self._journal.add(diagnosis)
        self._metrics.diagnoses.labels(diagnosis.model_version, diagnosis.status, str(diagnosis.fallback).lower()).inc()
        return diagnosis

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
            return waiting.model_dump_json().encode()
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


def _resolve(
    request: DiagnosisRequest, topologies: Mapping[str, Equipment | HydraulicDiagnosticsError], now: datetime
) -> _Resolved:
    if request.equipment is not None:
        equipment = _inline_equipment(request, request.equipment)
    else:
        found = topologies[request.equipment_id]
        if isinstance(found, HydraulicDiagnosticsError):
            raise found
        equipment = found
    if request.explain and len(equipment.sensors) > MAX_EXPLAINED_SENSORS:
        raise too_large_to_explain(len(equipment.sensors))
    if request.readings is None:
        return _Resolved(request, equipment, window_before(equipment, request.at, now), None)
    if request.at is not None:
        raise InputError("expected either `at` or `readings`, found both: leave one out", "at")
    bins, values_SN = inline_window(equipment, request.readings, now)
    return _Resolved(request, equipment, bins, values_SN)


def _inline_equipment(request: DiagnosisRequest, topology: Mapping[str, Any]) -> Equipment:
    if request.readings is None:
        raise InputError("expected `readings` beside an inline `equipment`, found none: add them", "readings")
    equipment = parse_equipment({"equipment_id": request.equipment_id, **topology}, "equipment")
    if equipment.equipment_id != request.equipment_id:
        raise InputError(
            f"expected equipment.equipment_id '{request.equipment_id}', found '{equipment.equipment_id}': make them equal",
            "equipment.equipment_id",
        )
    return equipment


def _outcomes(task: asyncio.Task[list[Diagnosis | Exception]], count: int) -> list[Diagnosis | Exception]:
    """Return what became of a group; an error that nobody expected becomes the error of each of its items."""
    try:
        return task.result()
    except Exception as error:
        logger.exception("group of a batch failed", extra={"items": count})
        return [_of_our_own(error) if isinstance(error, ValidationError) else error] * count


def _of_our_own(error: ValidationError) -> RuntimeError:
    """Keep what we made ourselves, and is not as its schema says, from being told as the caller's mistake."""
    logger.error("schema not kept", extra={"reason": str(error)})
    return RuntimeError(f"expected our own {error.title} to be as its schema says, found {error.error_count()} errors")


def _request_of(item: object) -> DiagnosisRequest | Exception:
    try:
        return DiagnosisRequest.model_validate(item)
    except ValidationError as error:
        return error


def _age_s(readings: StoredWindow | Floats, now: datetime) -> float | None:
    if not isinstance(readings, StoredWindow) or readings.newest is None:
        return None
    return max(0.0, (now - readings.newest).total_seconds())


def _empty(resolved: _Resolved) -> WindowError:
    window = interval_of(resolved.bins, resolved.equipment)
    return WindowError(
        f"expected readings of '{resolved.equipment.equipment_id}' in [{window.start.isoformat()}, {window.end.isoformat()}), "
        "found none: post readings, or give `at` where there are some",
        "at",
    )
