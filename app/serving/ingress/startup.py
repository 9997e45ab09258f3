"""The ingress deployment: HTTP outside, the store and the other deployments inside.

Weights and thresholds come by `user_config`, which changes in place. Invariant: a configuration that can't be used leaves
the old one in force, is reported in the log, in `hydraulic_config_rejected_total` and by `/health/ready`, and fails no request.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.types import ASGIApp

from app.core.settings import PROJECT_DIR, Settings
from app.schemas.equipment import Equipment
from app.schemas.topology import read_equipment
from app.serving.http.app import build_api
from app.serving.http.auth import Authenticator
from app.serving.http.routes.releases import ReleaseBackend
from app.serving.ingress.config import IngressConfig
from app.serving.ingress.diagnoses import Diagnostics
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.retention import Retention
from app.serving.ingress.service import Service
from app.serving.ingress.status import Status
from app.serving.ingress.version_router import Chain, VersionRouter
from app.serving.observability.logging import configure_logging
from app.serving.observability.metrics import Metrics
from app.store.first_key import ensure_first_key
from app.store.open import open_store
from app.store.store import Store

logger = logging.getLogger(__name__)

OpenReleaseService = Callable[[Settings, Store], ReleaseBackend]


class Ingress:
    """One ingress replica, as a class that Serve wraps: constructed, given its HTTP interface, then configured.

    Args:
        chain: the calls to the other deployments.
        equipment_files: topologies that are registered at the start when they are not yet, relative to the project.
        timeout_s: of each call to another deployment.
        open_release_service: makes what does releases.
    """

    def __init__(
        self,
        chain: Chain,
        equipment_files: tuple[str, ...],
        timeout_s: float,
        open_release_service: OpenReleaseService,
    ) -> None:
        settings = Settings()
        configure_logging(settings.log_level)
        metrics = Metrics()
        self._versions = VersionRouter(chain, metrics, timeout_s)
        store = open_store(settings)
        extra_key = settings.api_key.get_secret_value() if settings.api_key is not None else None
        declared = tuple(read_declared(PROJECT_DIR / name) for name in equipment_files)
        machines = EquipmentRegistry(store, metrics, utc_now, declared)
        self.service = Service(
            authenticator=Authenticator(store.find_key, extra_key),
            machines=machines,
            diagnostics=Diagnostics(store, machines, self._versions, metrics, utc_now),
            status=Status(store, self._versions, partial(prepare, store, settings, declared)),
            retention=Retention(store, utc_now),
            releases=open_release_service(settings, store),
            metrics=metrics,
            store=store,
        )

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take a new `user_config`, or keep the old one and report why."""
        try:
            config = IngressConfig.model_validate(user_config)
        except ValidationError as error:
            self.service.metrics.config_rejected.inc()
            self.service.status.config_error = (
                f"user_config was refused, the one before it stays in force: {error}"
            )
            logger.error("user_config refused", extra={"reason": str(error)})  # noqa: TRY400 - the message says it all
            return
        self._versions.set_traffic(config.traffic)
        self.service.diagnostics.set_thresholds(config.thresholds)
        self.service.retention.set_days(config.retention_days)
        self.service.status.config_error = None
        weights = {release.version: release.weight for release in config.traffic.releases}
        logger.info("traffic", extra={"weights": weights, "shadows": config.traffic.shadows})

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Build the HTTP interface, after the constructor."""
        return build_api(self.service)


def utc_now() -> datetime:
    """Return the time, aware."""
    return datetime.now(UTC)


def read_declared(path: Path) -> Equipment:
    """Read a topology file of the configuration.

    Raises:
        TopologyError: it has errors.
        OSError: it can't be read.
    """
    return read_equipment(path.read_bytes(), path.name)


async def prepare(store: Store, settings: Settings, declared: Sequence[Equipment]) -> None:
    """Bring the store to what the service needs: schema, declared machines, a first key.

    A machine that is registered already stays as it is: its topology may have been changed over HTTP since.

    Raises:
        StoreError: the store can't be reached, or refused.
        OSError: the first key's file can't be written.
    """
    await store.migrate()
    for equipment in declared:
        if await store.get_equipment(equipment.equipment_id) is None:
            await store.put_equipment(equipment)
    await ensure_first_key(store, settings)
