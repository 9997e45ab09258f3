"""The work of one micro-batch: reads windows, has them scored, makes diagnoses and queues them.

How windows are read is in `window_reader`. One SQL statement, one call to the graph builders and
one to the model carry all windows of the batch. A window that can't be diagnosed yields its error
and does not affect the others.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from cachetools import LRUCache
from opentelemetry.trace import SpanContext

from app.core.errors import (
    HydraulicDiagnosticsError,
)
from app.diagnosis.build import DiagnosisContext, build_diagnosis
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.machine_trends import WindowTrends
from app.diagnosis.pipeline import WindowInput, row_of
from app.schemas.diagnosis import Diagnosis, State
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.shadows import PrimaryResult, Shadows
from app.serving.ingress.traffic import Release, machine_of
from app.serving.ingress.trends import Trends
from app.serving.ingress.version_router import RoutedWindow, Scored, VersionRouter
from app.serving.ingress.window_reader import Readings, WindowReader
from app.serving.ingress.windows import Resolved, interval_of
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.observability import tracing
from app.serving.observability.metrics import Metrics
from app.store.caller import current_caller
from app.store.diagnoses import StoredDiagnosis
from app.store.store import Store
from app.store.windows import StoredWindow

logger = logging.getLogger(__name__)

MAX_STATES = 50_000
"""Machines whose last states are kept."""

Outcome = bytes | Exception
"""A diagnosis as JSON, or the reason for none."""
_Machine = tuple[str | None, str]
"""Tenant and equipment id."""


class BatchItem(NamedTuple):
    """A request of a batch.

    Args:
        resolved: its machine and window.
        releases: the release that answers, then its fallbacks.
        since_s: when it came into the queue, by `time.perf_counter`.
        caller: span of the request, if it is traced.
        traces: trace ids of the request, for log lines.
        since_ns: when it began to wait, in nanoseconds since 1970, if it is traced.
    """

    resolved: Resolved
    releases: tuple[Release, ...]
    since_s: float
    caller: SpanContext | None = None
    traces: tuple[str, ...] = ()
    since_ns: int = 0

    def called_by(self, caller: SpanContext | None) -> "BatchItem":
        """Return this item as one that begins to wait now, for the request of a span."""
        if caller is None:
            return self
        return self._replace(caller=caller, since_ns=time.time_ns())


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
        self._windows = WindowReader(parts.store, parts.registry, parts.metrics)
        self._states: LRUCache[_Machine, StateSnapshot] = LRUCache(MAX_STATES)
        self.thresholds = Thresholds()

    async def diagnose(self, items: Sequence[BatchItem], *, explain: bool) -> list[Outcome]:
        """Diagnose the windows of a batch.

        Args:
            items: requests of any machines of one tenant, for which this task works.
            explain: whether to work out the evidence of each sensor.

        Returns:
            An outcome for each item, in order.
        """
        started = time.perf_counter()
        now = self._parts.now()
        outcomes: dict[int, Outcome] = {}
        routed: dict[int, RoutedWindow] = {}
        resolved = [item.resolved for item in items]
        # histories are read beside the windows, of which a changed topology may move some
        (requests, readings), trends = await asyncio.gather(
            self._windows.read(resolved, now), self.trends.of(_ends(resolved))
        )
        for position, window in enumerate(await self._windows.with_baselines(requests, readings)):
            if isinstance(window, HydraulicDiagnosticsError):
                outcomes[position] = window
            else:
                try:
                    releases = self._releases_of(items[position], requests[position])
                    routed[position] = RoutedWindow(window, releases)
                except HydraulicDiagnosticsError as error:
                    outcomes[position] = error
        scored = await self._parts.router.score(list(routed.values()), explain=explain)
        with tracing.span("make diagnoses"):
            for (position, item), outcome in zip(routed.items(), scored, strict=True):
                if not isinstance(outcome, Scored):
                    outcomes[position] = outcome
                    continue
                since_s = items[position].since_s
                try:
                    outcomes[position] = self._conclude(
                        requests[position], item.window, outcome, now, trends, since_s
                    )
                except Exception as error:
                    logger.exception(
                        "diagnosis not made",
                        extra={"equipment_id": requests[position].equipment.equipment_id},
                    )
                    outcomes[position] = error
        self._parts.metrics.stages["batch"].observe(time.perf_counter() - started)
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

    def _conclude(
        self,
        resolved: Resolved,
        window: WindowInput,
        scored: Scored,
        now: datetime,
        trends: Mapping[tuple[str, datetime], WindowTrends],
        since_s: float,
    ) -> bytes:
        """Make the diagnosis of a scored window, queue it for the store and copy it to shadows."""
        equipment, forced = resolved.equipment, resolved.request.model_version is not None
        tenant = current_caller().tenant
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
            self._note_states(diagnosis, previous)
            states = {item.component_id: item.state for item in diagnosis.components}
            self._states[tenant, equipment.equipment_id] = StateSnapshot(
                context.window.end, previous, states
            )
        self._write_queue.add(row_of(diagnosis, body)._replace(tenant=tenant))
        self._parts.metrics.note_diagnosis(
            diagnosis,
            equipment,
            self.thresholds.max_distance,
            time.perf_counter() - since_s,
        )
        # a forced or a fallback version says nothing about the one that traffic chose
        if self._parts.router.traffic.shadows and not forced and not scored.fallback:
            self._shadows.offer(
                PrimaryResult(
                    window,
                    context,
                    previous or {},
                    self.thresholds,
                    diagnosis,
                    scored.seconds,
                    tenant,
                )
            )
        return body

    def _note_states(self, diagnosis: Diagnosis, previous: Mapping[str, State]) -> None:
        """Count changed states, once for a window that is diagnosed several times."""
        snapshot = self._states.get((current_caller().tenant, diagnosis.equipment_id))
        if snapshot is None or snapshot.window_end != diagnosis.window.end:
            self._parts.metrics.note_states(previous, diagnosis)

    def _previous(self, equipment_id: str, window_end: datetime) -> Mapping[str, State] | None:
        """Return a machine's states before a window; None when a newer window was diagnosed."""
        snapshot = self._states.get((current_caller().tenant, equipment_id))
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
