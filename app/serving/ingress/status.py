"""How the service stands: whether it is ready, what is released, how traffic is split.

It also brings the store to what the service needs, in the background, so that a replica starts while the database is away.
Invariant: ready means that the database and a model really answered at most `REMEMBER_S` ago.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from app.core.errors import HydraulicDiagnosticsError, ModelUnavailable, StoreError
from app.serving.http.routes.health import Readiness
from app.serving.ingress.traffic import Release, order_of_versions
from app.serving.ingress.version_router import VersionRouter
from app.store.store import Store

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
ANSWER_S = 2.0
"""How long the database and each version have to show that they answer."""
REMEMBER_S = 1.0
"""How long readiness is remembered: it is asked without a key, and makes every version score a graph."""


class Status:
    """Readiness and releases of one replica.

    Args:
        store: the database; may be away.
        versions: the released versions.
        prepare: brings the store to what the service needs (schema, declared machines, a first key); tried until it works.
    """

    def __init__(
        self, store: Store, versions: VersionRouter, prepare: Callable[[], Awaitable[None]]
    ) -> None:
        self._store = store
        self._versions = versions
        self._prepare = prepare
        self._preparing: asyncio.Task[None] | None = None
        self._unprepared: str | None = "database: still being prepared"
        self._asking = asyncio.Lock()
        self._answer: tuple[float, Readiness] | None = None
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
            except HydraulicDiagnosticsError as error:
                told = str(error)
                cause = repr(error.__cause__)
                logger.warning(
                    "store not ready, trying again", extra={"reason": told, "cause": cause}
                )
            except OSError as error:
                told = type(error).__name__  # its text names paths
                logger.warning("store not ready, trying again", extra={"reason": str(error)})
            except Exception as error:
                told = type(error).__name__
                logger.exception("store not ready for a reason of our own, trying again")
            else:
                self._unprepared = None
                return
            self._unprepared = f"database: still being prepared: {told}"
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def models(self) -> list[dict[str, Any]]:
        """Return every released version's manifest, weight and circuit."""
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
                entry["implementation"] = version.description.implementation
                entry["checkpoint"] = version.manifest.model_dump(mode="json")
            listed.append(entry)
        return listed

    def traffic_report(self, equipment_id: str | None) -> dict[str, Any]:
        """Return releases, weights and shadows, and with an equipment id the version that answers for it."""
        traffic = self._versions.traffic
        report: dict[str, Any] = traffic.model_dump(mode="json")
        if equipment_id is not None:
            report["equipment_id"] = equipment_id
            report["version"] = order_of_versions(equipment_id, traffic)[0].version
        return report

    async def readiness(self) -> Readiness:
        """Ask the database and every released version with weight, all at once; what was found is remembered shortly."""
        async with self._asking:
            if self._answer is None or time.monotonic() - self._answer[0] >= REMEMBER_S:
                found = await self._ask()
                self._answer = (time.monotonic(), found)
            return self._answer[1]

    async def _ask(self) -> Readiness:
        reasons = []
        try:
            releases = [
                release for release in self._versions.traffic.releases if release.weight > 0
            ]
        except ModelUnavailable as error:
            releases = []
            reasons.append(str(error))
        silent_database, *silent = await asyncio.gather(
            self._why_no_database(), *(self._why_no_version(release) for release in releases)
        )
        reasons += [
            reason for reason in (silent_database, self.config_error, *silent) if reason is not None
        ]
        answers = {
            release.version: reason is None
            for release, reason in zip(releases, silent, strict=True)
        }
        database = silent_database is None
        return Readiness(
            ready=database and any(answers.values()),
            database=database,
            versions=answers,
            reasons=tuple(reasons),
        )

    async def _why_no_database(self) -> str | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._store.ping()
        except StoreError as error:
            return f"database: {error}"
        except TimeoutError:
            return f"database: expected an answer within {ANSWER_S:g} s, found none"
        return self._unprepared

    async def _why_no_version(self, release: Release) -> str | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._versions.probe(release)
        except ModelUnavailable as error:
            return f"version {release.version}: {error}"
        except TimeoutError:
            return (
                f"version {release.version}: expected an answer within {ANSWER_S:g} s, found none"
            )
        return None
