"""What one ingress replica is made of, started and closed together.

Invariant: starting needs neither the database nor a model; closing writes what waits and leaves no connection.
"""

import logging
from dataclasses import dataclass

from app.serving.http.auth import Authenticator
from app.serving.http.routes.releases import ReleaseBackend
from app.serving.ingress.diagnoses import Diagnostics
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.retention import Retention
from app.serving.ingress.status import Status
from app.serving.observability.metrics import Metrics
from app.store.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """The parts that HTTP calls."""

    authenticator: Authenticator
    machines: EquipmentRegistry
    diagnostics: Diagnostics
    status: Status
    retention: Retention
    releases: ReleaseBackend
    metrics: Metrics
    store: Store

    async def start(self) -> None:
        """Begin the background work, in the running event loop."""
        self.diagnostics.start()
        self.status.start()
        self.retention.start()

    async def close(self) -> None:
        """Write what waits and close the connections; a part that fails to close keeps no other from it."""
        for part in (self.releases, self.retention, self.status, self.diagnostics, self.store):
            try:
                await part.close()
            except Exception:
                logger.exception("part not closed", extra={"part": type(part).__name__})
