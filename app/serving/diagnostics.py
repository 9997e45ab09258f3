"""What the service does, behind HTTP and in front of the store and the other deployments.

It holds one replica's connections and small caches; the decisions are in `windows`, `released`, `traffic` and
`app.diagnose`. Invariant: an item of a batch that can't be answered yields its error and disturbs no other.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from app.diagnose import Occasion, Thresholds, diagnose
from app.errors import (
    HydraulicDiagnosticsError,
    InputError,
    LimitExceeded,
    ModelUnavailable,
    StoreError,
    UnknownDiagnosis,
    UnknownEquipment,
    WindowError,
)
from app.features import Floats
from app.schemas.diagnosis import MAX_BATCH_ITEMS, Diagnosis, DiagnosisRequest, State
from app.schemas.equipment import Equipment
from app.schemas.places import shown
from app.schemas.readings import IngestAnswer
from app.schemas.topology import Finding, lint, parse_equipment, read_equipment
from app.serving.auth import Authenticator
from app.serving.ingest import parse_readings
from app.serving.journal import Journal
from app.serving.messages import WindowInput
from app.serving.metrics import Metrics
from app.serving.released import ReleasedVersions, Scored, WindowToScore
from app.serving.traffic import order_of_versions
from app.serving.windows import Bins, inline_window, interval_of, window_before
from app.store.readings import Ingested, Readings
from app.store.store import Store
from app.store.windows import StoredWindow

logger = logging.getLogger(__name__)

WINDOWS_AT_ONCE = 32
BATCHES_AT_ONCE = 2
TOPOLOGY_CACHE_S = 5.0
MAX_REMEMBERED = 50_000


class PutAnswer(BaseModel):
    """What became of a topology: whether it is new, its revision, and the linter's warnings."""

    model_config = ConfigDict(frozen=True)

    equipment_id: str
    created: bool
    revision: str
    findings: tuple[Finding, ...]


class EquipmentSummary(BaseModel):
    """A registered machine in a list: who it is and how large, without its topology."""

    model_config = ConfigDict(frozen=True)

    equipment_id: str
    name: str
    design: str
    components: int
    sensors: int
    revision: str
    registered_at: datetime
    updated_at: datetime


class Readiness(BaseModel):
    """Whether the database and each released version really answered just now."""

    model_config = ConfigDict(frozen=True)

    ready: bool
    database: bool
    versions: Mapping[str, bool]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A request whose machine and window are known; `inline` holds its readings when they came with it."""

    request: DiagnosisRequest
    equipment: Equipment
    bins: Bins
    inline: Floats | None


class _Remembered(NamedTuple):
    at: float
    equipment: Equipment | None


class Diagnostics:
    """One replica's service.

    Args:
        store: the database; may be away.
        versions: the released versions.
        authenticator: checks keys.
        metrics: of this replica.
        prepare: brings the store to what the service needs (schema, declared machines, a first key); tried until it works.
        now: UTC clock.
    """

    def __init__(
        self,
        store: Store,
        versions: ReleasedVersions,
        authenticator: Authenticator,
        metrics: Metrics,
        prepare: Callable[[], Awaitable[None]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.authenticator = authenticator
        self.metrics = metrics
        self._store = store
        self._versions = versions
        self._thresholds = Thresholds()
        self._prepare = prepare
        self._now = now
        self._journal = Journal(store.insert_diagnoses, metrics)
        self._topologies: OrderedDict[str, _Remembered] = OrderedDict()
        self._states: OrderedDict[str, dict[str, State]] = OrderedDict()
        self._preparing: asyncio.Task[None] | None = None
        self.config_error: str | None = None

    async def start(self) -> None:
        """Begin the background work, in the running event loop."""
        self._journal.start()
        self._preparing = asyncio.create_task(self._prepare_until_done())

    async def close(self) -> None:
        """Write what waits and close the connections."""
        if self._preparing is not None:
            self._preparing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._preparing
        await self._journal.close()
        await self._store.close()

    async def _prepare_until_done(self) -> None:
        pause_s = 0.5
        while True:
            try:
                await self._prepare()
            except (StoreError, OSError) as error:
                logger.warning("store not ready, trying again", extra={"reason": str(error)})
                await asyncio.sleep(pause_s)
                pause_s = min(10.0, 2 * pause_s)
            else:
                return

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Change states and abstention for the diagnoses from now on."""
        self._thresholds = thresholds

    # Equipment and readings

    async def put_equipment(self, equipment_id: str, body: bytes) -> PutAnswer:
        """Register a topology.

        Raises:
            TopologyError: the linter found errors.
            InputError: the body is of another equipment than the path.
        """
        equipment = read_equipment(body, "the body")
        if equipment.equipment_id != equipment_id:
            raise InputError(
                f"expected equipment_id '{equipment_id}' as in the path, found '{equipment.equipment_id}': make them equal",
                "equipment_id",
            )
        result = await self._store.put_equipment(equipment)
        self._remember(equipment_id, equipment)
        return PutAnswer(
            equipment_id=equipment_id,
            created=result.created,
            revision=equipment.revision,
            findings=tuple(finding for finding in lint(equipment) if finding.severity == "warning"),
        )

    async def equipment(self) -> list[EquipmentSummary]:
        """List the registered machines."""
        return [
            EquipmentSummary(
                equipment_id=record.equipment.equipment_id,
                name=record.equipment.name,
                design=record.equipment.design,
                components=len(record.equipment.components),
                sensors=len(record.equipment.sensors),
                revision=record.revision,
                registered_at=record.registered_at,
                updated_at=record.updated_at,
            )
            for record in await self._store.list_equipment()
        ]

    async def topology(self, equipment_id: str) -> Equipment:
        """Return a registered machine's topology.

        Raises:
            UnknownEquipment: it is not registered.
        """
        equipment = await self._find(equipment_id)
        if equipment is None:
            raise UnknownEquipment(equipment_id)
        return equipment

    async def ingest(self, body: bytes, content_type: str) -> IngestAnswer:
        """Store a body of readings; what is acknowledged is committed."""
        parsed = await parse_readings(body, content_type, self._find, self._now())
        blocks = [
            Readings(equipment_id, columns.sensor_ids, columns.times_us, columns.values)
            for equipment_id, columns in parsed.columns.items()
        ]
        result = await self._store.ingest_many(blocks) if blocks else Ingested(0, 0)
        self.metrics.readings.labels("accepted").inc(result.accepted)
        self.metrics.readings.labels("duplicate").inc(result.duplicates)
        self.metrics.readings.labels("rejected").inc(len(parsed.rejected))
        return IngestAnswer(accepted=result.accepted, duplicates=result.duplicates, rejected=parsed.rejected)

    async def _find(self, equipment_id: str) -> Equipment | None:
        known = self._topologies.get(equipment_id)
        if known is not None and time.monotonic() - known.at < TOPOLOGY_CACHE_S:
            return known.equipment
        try:
            record = await self._store.get_equipment(equipment_id)
        except StoreError:
            if known is not None and known.equipment is not None:
                return known.equipment
            raise
        equipment = None if record is None else record.equipment
        self._remember(equipment_id, equipment)
        return equipment

    def _remember(self, equipment_id: str, equipment: Equipment | None) -> None:
        self._topologies[equipment_id] = _Remembered(time.monotonic(), equipment)
        self._topologies.move_to_end(equipment_id)
        while len(self._topologies) > MAX_REMEMBERED:
            self._topologies.popitem(last=False)

    # Diagnoses

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
            equipment = await self.topology(request.equipment_id)
        if request.readings is None:
            return _Resolved(request, equipment, window_before(equipment, request.at, now), None)
        if request.at is not None:
            raise InputError("expected either `at` or `readings`, found both: leave one out", "at")
        bins, values_SN = inline_window(equipment, request.readings, now)
        return _Resolved(request, equipment, bins, values_SN)

    async def _windows(
        self, resolved: Mapping[int, _Resolved]
    ) -> dict[int, StoredWindow | Floats | HydraulicDiagnosticsError]:
        found: dict[int, Any] = {
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
        self.metrics.stage_seconds.labels("fetch").observe(time.perf_counter() - started)
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
            if len(self._states) > MAX_REMEMBERED:
                self._states.popitem(last=False)
        self._journal.add(diagnosis)
        self.metrics.diagnoses.labels(diagnosis.model_version, diagnosis.status, str(diagnosis.fallback).lower()).inc()
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
        await self.topology(equipment_id)
        await self._journal.flush()
        return await self._store.diagnosis_history(equipment_id, *interval, limit)

    # Releases and health

    async def models(self) -> list[dict[str, Any]]:
        """Return every released version's card, weight and circuit."""
        listed = []
        for release in self._versions.traffic.releases:
            entry: dict[str, Any] = {
                "version": release.version,
                "application": release.application,
                "weight": release.weight,
                "circuit": "open" if self._versions.circuit_is_open(release.version) else "closed",
            }
            try:
                version = await self._versions.version(release)
            except ModelUnavailable as error:
                entry |= {"available": False, "reason": str(error)}
            else:
                entry |= {"available": True, "device": version.description.device}
                entry["checkpoint"] = version.card.model_dump(mode="json")
            listed.append(entry)
        return listed

    def traffic_report(self, equipment_id: str | None) -> dict[str, Any]:
        """Return releases and weights, and with an equipment id the version that answers for it."""
        traffic = self._versions.traffic
        report: dict[str, Any] = {"releases": [release.model_dump(mode="json") for release in traffic.releases]}
        if equipment_id is not None:
            report["equipment_id"] = equipment_id
            report["version"] = order_of_versions(equipment_id, traffic)[0].version
        return report

    async def readiness(self) -> Readiness:
        """Ask the database and every released version with weight."""
        reasons = []
        try:
            await self._store.ping()
            database = self._preparing is not None and self._preparing.done()
            if not database:
                reasons.append("database: still being prepared")
        except StoreError as error:
            database = False
            reasons.append(f"database: {error}")
        if self.config_error is not None:
            reasons.append(self.config_error)
        answers = {}
        try:
            releases = self._versions.traffic.releases
        except ModelUnavailable as error:
            releases = ()
            reasons.append(str(error))
        for release in releases:
            if release.weight > 0:
                try:
                    await self._versions.probe(release)
                    answers[release.version] = True
                except ModelUnavailable as error:
                    answers[release.version] = False
                    reasons.append(f"version {release.version}: {error}")
        return Readiness(
            ready=database and any(answers.values()), database=database, versions=answers, reasons=tuple(reasons)
        )


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
