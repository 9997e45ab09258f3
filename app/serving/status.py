"""How the service stands: whether it is ready, what is released, how traffic is split.

It also brings the store to what the service needs, in the background, so that a replica starts while the database is away.
Invariant: ready means that the database and a model really answered just now.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from app.errors import ModelUnavailable, StoreError
from app.serving.released import ReleasedVersions
from app.serving.traffic import order_of_versions
from app.store.store import Store

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0


class Readiness(BaseModel):
    """Whether the database and each released version really answered just now."""

    model_config = ConfigDict(frozen=True)

    ready: bool
    database: bool
    versions: Mapping[str, bool]
    reasons: tuple[str, ...]


class Status:
    """Readiness and releases of one replica.

    Args:
        store: the database; may be away.
        versions: the released versions.
        prepare: brings the store to what the service needs (schema, declared machines, a first key); tried until it works.
    """

    def __init__(self, store: Store, versions: ReleasedVersions, prepare: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._versions = versions
        self._prepare = prepare
        self._preparing: asyncio.Task[None] | None = None
        self.config_error: str | None = None

    def start(self) -> None:
        """Begin to prepare the store, in the running event loop."""
        self._preparing = asyncio.create_task(self._prepare_until_done())

    async def close(self) -> None:
        """Give the preparation up if it still runs."""
        if self._preparing is not None:
            self._preparing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._preparing

    async def _prepare_until_done(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._prepare()
            except (StoreError, OSError) as error:
                logger.warning("store not ready, trying again", extra={"reason": str(error)})
                await asyncio.sleep(pause_s)
                pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
            else:
                return

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
