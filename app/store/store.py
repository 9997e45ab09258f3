"""The store: all repositories of one database, around one pool of connections."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

from app.core.settings import Settings
from app.store.audit import AuditRepository
from app.store.baselines import BaselineRepository
from app.store.check import StoreCheck
from app.store.check_server import Check
from app.store.database_observer import Observer, PoolSizes, Trace, untraced
from app.store.diagnoses import DiagnosisRepository, ShadowAnswerRepository
from app.store.embedded.server import ensure_embedded
from app.store.equipment import EquipmentRepository
from app.store.experiments import AnswerPairs
from app.store.fleet import FleetRuns
from app.store.health import HealthRepository
from app.store.history import HealthHistoryRepository
from app.store.keys import KeyRepository
from app.store.labels import LabelRepository
from app.store.limits import LimitRepository
from app.store.maintenance import MaintenanceRepository
from app.store.migrate import DatabaseFacts, Edition, facts_of, migrate
from app.store.monitoring import MonitoringRepository
from app.store.offboarding import OffboardingRepository
from app.store.pool import Database, PoolLimits
from app.store.readings import ReadingRepository
from app.store.releases import ReleaseRepository
from app.store.statements import first_value
from app.store.tenants import TenantRepository
from app.store.windows import WindowRepository


class Store(
    OffboardingRepository,
    EquipmentRepository,
    ReadingRepository,
    WindowRepository,
    LabelRepository,
    MaintenanceRepository,
    BaselineRepository,
    HealthHistoryRepository,
    HealthRepository,
    DiagnosisRepository,
    ShadowAnswerRepository,
    KeyRepository,
    TenantRepository,
    AuditRepository,
    ReleaseRepository,
    LimitRepository,
    MonitoringRepository,
):
    """All repositories of one database; used by one event loop.

    It opens a connection at the first call, so it can be made while the database is down.

    Args:
        address: the DSN, or a function that returns it, called in a thread when a connection is
            first needed (it may block and raise).
        limits: connections and time limits.
        trace: records each use of a connection by the name of its statement.
    """

    def __init__(
        self,
        address: str | Callable[[], str],
        limits: PoolLimits | None = None,
        trace: Trace = untraced,
    ) -> None:
        super().__init__(Database(address, limits, trace))

    async def migrate(self) -> Edition:
        """Bring the database to the schema of this version; see `migrate.migrate`."""
        return await migrate(self._database)

    async def facts(self) -> DatabaseFacts:
        """Return what the database is, without a change to it; see `migrate.facts_of`."""
        return await facts_of(self._database)

    async def check(self) -> list[Check]:
        """Run the statements of the application in a schema that is rolled back."""
        return await StoreCheck(self._database).run()

    async def ping(self) -> None:
        """Send one statement to the database."""
        await self._database.once("ping")

    @property
    def sizes(self) -> PoolSizes:
        """Numbers of connections of the pool now."""
        return self._database.sizes

    def observe(self, observer: Observer) -> None:
        """Have an observer receive what the database does."""
        self._database.observer = observer

    async def close(self) -> None:
        """Close the pool."""
        await self._database.close()

    async def drop_before(self, cutoff: datetime) -> int:
        """Drop readings, grid, diagnoses and shadow answers of the months that end by `cutoff`.

        On TimescaleDB, of the chunks. Topologies replaced before `cutoff` are dropped too. Other
        reads and writes continue; a long one delays this by short attempts and finally makes it
        raise StoreUnavailable, with some of the partitions dropped.

        Returns:
            How many partitions were dropped.
        """
        total = 0
        while dropped := first_value(await self._database.fetch("drop_before", cutoff)):
            total += dropped
        await self._database.fetch("drop_replaced_topologies", cutoff)
        return total

    def fleet_runs(self) -> FleetRuns:
        """Return the offline scoring runs over the fleet."""
        return FleetRuns(self._database)

    def answer_pairs(self) -> AnswerPairs:
        """Return the pairs of answers of two versions."""
        return AnswerPairs(self._database)


def embedded_directory(settings: Settings) -> Path:
    """Return the directory of the local server."""
    return settings.var_dir / "postgres"


def open_store(
    settings: Settings, limits: PoolLimits | None = None, trace: Trace = untraced
) -> Store:
    """Return the store of the settings: of the DSN when it is set, else on the local server.

    Opening does nothing yet; the local server starts at the first call.

    Args:
        settings: `dsn`, or `var_dir` of the local server; `pool_size` and `statement_cache_size`
            apply when no limits are given.
        limits: connections and time limits.
        trace: records each use of a connection by the name of its statement.
    """
    limits = limits or PoolLimits(
        max_size=settings.pool_size, statement_cache_size=settings.statement_cache_size
    )
    if settings.dsn is not None:
        return Store(settings.dsn.get_secret_value(), limits, trace)
    return Store(partial(ensure_embedded, embedded_directory(settings)), limits, trace)
