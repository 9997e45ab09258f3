"""Drops data older than the configured retention, in the background.

Readings, grid and diagnoses are in monthly partitions (on TimescaleDB: chunks); only whole ones are
dropped. Without a retention in `serve_config.yaml` nothing is dropped.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from app.core.errors import StoreError
from app.store.store import Store

logger = logging.getLogger(__name__)

ROUND_S = 3_600.0


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
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            if self._keep is not None:
                try:
                    dropped = await self._store.drop_before(self._now() - self._keep)
                    logger.info(
                        "retention",
                        extra={"dropped_partitions": dropped, "keep_days": self._keep.days},
                    )
                except StoreError as error:
                    logger.warning("retention postponed", extra={"reason": str(error)})
                except Exception:
                    # the next round may succeed; a task that ends would never drop anything again
                    logger.exception("retention failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), ROUND_S)
