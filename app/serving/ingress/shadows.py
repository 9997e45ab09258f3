"""Shadow versions: score copies of answered windows; their diagnoses are stored and compared.

Copies keep the readings that were already there and go through a router of their own, one batch at
a time for each shadow. No caller waits for a copy or sees it fail. The queues are bounded; copies
that can't be scored soon are dropped and counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from app.core.tasks import end_tasks
from app.diagnosis.build import DiagnosisContext, build_diagnosis
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.pipeline import WindowInput
from app.diagnosis.states import differing_components
from app.schemas.diagnosis import Diagnosis, State
from app.serving.ingress.traffic import Release, machine_of
from app.serving.ingress.version_router import RoutedWindow, Scored, VersionRouter
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.observability.metrics import Metrics
from app.store.diagnoses import ShadowAnswer
from app.store.store import Store

logger = logging.getLogger(__name__)

PAUSE_S = 0.005
"""Between a diagnosis and its copies, so that the response goes out first."""
MAX_QUEUED_ANSWERS = 2_000
"""Shadow answers that may wait for the database: far fewer than diagnoses, which matter more."""


class PrimaryResult(NamedTuple):
    """A returned diagnosis, with everything a shadow needs to diagnose the same window.

    Args:
        window: the machine and its readings.
        context: identity, window and source.
        previous: states before this window by component, which the diagnosis was made with.
        thresholds: of states and abstention.
        diagnosis: that was returned.
        seconds: time to build and score.
        tenant: that requested it; None for that of the machine.
    """

    window: WindowInput
    context: DiagnosisContext
    previous: Mapping[str, State]
    thresholds: Thresholds
    diagnosis: Diagnosis
    seconds: float
    tenant: str | None = None

    @property
    def weight(self) -> int:
        """Sensor bins of the window, in proportion to its memory and work."""
        return len(self.window.equipment.sensors) * self.window.equipment.bins


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """Limits of one shadow's queue.

    Args:
        copies: most that wait.
        batch: most that are scored together.
        readings: most sensor bins of those that wait, and of those scored together, except for a
            single larger one.
    """

    copies: int = 128
    batch: int = 32
    readings: int = 400_000


class _ShadowQueue:
    """The copies that wait for one shadow, and the task that scores them."""

    def __init__(self) -> None:
        self.waiting: deque[PrimaryResult] = deque()
        self.readings = 0
        self.task: asyncio.Task[None] | None = None

    def add(self, primary: PrimaryResult) -> None:
        self.waiting.append(primary)
        self.readings += primary.weight

    def take(self, limits: ShadowLimits) -> list[PrimaryResult]:
        """Take the copies of the next batch."""
        batch: list[PrimaryResult] = []
        weight = 0
        while self.waiting and len(batch) < limits.batch:
            if batch and weight + self.waiting[0].weight > limits.readings:
                break
            weight += self.waiting[0].weight
            batch.append(self.waiting.popleft())
        self.readings -= weight
        return batch


class Shadows:
    """All shadow versions of one replica.

    Args:
        router: of the replica; copies go through one like it, see `VersionRouter.for_shadows`.
        store: for the answers.
        metrics: counts copies and answers that wait to be stored.
        crowded: returns whether callers wait; then no copy is made.
    """

    def __init__(
        self,
        router: VersionRouter,
        store: Store,
        metrics: Metrics,
        crowded: Callable[[], bool],
    ) -> None:
        self._primary = router
        self._router = router.for_shadows()
        self._write_queue: WriteBehindQueue[ShadowAnswer] = WriteBehindQueue(
            store.insert_shadow_answers,
            attrgetter("id"),
            metrics.shadow_queue_length,
            metrics.shadow_unstored,
            MAX_QUEUED_ANSWERS,
        )
        self._metrics = metrics
        self._crowded = crowded
        self._limits = ShadowLimits()
        self._queues: dict[str, _ShadowQueue] = {}

    def start(self) -> None:
        """Start to write answers to the store, in the running event loop."""
        self._write_queue.start()

    async def close(self) -> None:
        """Drop the copies and write the answers that are queued."""
        await end_tasks(queue.task for queue in self._queues.values() if queue.task is not None)
        await self._write_queue.close()

    @property
    def is_alive(self) -> bool:
        """Whether its background work has not ended by itself."""
        return self._write_queue.is_alive

    def offer(self, primary: PrimaryResult) -> None:
        """Queue a copy of a diagnosis for each shadow that can serve its machine.

        Neither blocks nor raises.
        """
        try:
            traffic, machine = self._primary.traffic, machine_of(primary.window.equipment)
            for version in traffic.shadows:
                release = traffic.find(version)
                is_other = version != primary.diagnosis.model_version
                if is_other and release is not None and release.serves(machine):
                    self._enqueue(version, primary)
        except Exception:  # the caller has its answer
            logger.exception(
                "copy not made", extra={"equipment_id": primary.diagnosis.equipment_id}
            )

    def _enqueue(self, version: str, primary: PrimaryResult) -> None:
        queue = self._queues.setdefault(version, _ShadowQueue())
        is_full = (
            len(queue.waiting) >= self._limits.copies
            or queue.readings + primary.weight > self._limits.readings
        )
        if self._crowded() or (queue.waiting and is_full):
            self._count(version, primary, "dropped")
            return
        queue.add(primary)
        if queue.task is None:
            # in a context of its own: Serve cancels the work of a request whose client disconnects
            queue.task = asyncio.get_running_loop().create_task(
                self._drain(version, queue), context=Context()
            )

    async def _drain(self, version: str, queue: _ShadowQueue) -> None:
        try:
            while queue.waiting:
                await asyncio.sleep(PAUSE_S)
                batch = queue.take(self._limits)
                traffic = self._primary.traffic
                release = traffic.find(version) if version in traffic.shadows else None
                if (
                    release is not None
                    and not self._crowded()
                    and not self._router.circuit_is_open(version)
                ):
                    await self._score(release, batch)
                    continue
                for primary in batch:
                    self._count(version, primary, "dropped")
        finally:
            queue.task = None

    async def _score(self, release: Release, batch: Sequence[PrimaryResult]) -> None:
        version = release.version
        windows = [RoutedWindow(primary.window, (release,)) for primary in batch]
        outcomes: Sequence[Scored | Exception | None]
        try:
            outcomes = await self._router.score(windows)
        except Exception:
            logger.exception("shadow not scored", extra={"version": version, "copies": len(batch)})
            outcomes = [None] * len(batch)
        for primary, outcome in zip(batch, outcomes, strict=True):
            compared = self._compare(primary, outcome) if isinstance(outcome, Scored) else "failed"
            self._count(version, primary, compared)
            await asyncio.sleep(0)  # let callers run in between

    def _compare(self, primary: PrimaryResult, scored: Scored) -> str:
        """Queue a shadow's diagnosis for the store; return the outcome of the copy."""
        try:
            diagnosis = build_diagnosis(
                primary.window.equipment,
                primary.context,
                scored.scores,
                scored.quality,
                scored.decoder,
                primary.thresholds,
                primary.previous,
            )
        except Exception:
            logger.exception(
                "shadow's diagnosis not made", extra={"version": scored.decoder.version}
            )
            return "failed"
        against = primary.diagnosis
        self._write_queue.add(
            ShadowAnswer(
                diagnosis, against.model_version, scored.seconds, primary.seconds, primary.tenant
            )
        )
        return "disagreed" if differing_components(against, diagnosis) else "agreed"

    def _count(self, version: str, primary: PrimaryResult, outcome: str) -> None:
        self._metrics.shadow_copies.labels(version, primary.diagnosis.model_version, outcome).inc()
