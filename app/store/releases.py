"""The history of releases: traffic weights after each change, when, by whom and why.

Invariant: events are only added.
"""

import json
from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from app.store.partitions import Repository


class ReleaseEvent(BaseModel):
    """One event; `weights` is the traffic weight of every version after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release_id: int
    released_at: datetime
    version: str
    action: str
    weights: Mapping[str, float]
    actor: str
    reason: str


class ReleaseRepository(Repository):
    """The history of releases."""

    async def record_release(
        self, version: str, action: str, weights: Mapping[str, float], *, actor: str, reason: str
    ) -> ReleaseEvent:
        """Add an event to the history."""
        weights_json = json.dumps(dict(weights))
        rows = await self._database.once(
            "record_release", version, action, weights_json, actor, reason
        )
        return ReleaseEvent(
            **rows[0], version=version, action=action, weights=weights, actor=actor, reason=reason
        )

    async def list_releases(self, limit: int = 100) -> list[ReleaseEvent]:
        """Return the newest events, newest first."""
        rows = await self._database.fetch("list_releases", limit)
        return [ReleaseEvent(**{**row, "weights": json.loads(row["weights"])}) for row in rows]
