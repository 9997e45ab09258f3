"""The live rig as a Ray Serve application without a route: one replica that runs the feed.

It imports no torch, so its process stays small.
Invariant: when the feed ends, the health check fails and Serve starts a new replica.
"""

import asyncio
import logging

from pydantic import BaseModel
from ray import serve

from app.core.errors import HydraulicDiagnosticsError
from app.core.settings import Settings
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.feed import run_feed
from app.schemas.equipment import Equipment, Identifier
from app.serving.observability.logging import configure_logging

logger = logging.getLogger(__name__)


class LiveRigArgs(BaseModel, frozen=True, extra="forbid"):
    """Arguments of the live rig's application."""

    equipment_id: Identifier = "hydraulic-rig"


class LiveRig:
    """The replica, which writes one machine; a second one would write the same readings."""

    def __init__(self, equipment: Equipment) -> None:
        # set first: __del__ is called even if the constructor fails
        self._feed: asyncio.Task[None] | None = None
        settings = Settings()
        configure_logging(settings.log_level)
        self._feed = asyncio.get_running_loop().create_task(_run(settings, equipment))

    async def check_health(self) -> None:
        """Raise when the feed has ended.

        Raises:
            HydraulicDiagnosticsError: with the reason of its end.
        """
        if self._feed is not None and self._feed.done():
            reason = "cancelled" if self._feed.cancelled() else repr(self._feed.exception())
            raise HydraulicDiagnosticsError(
                f"expected the live rig to feed, found it ended: {reason}"
            )

    def __del__(self) -> None:
        """Stop the feed; Serve calls this on the replica's own event loop when it stops."""
        if self._feed is not None:
            self._feed.cancel()


async def _run(settings: Settings, equipment: Equipment) -> None:
    # logged at once; the health check notices it up to half a minute later
    try:
        await run_feed(settings, equipment)
    except Exception:
        logger.exception("feed ended", extra={"equipment_id": equipment.equipment_id})
        raise


def live_rig(args: LiveRigArgs) -> serve.Application:
    """Bind the deployment of the feed.

    Raises:
        TopologyError: the shipped topology does not fit the rig's layout.
    """
    return serve.deployment(name="LiveRig")(LiveRig).bind(rig_equipment(args.equipment_id))
