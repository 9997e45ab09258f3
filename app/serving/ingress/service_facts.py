"""What is true of the service as a whole at a scrape: readiness, database, fleet and disk.

The database is read in the background at most every `DATABASE_S`, the fleet for at most a hundredth
of the time, so that a scrape waits for neither.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar

from app.core.errors import ModelUnavailable, StoreError
from app.core.tasks import end_tasks
from app.serving.ingress.status import Status
from app.serving.ingress.version_router import VersionRouter
from app.serving.observability.service_metrics import ServiceMetrics
from app.store.monitoring import DatabaseFigures, FleetAges
from app.store.store import Store

logger = logging.getLogger(__name__)

DATABASE_S = 10.0
"""Least time between two reads of the database's figures."""
FLEET_SHARE = 0.01
"""Share of the time that the ages of the fleet are read in."""

T = TypeVar("T")


class _Reading(Generic[T]):
    """A value that is read again in the background, at most so often; unknown after a failure."""

    def __init__(self, read: Callable[[], Awaitable[T]], every_s: float) -> None:
        self._read = read
        self._every_s = every_s
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None
        self.value: T | None = None

    async def latest(self, wait_s: float) -> T | None:
        """Return the value; the first read is waited for."""
        if time.monotonic() >= self._due and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._renew())
            await asyncio.wait({self._task}, timeout=wait_s if self.value is None else 0.0)
        return self.value

    async def close(self) -> None:
        """Cancel a read in progress."""
        if self._task is not None:
            await end_tasks({self._task})

    async def _renew(self) -> None:
        started = time.monotonic()
        try:
            self.value = await self._read()
        except StoreError as error:
            self.value = None
            logger.info("figures not read", extra={"reason": str(error)})
        now = time.monotonic()
        self._due = now + max(self._every_s, (now - started) / FLEET_SHARE)


class ServiceFacts:
    """Fills the metrics of the service.

    Args:
        status: probes the dependencies.
        router: the released versions.
        store: the database; may be away.
        directory: whose disk is measured; it may not exist yet.
    """

    def __init__(
        self,
        status: Status,
        router: VersionRouter,
        store: Store,
        directory: Path,
    ) -> None:
        self._status = status
        self._router = router
        self._directory = directory
        self._database: _Reading[DatabaseFigures] = _Reading(store.database_figures, DATABASE_S)
        self._fleet: _Reading[FleetAges] = _Reading(store.fleet_ages, DATABASE_S)

    async def close(self) -> None:
        """Cancel reads in progress."""
        await self._database.close()
        await self._fleet.close()

    async def fill(self, metrics: ServiceMetrics, limit_s: float) -> None:
        """Fill in readiness, weights, disk, database and fleet.

        Args:
            metrics: of this scrape.
            limit_s: longest time.
        """
        readiness, figures, ages = await asyncio.gather(
            self._status.readiness(),
            self._database.latest(limit_s / 2),
            self._fleet.latest(limit_s / 2),
        )
        metrics.ready.set(readiness.ready)
        metrics.dependency_up.labels("database").set(readiness.database)
        metrics.dependency_up.labels("builders").set(readiness.builders)
        for version, is_up in readiness.versions.items():
            metrics.version_up.labels(version).set(is_up)
        metrics.config_valid.set(self._status.config_error is None)
        try:
            for release in self._router.traffic.releases:
                metrics.version_weight.labels(release.version).set(release.weight / 100)
        except ModelUnavailable:
            pass  # no version is configured yet, so there is no weight
        if figures is not None:
            metrics.add_database(figures)
        if ages is not None:
            metrics.add_fleet(ages)
        existing = next(
            each for each in (self._directory, *self._directory.parents) if each.exists()
        )
        disk = shutil.disk_usage(existing)
        metrics.disk_free.set(disk.free)
        metrics.disk_size.set(disk.total)
