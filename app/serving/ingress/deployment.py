"""The ingress as a Serve deployment, and its parts: opened, configured, started, closed together.

Starting needs neither the database nor a model. Closing writes what is queued and leaves no
connection open. It imports no torch.
"""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from app.core.errors import HydraulicDiagnosticsError
from app.core.settings import PROJECT_DIR, Settings
from app.core.text_metrics import TEXT_FILES
from app.schemas.equipment import Equipment
from app.schemas.explain import explain
from app.schemas.places import place_of
from app.schemas.topology import read_equipment
from app.serving.http.app import Replica, build_api
from app.serving.http.auth import Authenticator
from app.serving.http.rate_limits import RateLimiter
from app.serving.http.routes.releases import ReleaseBackend
from app.serving.ingress.baselines import BaselineService
from app.serving.ingress.batch import DiagnosisParts
from app.serving.ingress.config import DiagnosticsArgs, IngressConfig
from app.serving.ingress.diagnoses import Diagnostics
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.label_store import LabelStore
from app.serving.ingress.maintenance_log import MaintenanceLog
from app.serving.ingress.metrics_gatherer import MetricsGatherer
from app.serving.ingress.quotas import Quotas
from app.serving.ingress.readings import ReadingService
from app.serving.ingress.retention import Retention
from app.serving.ingress.service_facts import ServiceFacts
from app.serving.ingress.status import Status
from app.serving.ingress.version_router import VersionRouter
from app.serving.observability import tracing
from app.serving.observability.database_metrics import DatabaseMetrics
from app.serving.observability.exposition import ReplicaText
from app.serving.observability.logging import apply_log_config, configure_logging
from app.serving.observability.metrics import Metrics
from app.serving.rpc.client import DeploymentClient
from app.serving.rpc.replicas import Replicas, ServeReplicas
from app.store.keys import ensure_first_key
from app.store.store import Store, open_store

logger = logging.getLogger(__name__)

GC_THRESHOLDS = (20_000, 20, 20)
"""Of `gc.set_threshold`. A batch of diagnoses allocates thousands of objects without cycles;
collecting after each 700, Python's default, takes a tenth of the ingress's CPU time."""

SPOOL_DIRECTORY = "spool"
"""Under `var_dir`: readings that wait for the database."""
_SHOWN_ERRORS = 5

OpenReleaseService = Callable[[Settings, Store], ReleaseBackend]


@dataclass(frozen=True, slots=True)
class Service(Replica):
    """The parts of an ingress replica."""

    registry: EquipmentRegistry
    baselines: BaselineService
    readings: ReadingService
    diagnostics: Diagnostics
    status: Status
    router: VersionRouter
    retention: Retention
    quotas: Quotas

    def configure(self, user_config: Mapping[str, Any]) -> None:
        """Apply a new `user_config` in place; never raises.

        A configuration that can't be used leaves the old one in force and is reported in the log,
        in `hydraulic_config_rejected_total` and by `/health/ready`.
        """
        try:
            config = IngressConfig.model_validate(user_config)
        except ValidationError as error:
            self.metrics.config_rejected.inc()
            found = [f"{place_of(item['loc'])}: {explain(item)}" for item in error.errors()]
            self.status.config_error = (
                "user_config was refused, the one before it stays in force: "
                + "; ".join(found[:_SHOWN_ERRORS])
            )
            # the reason needs no traceback
            logger.error("user_config refused", extra={"reason": str(error)})  # noqa: TRY400
            return
        self.router.set_traffic(config.traffic)
        self.diagnostics.set_thresholds(config.thresholds)
        self.diagnostics.set_max_wait(config.max_wait_ms / 1000)
        self.limiter.set_limits(config.limits)
        self.quotas.set_quotas(config.quotas)
        self.retention.set_days(config.retention_days)
        apply_log_config(config.logging)
        self.status.config_error = None
        weights = {release.version: release.weight for release in config.traffic.releases}
        logger.info("traffic", extra={"weights": weights, "shadows": config.traffic.shadows})

    async def start(self) -> None:
        """Start the background work, in the running event loop."""
        self.diagnostics.start()
        self.status.start()
        self.retention.start()
        self.limiter.start()
        self.quotas.start()
        self.readings.start()

    def check_alive(self) -> None:
        """Check that the background work goes on.

        Raises:
            HydraulicDiagnosticsError: a part of it has ended.
        """
        ended = [
            type(part).__name__
            for part in (self.diagnostics, self.readings, self.limiter, self.quotas, self.retention)
            if not part.is_alive
        ]
        if ended:
            raise HydraulicDiagnosticsError(
                f"expected background work of {', '.join(ended)} to go on, found it ended: the "
                "replica has to be replaced"
            )

    async def close(self) -> None:
        """Write what is queued and close the connections; each part is closed in any case."""
        for part in (
            self.release_service,
            self.gatherer,
            self.metrics,
            self.retention,
            self.limiter,
            self.quotas,
            self.status,
            self.diagnostics,
            self.readings,
            self.store,
        ):
            try:
                await part.close()
            except Exception:
                logger.exception("part not closed", extra={"part": type(part).__name__})


def open_service(
    client: DeploymentClient,
    settings: Settings,
    args: DiagnosticsArgs,
    open_release_service: OpenReleaseService,
    replicas: Replicas,
) -> Service:
    """Open the parts of a replica.

    Args:
        client: calls the other deployments.
        settings: of the process.
        args: of the `diagnostics` application.
        open_release_service: opens what performs releases.
        replicas: of the service, whose metrics are gathered.
    """
    metrics = Metrics()
    router = VersionRouter(client, metrics, args.timeout_s)
    store = open_store(settings, trace=tracing.statement_span)
    DatabaseMetrics(metrics).watch(store)
    extra_key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    files = [PROJECT_DIR / name for name in args.equipment]
    declared = tuple(read_equipment(file.read_bytes(), file.name) for file in files)
    quotas = Quotas(store)
    registry = EquipmentRegistry(store, declared, router, quotas)
    diagnostics = Diagnostics(DiagnosisParts(store, registry, router, metrics, utc_now))
    status = Status(store, router, registry, partial(prepare, store, settings, declared))
    facts = ServiceFacts(status, router, store, settings.var_dir)
    return Service(
        authenticator=Authenticator(store.find_key, extra_key),
        registry=registry,
        baselines=BaselineService(store, registry, utc_now),
        labels=LabelStore(store, registry, utc_now),
        maintenance=MaintenanceLog(store, registry, utc_now, diagnostics.note_maintenance),
        readings=ReadingService(
            store, registry, metrics, quotas, settings.var_dir / SPOOL_DIRECTORY, utc_now
        ),
        router=router,
        diagnostics=diagnostics,
        status=status,
        retention=Retention(store, utc_now),
        limiter=RateLimiter(
            metrics.replica_name, store.exchange_rate_counts, store.drop_rate_counts
        ),
        quotas=quotas,
        release_service=open_release_service(settings, store),
        metrics=metrics,
        gatherer=MetricsGatherer(metrics, facts, replicas, settings.var_dir / TEXT_FILES),
        store=store,
    )


def utc_now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)


async def prepare(store: Store, settings: Settings, declared: Sequence[Equipment]) -> None:
    """Migrate the schema, register the declared machines and create the first key.

    A machine that is registered stays as it is: its topology may have been changed over HTTP since.
    One that was deleted stays deleted.

    Raises:
        StoreError: the store can't be reached, or refused.
        OSError: the first key's file can't be written.
    """
    await store.migrate()
    for equipment in declared:
        if await store.get_equipment(equipment.equipment_id, deleted=True) is None:
            await store.put_equipment(equipment)
    await ensure_first_key(store, settings)


@serve.ingress()
class IngressDeployment:
    """One ingress replica.

    Args:
        builder: handle of the graph-builder pool.
        args: of the `diagnostics` application.
        open_release_service: opens what performs releases; a function of a module, since Ray
            serialises it.
    """

    def __init__(
        self,
        builder: DeploymentHandle[Any],
        args: DiagnosticsArgs,
        open_release_service: OpenReleaseService,
    ) -> None:
        gc.set_threshold(*GC_THRESHOLDS)
        settings = Settings()
        configure_logging(settings.log_level)
        self.service = open_service(
            DeploymentClient(builder), settings, args, open_release_service, ServeReplicas()
        )

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Apply a new `user_config`; Serve calls this."""
        self.service.configure(user_config)

    async def check_health(self) -> None:
        """Show Serve that the event loop turns; Serve replaces a replica that does not answer.

        Raises:
            HydraulicDiagnosticsError: background work has ended, which nothing else would notice.
        """
        self.service.check_alive()

    async def metrics_text(self) -> ReplicaText:
        """Return the metrics of this replica."""
        return await self.service.metrics.scraped()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the HTTP interface; Serve calls this after the constructor."""
        return build_api(self.service)
