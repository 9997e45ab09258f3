"""Requests to diagnoses: machine, window, scores, answer and journal, for one request or thousands.

The decisions are in `windows`, `released` and `app.diagnose`; this is the way between them.
Invariant: an item of a batch that can't be answered yields its error and disturbs no other.
"""

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError
from pydantic_core import from_json

from app.diagnose import Occasion, Thresholds, diagnose
from app.errors import (
    HydraulicDiagnosticsError,
    InputError,
    LimitExceeded,
    ModelUnavailable,
    StoreError,
    UnknownDiagnosis,
    WindowError,
)
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
        self._states: OrderedDict[str, dict[str, State]] = OrderedDict()

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
        outcome = (await self._diagnose_together([request]))[0]
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
        running: dict[
            asyncio.Task[list[Diagnosis | HydraulicDiagnosticsError]], list[tuple[int, DiagnosisRequest]]
        ] = {}
        try:
            while True:
                while len(running) < BATCHES_AT_ONCE and (group := next(waiting, None)) is not None:
                    running[asyncio.create_task(self._diagnose_together([item for _, item in group]))] = group
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    group = running.pop(task)
                    for (index, _), outcome in zip(group, task.result(), strict=True):
                        yield index, outcome
        finally:
            for task in running:
                task.cancel()

    async def _diagnose_together(
        self, requests: Sequence[DiagnosisRequest]
    ) -> list[Diagnosis | HydraulicDiagnosticsError]:
        outcomes: list[Diagnosis | HydraulicDiagnosticsError] = [ModelUnavailable("not answered yet")] * len(requests)
        now = self._now()
        resolved: dict[int, _Resolved] = {}
        for position, request in enumerate(requests):
            try:
                resolved[position] = await self._resolve(request, now)
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
            if isinstance(outcome, Scored):
                outcomes[position] = self._conclude(resolved[position], outcome, newest_s[position], now)
            else:
                outcomes[position] = outcome
        return outcomes

    async def _resolve(self, request: DiagnosisRequest, now: datetime) -> _Resolved:
        if request.equipment is not None:
            if request.readings is None:
                raise InputError("expected `readings` beside an inline `equipment`, found none: add them", "readings")
            equipment = parse_equipment({"equipment_id": request.equipment_id, **request.equipment}, "equipment")
            if equipment.equipment_id != request.equipment_id:
                raise InputError(
                    f"expected equipment.equipment_id '{request.equipment_id}', found '{equipment.equipment_id}': make them "
                    "equal",
                    "equipment.equipment_id",
                )
        else:
            equipment = await self._machines.topology(request.equipment_id)
        if request.readings is None:
            return _Resolved(request, equipment, window_before(equipment, request.at, now), None)
        if request.at is not None:
            raise InputError("expected either `at` or `readings`, found both: leave one out", "at")
        bins, values_SN = inline_window(equipment, request.readings, now)
        return _Resolved(request, equipment, bins, values_SN)

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
        previous = {} if inline else self._states.get(equipment.equipment_id, {})
        diagnosis = diagnose(
            equipment, occasion, scored.scores, scored.summary, scored.knowledge, self._thresholds, previous
        )
        if not inline:
            self._states[equipment.equipment_id] = {item.component_id: item.state for item in diagnosis.components}
            self._states.move_to_end(equipment.equipment_id)
            if len(self._states) > MAX_REMEMBERED_STATES:
                self._states.popitem(last=False)
        self._journal.add(diagnosis)
        self._metrics.diagnoses.labels(diagnosis.model_version, diagnosis.status, str(diagnosis.fallback).lower()).inc()
        return diagnosis

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
