"""Drops data older than the configured retention, and adds up old healths, in the background.

Readings, grid, diagnoses and hourly health are in monthly partitions (on TimescaleDB: chunks); only
whole ones are dropped. Without a retention in `serve_config.yaml` nothing is dropped. TimescaleDB
also gets a job that does so while the service is away. After the migration that brought hourly
health, the healths of machines are added up one machine after the other.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from app.core.errors import StoreError
from app.core.tasks import end_tasks
from app.store.store import Store

logger = logging.getLogger(__name__)

ROUND_S = 3_600.0
PENDING_PAUSE_S = 0.1


class Retention:
    """Applies the retention to the store; several replicas may do so at once.

    Args:
        store: the database; may be away, then the next round tries again.
        now: UTC clock.
    """

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._keep: timedelta | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def set_days(self, days: float | None) -> None:
        """Change the retention; None keeps everything."""
        self._keep = None if days is None else timedelta(days=days)
        self._changed.set()

    def start(self) -> None:
        """Start, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            await end_tasks({self._task})

    @property
    def is_alive(self) -> bool:
        """Whether its background work has not ended by itself."""
        return self._task is None or not self._task.done()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._round()
            except StoreError as error:
                logger.warning("retention postponed", extra={"reason": str(error)})
            except Exception:
                # the next round may succeed; a task that ends would never drop anything again
                logger.exception("retention failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._changed.wait()

    async def _round(self) -> None:
        keep = self._keep
        if keep is not None:
            dropped = await self._store.drop_before(self._now() - keep)
            logger.info("retention", extra={"dropped_partitions": dropped, "keep_days": keep.days})
        await self._store.set_retention(keep)
        while not self._changed.is_set() and await self._store.add_up_pending():
            # writers of the machine waited: let them catch up before the next one
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PENDING_PAUSE_S):
                    await self._changed.wait()
