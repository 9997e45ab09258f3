"""The live demonstration as a Ray Serve application without a route: one replica that runs feeds.

It feeds the laboratory rig, replayed from its measured cycles, and the simulated machines of the
live fleet. It imports no torch, so its process stays small.
Invariant: when a feed ends, the health check fails and Serve starts a new replica.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from ray import serve

from app.core.errors import HydraulicDiagnosticsError
from app.core.settings import Settings
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.feed import run_feed
from app.demo.simulation.live_fleet import run_fleet
from app.schemas.equipment import Equipment, Identifier
from app.serving.observability.exposition import ReplicaText
from app.serving.observability.feed_metrics import FeedMetrics
from app.serving.observability.logging import configure_logging, reconfigure_logging

logger = logging.getLogger(__name__)


class LiveDemoArgs(BaseModel, frozen=True, extra="forbid"):
    """Arguments of the live demonstration's application."""

    equipment_id: Identifier = "hydraulic-rig"
    """Of the rig."""
    simulated: bool = False
    """Whether the simulated machines are fed too, for a version that was trained on them."""


class LiveDemo:
    """The replica, which writes the machines; a second one would write the same readings."""

    def __init__(self, equipment: Equipment, *, simulated: bool) -> None:
        # set first: __del__ is called even if the constructor fails
        self._feed: asyncio.Task[None] | None = None
        self.metrics = FeedMetrics()
        settings = Settings()
        configure_logging(settings.log_level)
        self._feed = asyncio.get_running_loop().create_task(
            _run(settings, equipment, self.metrics, simulated=simulated)
        )

    async def metrics_text(self) -> ReplicaText:
        """Return the metrics of this replica."""
        return await self.metrics.scraped()

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Apply a new `user_config`; Serve calls this."""
        reconfigure_logging(user_config)

    async def check_health(self) -> None:
        """Raise when a feed has ended.

        Raises:
            HydraulicDiagnosticsError: with the reason of its end.
        """
        if self._feed is not None and self._feed.done():
            reason = "cancelled" if self._feed.cancelled() else repr(self._feed.exception())
            raise HydraulicDiagnosticsError(
                f"expected the live demonstration to feed, found it ended: {reason}"
            )

    def __del__(self) -> None:
        """Stop the feeds; Serve calls this on the replica's own event loop when it stops."""
        if self._feed is not None:
            self._feed.cancel()


async def _run(
    settings: Settings, equipment: Equipment, metrics: FeedMetrics, *, simulated: bool
) -> None:
    # logged at once; the health check notices it up to half a minute later
    try:
        async with asyncio.TaskGroup() as feeds:
            feeds.create_task(run_feed(settings, equipment, metrics))
            if simulated:
                feeds.create_task(run_fleet(settings, metrics))
    except* Exception as failed:
        reason = failed.exceptions[0]
        logger.exception("feed ended", extra={"equipment_id": equipment.equipment_id})
        raise reason from None


def live_demo(args: LiveDemoArgs) -> serve.Application:
    """Bind the deployment of the feeds.

    Raises:
        TopologyError: the shipped topology does not fit the rig's layout.
    """
    deployment = serve.deployment(name="LiveDemo")(LiveDemo)
    return deployment.bind(rig_equipment(args.equipment_id), simulated=args.simulated)
