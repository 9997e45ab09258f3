"""The work of one micro-batch: reads windows, has them scored, makes diagnoses and queues them.

One SQL statement, one call to the graph builders and one to the model carry all windows of the
batch. A window that can't be diagnosed yields its error and does not affect the others.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import orjson
from cachetools import LRUCache
from opentelemetry.trace import SpanContext

from app.core.errors import (
    HydraulicDiagnosticsError,
    StoreError,
    UnknownEquipment,
    WindowError,
)
from app.diagnosis.build import DiagnosisContext, build_diagnosis
from app.diagnosis.input_quality import MAX_NAMED, Thresholds
from app.diagnosis.machine_trends import WindowTrends
from app.diagnosis.pipeline import WindowInput, row_of
from app.features.binning import Floats
from app.schemas.diagnosis import State
from app.schemas.places import some_of
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.shadows import PrimaryResult, Shadows
from app.serving.ingress.traffic import Release, machine_of
from app.serving.ingress.trends import Trends
from app.serving.ingress.version_router import RoutedWindow, Scored, VersionRouter
from app.serving.ingress.windows import Resolved, interval_of, resolve
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.observability import tracing
from app.serving.observability.metrics import Metrics
from app.store.baselines import StoredBaseline
from app.store.diagnoses import StoredDiagnosis
from app.store.store import Store
from app.store.windows import StoredWindow

logger = logging.getLogger(__name__)

MAX_STATES = 50_000
"""Machines whose last states are kept."""

Outcome = bytes | Exception
"""A diagnosis as JSON, or the reason for none."""
Readings = StoredWindow | Floats


class BatchItem(NamedTuple):
    """A request of a batch.

    Args:
        resolved: its machine and window.
        releases: the release that answers, then its fallbacks.
        caller: span of the request, if it is traced.
    """

    resolved: Resolved
    releases: tuple[Release, ...]
    caller: SpanContext | None = None


class StateSnapshot(NamedTuple):
    """States of a machine's components in its newest window, and before that window.

    Both are kept so that the same window requested again gets the same states.
    """

    window_end: datetime
    before: Mapping[str, State]
    states: Mapping[str, State]


@dataclass(frozen=True, slots=True)
class DiagnosisParts:
    """The parts of a replica that diagnoses are made with.

    Args:
        store: the database; may be away.
        registry: finds topologies.
        router: the released versions.
        metrics: of this replica.
        now: UTC clock.
    """

    store: Store
    registry: EquipmentRegistry
    router: VersionRouter
    metrics: Metrics
    now: Callable[[], datetime]


class BatchDiagnosis:
    """Diagnoses the requests of micro-batches.

    Args:
        parts: of the replica.
        write_queue: stores diagnoses after they were returned.
        shadows: get copies of what was returned.
    """

    def __init__(
        self,
        parts: DiagnosisParts,
        write_queue: WriteBehindQueue[StoredDiagnosis],
        shadows: Shadows,
    ) -> None:
        self._parts = parts
        self._write_queue = write_queue
        self._shadows = shadows
        self.trends = Trends(parts.store)
        self._states: LRUCache[str, StateSnapshot] = LRUCache(MAX_STATES)
        self.thresholds = Thresholds()

    async def diagnose(self, items: Sequence[BatchItem], *, explain: bool) -> list[Outcome]:
        """Diagnose the windows of a batch.

        Args:
            items: requests of any machines.
            explain: whether to work out the evidence of each sensor.

        Returns:
            An outcome for each item, in order.
        """
        now = self._parts.now()
        outcomes: dict[int, Outcome] = {}
        routed: dict[int, RoutedWindow] = {}
        resolved = [item.resolved for item in items]
        # histories are read beside the windows, of which a changed topology may move some
        (requests, readings), trends = await asyncio.gather(
            self._read(resolved, now), self.trends.of(_ends(resolved))
        )
        for position, window in enumerate(await self._with_baselines(requests, readings)):
            if isinstance(window, HydraulicDiagnosticsError):
                outcomes[position] = window
            else:
                try:
                    releases = self._releases_of(items[position], requests[position])
                    routed[position] = RoutedWindow(window, releases)
                except HydraulicDiagnosticsError as error:
                    outcomes[position] = error
        scored = await self._parts.router.score(list(routed.values()), explain=explain)
        for (position, item), outcome in zip(routed.items(), scored, strict=True):
            if not isinstance(outcome, Scored):
                outcomes[position] = outcome
                continue
            try:
                outcomes[position] = self._conclude(
                    requests[position], item.window, outcome, now, trends
                )
            except Exception as error:
                logger.exception(
                    "diagnosis not made",
                    extra={"equipment_id": requests[position].equipment.equipment_id},
                )
                outcomes[position] = error
        return [outcomes[position] for position in range(len(items))]

    def _releases_of(self, item: BatchItem, request: Resolved) -> tuple[Release, ...]:
        """Return the releases that were chosen, or others if the design has changed since.

        Raises:
            HydraulicDiagnosticsError: the requested version can't serve the new design.
        """
        if request.equipment.design == item.resolved.equipment.design:
            return item.releases
        return self._parts.router.releases_for(
            machine_of(request.equipment), request.request.model_version
        )

    async def _read(
        self, requests: Sequence[Resolved], now: datetime
    ) -> tuple[Sequence[Resolved], list[Readings | HydraulicDiagnosticsError]]:
        """Read the windows of requests.

        A stored window comes with the revision of the topology that is registered when it is read.
        A request that was resolved by another revision is resolved and read again.

        Returns:
            The requests, and the readings of each or its error.
        """
        windows = await self._read_once(requests)
        changed = [
            position
            for position, window in enumerate(windows)
            if isinstance(window, StoredWindow)
            and window.revision != requests[position].equipment.revision
        ]
        if not changed:
            return requests, windows
        registered = await self._parts.registry.renew(
            [requests[position].equipment.equipment_id for position in changed]
        )
        resolved = list(requests)
        again: list[int] = []
        for position in changed:
            equipment = registered[requests[position].equipment.equipment_id]
            if isinstance(equipment, HydraulicDiagnosticsError):
                windows[position] = equipment
                continue
            try:
                resolved[position] = resolve(requests[position].request, equipment, now)
                again.append(position)
            except HydraulicDiagnosticsError as error:
                windows[position] = error
        found = await self._read_once([resolved[position] for position in again])
        for position, window in zip(again, found, strict=True):
            is_empty = isinstance(window, StoredWindow) and not window.count
            windows[position] = _no_readings(resolved[position]) if is_empty else window
        return resolved, windows

    async def _read_once(
        self, requests: Sequence[Resolved]
    ) -> list[Readings | HydraulicDiagnosticsError]:
        stored = [item for item in requests if item.inline is None]
        if not stored:
            return [item.inline for item in requests if item.inline is not None]
        started = time.perf_counter()
        try:
            with tracing.span("read windows", windows=len(stored)):
                windows = iter(
                    await self._parts.store.read_windows(
                        [(item.equipment.equipment_id, *item.bins) for item in stored]
                    )
                )
        except StoreError as error:
            return [error if item.inline is None else item.inline for item in requests]
        self._parts.metrics.stage_seconds.labels("fetch").observe(time.perf_counter() - started)
        found: list[Readings | HydraulicDiagnosticsError] = []
        for item in requests:
            if item.inline is not None:
                found.append(item.inline)
                continue
            window = next(windows)
            is_empty = not window.count and window.revision == item.equipment.revision
            found.append(_no_readings(item) if is_empty else window)
        return found

    async def _with_baselines(
        self,
        requests: Sequence[Resolved],
        readings: Sequence[Readings | HydraulicDiagnosticsError],
    ) -> list[WindowInput | HydraulicDiagnosticsError]:
        """Join each window with the baseline of its machine, if there is one in force.

        A machine whose topology came with the request has none.
        """
        ids = [
            "" if isinstance(found, HydraulicDiagnosticsError) else self._baseline_id(item, found)
            for item, found in zip(requests, readings, strict=True)
        ]
        known: Mapping[str, StoredBaseline] = {}
        away: StoreError | None = None
        if any(ids):
            try:
                known = await self._parts.registry.baselines({each for each in ids if each})
            except StoreError as error:
                away = error
        joined: list[WindowInput | HydraulicDiagnosticsError] = []
        for item, found, baseline_id in zip(requests, readings, ids, strict=True):
            equipment = item.equipment
            if isinstance(found, HydraulicDiagnosticsError):
                joined.append(found)
            elif baseline_id and baseline_id not in known:
                joined.append(away or UnknownEquipment(equipment.equipment_id))  # just purged
            else:
                joined.append(WindowInput(equipment, found, known.get(baseline_id)))
        return joined

    def _baseline_id(self, item: Resolved, readings: Readings) -> str:
        if isinstance(readings, StoredWindow):
            return readings.baseline_id
        if item.request.equipment is not None:
            return ""
        return self._parts.registry.baseline_id(item.equipment.equipment_id) or ""

    def _conclude(
        self,
        resolved: Resolved,
        window: WindowInput,
        scored: Scored,
        now: datetime,
        trends: Mapping[tuple[str, datetime], WindowTrends],
    ) -> bytes:
        """Make the diagnosis of a scored window, queue it for the store and copy it to shadows."""
        equipment, forced = resolved.equipment, resolved.request.model_version is not None
        inline = resolved.inline is not None
        context = DiagnosisContext(
            diagnosis_id=secrets.token_hex(16),
            created_at=now,
            window=interval_of(resolved.bins, equipment),
            source="inline" if inline else "store",
            stale_s=_age_s(window.readings, now),
            fallback=scored.fallback,
            input_digest=scored.input_digest,
            baseline=window.used_baseline,
        )
        previous = (
            None if inline or forced else self._previous(equipment.equipment_id, context.window.end)
        )
        diagnosis = build_diagnosis(
            equipment,
            context,
            scored.scores,
            scored.quality,
            scored.decoder,
            self.thresholds,
            previous or {},
            None if inline else trends.get((equipment.equipment_id, context.window.end)),
        )
        body = diagnosis.to_json()
        if previous is not None:
            states = {item.component_id: item.state for item in diagnosis.components}
            self._states[equipment.equipment_id] = StateSnapshot(
                context.window.end, previous, states
            )
        self._write_queue.add(row_of(diagnosis, body))
        self._parts.metrics.note_diagnosis(
            diagnosis.model_version, diagnosis.status, fallback=scored.fallback
        )
        # a forced or a fallback version says nothing about the one that traffic chose
        if self._parts.router.traffic.shadows and not forced and not scored.fallback:
            self._shadows.offer(
                PrimaryResult(
                    window, context, previous or {}, self.thresholds, diagnosis, scored.seconds
                )
            )
        return body

    def _previous(self, equipment_id: str, window_end: datetime) -> Mapping[str, State] | None:
        """Return a machine's states before a window; None when a newer window was diagnosed."""
        snapshot = self._states.get(equipment_id)
        if snapshot is None:
            return {}
        if window_end == snapshot.window_end:
            return snapshot.before
        return snapshot.states if window_end > snapshot.window_end else None


def _ends(requests: Sequence[Resolved]) -> list[tuple[str, datetime]]:
    """Return machine and end of the stored windows."""
    return [
        (item.equipment.equipment_id, interval_of(item.bins, item.equipment).end)
        for item in requests
        if item.inline is None
    ]


def _age_s(readings: Readings, now: datetime) -> float | None:
    """Return the age of a stored window's newest reading; None for inline readings."""
    if not isinstance(readings, StoredWindow) or readings.newest is None:
        return None
    return max(0.0, (now - readings.newest).total_seconds())


def _no_readings(resolved: Resolved) -> WindowError:
    equipment, window = resolved.equipment, interval_of(resolved.bins, resolved.equipment)
    start, end = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (window.start, window.end))
    sensor_ids = equipment.sensor_ids
    example = {"equipment_id": equipment.equipment_id, "sensor_id": sensor_ids[0]}
    reading = orjson.dumps(example | {"time": start, "value": 1.0}).decode()
    return WindowError(
        f"expected readings of '{equipment.equipment_id}' in [{start}, {end}), found none: send "
        f"the {equipment.window_s:g} s of a window with POST /v1/readings, such as [{reading}] for "
        f"each time and sensor ({some_of(sensor_ids, MAX_NAMED)}), or give `at` where there "
        "are readings",
        "at",
    )
