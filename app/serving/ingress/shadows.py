"""Shadow versions: they answer on copies of what others have returned, and what they say is stored beside it and compared.

Copies go the callers' way through a door of their own, one batch at a time for each shadow, with the readings that were there already.
Invariant: no caller waits for a copy or sees it fail; what waits is bounded, and what can't be done soon is dropped and counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from app.core.errors import HydraulicDiagnosticsError
from app.diagnosis.agreement import differing_components
from app.diagnosis.build import DiagnosisContext, diagnose
from app.diagnosis.input_quality import Thresholds
from app.schemas.diagnosis import Diagnosis, State
from app.serving.ingress.traffic import Traffic
from app.serving.ingress.version_router import Scored, VersionRouter, WindowToScore
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.observability.metrics import Metrics
from app.serving.rpc.messages import WindowInput
from app.store.shadow_answers import ShadowAnswer

logger = logging.getLogger(__name__)

PAUSE_S = 0.005
"""Between a diagnosis and its copies: the answer goes out first."""
MAX_UNSTORED = 2_000
"""ResponseCache that may wait for the database: far fewer than diagnoses, which are worth more."""


class PrimaryResult(NamedTuple):
    """A diagnosis that was returned to its caller, and all that another version needs to tell of the same window.

    Args:
        window: the machine and its readings.
        context: identity, window and source.
        previous: state by component before this window, as the diagnosis was given it.
        thresholds: where states begin and when to abstain.
        diagnosis: what was returned.
        seconds: how long building and scoring took.
    """

    window: WindowInput
    context: DiagnosisContext
    previous: Mapping[str, State]
    thresholds: Thresholds
    diagnosis: Diagnosis
    seconds: float


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """How much may wait for one shadow.

    Args:
        copies: most that wait.
        batch: most that are asked together.
        readings: most sensor bins of those that wait, and of those asked together, but for a single larger one.
    """

    copies: int = 128
    batch: int = 32
    readings: int = 400_000


class _ShadowQueue:
    """The copies that wait for one shadow, and the task that works them off."""

    def __init__(self) -> None:
        self.waiting: deque[PrimaryResult] = deque()
        self.readings = 0
        self.task: asyncio.Task[None] | None = None

    def take(self, most: int, readings: int) -> list[PrimaryResult]:
        """Take the copies that go together."""
        batch: list[PrimaryResult] = []
        weight = 0
        while self.waiting and len(batch) < most:
            size = _size(self.waiting[0])
            if batch and weight + size > readings:
                break
            weight += size
            batch.append(self.waiting.popleft())
        self.readings -= weight
        return batch


class Shadows:
    """All shadow versions of one replica.

    Args:
        versions: a door of their own to the released versions; see `VersionRouter.apart`.
        insert: stores several answers in one statement; idempotent by id.
        metrics: where copies, and answers that wait to be stored, are counted.
        crowded: tells whether callers wait; then no copy is made.
        traffic: returns what is in force, which names the shadows.
        limits: see `ShadowLimits`.
    """

    def __init__(
        self,
        versions: VersionRouter,
        insert: Callable[[Sequence[ShadowAnswer]], Awaitable[None]],
        metrics: Metrics,
        crowded: Callable[[], bool],
        traffic: Callable[[], Traffic],
        limits: ShadowLimits | None = None,
    ) -> None:
        self._versions = versions
        self._journal: WriteBehindQueue[ShadowAnswer] = WriteBehindQueue(
            insert,
            attrgetter("id"),
            metrics.shadow_journal_length,
            metrics.shadow_unstored,
            MAX_UNSTORED,
        )
        self._metrics = metrics
        self._crowded = crowded
        self._limits = limits or ShadowLimits()
        self._traffic = traffic
        self._known: Traffic | None = None
        self._lanes: dict[str, _ShadowQueue] = {}

    def start(self) -> None:
        """Begin to write answers to the store, in the running event loop."""
        self._journal.start()

    async def close(self) -> None:
        """Give up the copies and write the answers that wait."""
        tasks = [lane.task for lane in self._lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._journal.close()

    def offer(self, returned: PrimaryResult) -> None:
        """Give the shadows a copy of what another version has returned; comes back at once.

        Args:
            returned: told to its caller.
        """
        traffic = self._traffic()
        if traffic is not self._known:
            self._known = traffic
            self._versions.set_traffic(traffic)
        against = returned.diagnosis.model_version
        for version in traffic.shadows:
            if version != against:
                self._queue(version, returned)

    def _queue(self, version: str, returned: PrimaryResult) -> None:
        lane = self._lanes.setdefault(version, _ShadowQueue())
        size = _size(returned)
        full = (
            len(lane.waiting) >= self._limits.copies or lane.readings + size > self._limits.readings
        )
        if self._crowded() or (lane.waiting and full):
            self._count(version, returned, "dropped")
            return
        lane.waiting.append(returned)
        lane.readings += size
        if lane.task is None:
            # in a context of its own: Serve would cancel the work of a request whose caller leaves
            lane.task = asyncio.get_running_loop().create_task(
                self._work_off(version, lane), context=Context()
            )

    async def _work_off(self, version: str, lane: _ShadowQueue) -> None:
        try:
            while lane.waiting:
                await asyncio.sleep(PAUSE_S)
                batch = lane.take(self._limits.batch, self._limits.readings)
                if (
                    self._wanted(version)
                    and not self._crowded()
                    and not self._versions.circuit_is_open(version)
                ):
                    await self._ask(version, batch)
                    continue
                for returned in batch:
                    self._count(version, returned, "dropped")
        finally:
            lane.task = None

    def _wanted(self, version: str) -> bool:
        return version in self._traffic().shadows

    async def _ask(self, version: str, batch: Sequence[PrimaryResult]) -> None:
        windows = [WindowToScore(returned.window, version, explain=False) for returned in batch]
        try:
            outcomes: Sequence[
                Scored | HydraulicDiagnosticsError | None
            ] = await self._versions.score(windows)
        except Exception:
            logger.exception("shadow not asked", extra={"version": version, "copies": len(batch)})
            outcomes = [None] * len(batch)
        for returned, outcome in zip(batch, outcomes, strict=True):
            self._count(
                version,
                returned,
                self._compare(returned, outcome) if isinstance(outcome, Scored) else "failed",
            )
            await asyncio.sleep(0)  # callers come in between

    def _compare(self, returned: PrimaryResult, scored: Scored) -> str:
        """Store what a shadow tells; return what becomes of the copy."""
        equipment, against = returned.window.equipment, returned.diagnosis
        try:
            told = diagnose(
                equipment,
                returned.context,
                scored.scores,
                scored.summary,
                scored.decoder,
                returned.thresholds,
                returned.previous,
            )
        except Exception:
            logger.exception(
                "shadow's diagnosis not made", extra={"version": scored.decoder.version}
            )
            return "failed"
        self._journal.add(
            ShadowAnswer(told, against.model_version, scored.seconds, returned.seconds)
        )
        return "disagreed" if differing_components(against, told) else "agreed"

    def _count(self, version: str, returned: PrimaryResult, outcome: str) -> None:
        self._metrics.shadow_copies.labels(version, returned.diagnosis.model_version, outcome).inc()


def _size(returned: PrimaryResult) -> int:
    """Return how many sensor bins a copy has, which is what it weighs in memory and in the work."""
    equipment = returned.window.equipment
    return len(equipment.sensors) * equipment.bins
