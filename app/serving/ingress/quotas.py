"""Quotas: how many machines and keys may be registered, and how many readings stored.

Readings are estimated in the background by the statistics of the database's planner, so the quota
may be passed by what arrives in the meantime.
"""

import asyncio
import logging
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.core.errors import QuotaExceeded, StoreError
from app.core.tasks import end_tasks
from app.store.caller import SERVICE, acting_as
from app.store.limits import LimitRepository

logger = logging.getLogger(__name__)

ESTIMATE_S = 60.0
"""Seconds between two estimates of the stored readings."""

_Count = Annotated[int, Field(ge=1, le=10**15)]


class QuotaConfig(BaseModel):
    """Most that may be registered and stored; null for any number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment: _Count | None = Field(default=100_000, description="registered machines")
    keys: _Count | None = Field(default=1_000, description="API keys in force")
    readings: _Count | None = Field(default=None, description="stored readings, about")


class Quotas:
    """The quotas of an installation.

    Args:
        store: counts; may be away, then nothing is refused.
    """

    def __init__(self, store: LimitRepository) -> None:
        self._store = store
        self._config = QuotaConfig()
        self._readings = 0
        self._task: asyncio.Task[None] | None = None

    def set_quotas(self, config: QuotaConfig) -> None:
        """Change the quotas; what is beyond them already stays."""
        self._config = config

    def start(self) -> None:
        """Start to estimate, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            await end_tasks({self._task})

    @property
    def is_alive(self) -> bool:
        """Whether its background work has not ended by itself."""
        return self._task is None or not self._task.done()

    async def check_equipment(self) -> None:
        """Refuse one more machine than the quota.

        Raises:
            QuotaExceeded: there are as many already.
        """
        most = self._config.equipment
        with acting_as(SERVICE):  # of all tenants
            found = 0 if most is None else await self._store.count_equipment()
        if most is not None and found >= most:
            raise _exceeded(f"{most} registered machines", found, "delete machines", "equipment_id")

    async def check_keys(self) -> None:
        """Refuse one more key than the quota.

        Raises:
            QuotaExceeded: there are as many already.
        """
        most = self._config.keys
        with acting_as(SERVICE):
            found = 0 if most is None else await self._store.count_keys()
        if most is not None and found >= most:
            raise _exceeded(f"{most} keys in force", found, "revoke keys", "name")

    def check_readings(self) -> None:
        """Refuse readings once as many as the quota are stored.

        Raises:
            QuotaExceeded: there are, by the last estimate.
        """
        most = self._config.readings
        if most is not None and self._readings >= most:
            raise _exceeded(
                f"{most} stored readings", self._readings, "set retention_days, or delete some", ""
            )

    async def estimate(self) -> None:
        """Estimate the stored readings.

        Raises:
            StoreError: the database is away.
        """
        self._readings = await self._store.estimate_readings()

    async def _run(self) -> None:
        while True:
            if self._config.readings is not None:
                try:
                    await self.estimate()
                except StoreError as error:
                    logger.warning("readings not estimated", extra={"reason": str(error)})
                except Exception:
                    # a task that ends would never estimate again
                    logger.exception("readings not estimated")
            await asyncio.sleep(ESTIMATE_S)


def _exceeded(expected: str, found: int, instead: str, field: str) -> QuotaExceeded:
    return QuotaExceeded(
        f"expected at most {expected}, found {found}: {instead}, or have the quota raised", field
    )
