"""Status of a replica: readiness, released versions and traffic.

It also prepares the store in the background, so that a replica starts while the database is away.
Ready means that the database, the graph builders and a model answered at most `CACHE_S` ago.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from app.core.errors import HydraulicDiagnosticsError, ModelUnavailable, StoreError
from app.core.tasks import end_tasks
from app.serving.http.routes.health import Readiness
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.traffic import Machine, order_of_versions
from app.serving.ingress.version_router import VersionRouter
from app.store.store import Store

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
TIMEOUT_S = 2.0
"""For the answers of the database and of each version."""
CACHE_S = 1.0
"""How long readiness is cached: it needs no key, and makes every version score a graph."""


class Status:
    """Readiness and releases of one replica.

    Args:
        store: the database; may be away.
        router: the released versions.
        registry: the registered machines.
        prepare: prepares the store (schema, declared machines, a first key); retried until it
            succeeds.
    """

    def __init__(
        self,
        store: Store,
        router: VersionRouter,
        registry: EquipmentRegistry,
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._router = router
        self._registry = registry
        self._prepare = prepare
        self._preparing: asyncio.Task[None] | None = None
        self._unprepared: str | None = "database: still being prepared"
        self._checking = asyncio.Lock()
        self._cached: tuple[float, Readiness] | None = None
        self.config_error: str | None = None

    def start(self) -> None:
        """Start to prepare the store, in the running event loop."""
        self._preparing = asyncio.create_task(self._prepare_until_done())

    async def close(self) -> None:
        """Cancel the preparation if it still runs."""
        if self._preparing is not None:
            await end_tasks({self._preparing})

    async def _prepare_until_done(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self._prepare()
            except HydraulicDiagnosticsError as error:
                reason = str(error)
                cause = repr(error.__cause__)
                logger.warning(
                    "store not ready, trying again", extra={"reason": reason, "cause": cause}
                )
            except OSError as error:
                reason = (
                    error.strerror or "an error of the system"
                ).lower()  # its text names paths
                logger.warning("store not ready, trying again", extra={"reason": str(error)})
            except Exception:
                reason = "an internal error, which the log describes"
                logger.exception("store not ready because of an internal error, trying again")
            else:
                self._unprepared = None
                return
            self._unprepared = f"database: still being prepared: {reason}"
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def models(self) -> list[dict[str, Any]]:
        """Return every released version's manifest, weight and circuit."""
        listed = []
        for release in self._router.traffic.releases:
            entry: dict[str, Any] = {
                **release.model_dump(mode="json", exclude_none=True),
                "circuit": "open" if self._router.circuit_is_open(release.version) else "closed",
            }
            try:
                version = await self._router.version(release)
            except ModelUnavailable as error:
                entry |= {"available": False, "reason": str(error)}
            else:
                entry |= {"available": True, "device": version.description.device}
                entry["implementation"] = version.description.implementation
                entry["checkpoint"] = version.manifest.model_dump(mode="json")
            listed.append(entry)
        return listed

    async def traffic_report(
        self, equipment_id: str | None = None, design: str | None = None
    ) -> dict[str, Any]:
        """Return releases, weights and shadows, and the version that answers for a machine.

        Args:
            equipment_id: of the machine; None without one.
            design: of the machine; None for that which is registered.

        Raises:
            UnknownEquipment: the machine is not registered, and no design is given.
        """
        traffic = self._router.traffic
        report: dict[str, Any] = traffic.model_dump(mode="json", exclude_none=True)
        report["shares"] = {each: traffic.shares(each) for each in traffic.known_designs}
        if equipment_id is not None:
            if design is None:
                design = (await self._registry.topology(equipment_id)).design
            machine = Machine(equipment_id, design)
            report["equipment_id"], report["design"] = machine
            report["version"] = order_of_versions(machine, traffic)[0].version
        return report

    async def readiness(self) -> Readiness:
        """Probe the database, the graph builders and every version in service, concurrently.

        The result is cached for `CACHE_S`.
        """
        async with self._checking:
            if self._cached is None or time.monotonic() - self._cached[0] >= CACHE_S:
                found = await self._probe()
                self._cached = (time.monotonic(), found)
            return self._cached[1]

    async def _probe(self) -> Readiness:
        reasons = []
        try:
            releases = self._router.traffic.in_service
        except ModelUnavailable as error:
            releases = ()
            reasons.append(str(error))
        database_reason, builder_reason, *version_reasons = await asyncio.gather(
            _reason("database", self._store.ping()),
            _reason("graph builders", self._router.probe_builders()),
            *(_reason(f"version {each.version}", self._router.probe(each)) for each in releases),
        )
        database_reason = database_reason or self._unprepared
        reasons += [
            reason
            for reason in (database_reason, self.config_error, builder_reason, *version_reasons)
            if reason is not None
        ]
        answers = {
            release.version: reason is None
            for release, reason in zip(releases, version_reasons, strict=True)
        }
        database, builders = database_reason is None, builder_reason is None
        return Readiness(
            ready=database and builders and any(answers.values()),
            database=database,
            builders=builders,
            versions=answers,
            reasons=tuple(reasons),
        )


async def _reason(name: str, answer: Awaitable[None]) -> str | None:
    """Return why a part does not answer in time, or None."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await answer
    except (StoreError, ModelUnavailable) as error:
        return f"{name}: {error}"
    except TimeoutError:
        return f"{name}: expected an answer within {TIMEOUT_S:g} s, found none"
    return None
