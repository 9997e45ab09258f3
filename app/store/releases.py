"""The history of releases: which version got which share of the traffic, when, by whom and why.

Invariant: history is only added to.
"""

import json
from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from app.store.pool import Database


class ReleaseEvent(BaseModel):
    """One event. `weights` is the share of every version after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release_id: int
    released_at: datetime
    version: str
    action: str
    weights: Mapping[str, float]
    actor: str
    reason: str


async def record_release(
    database: Database,
    version: str,
    action: str,
    weights: Mapping[str, float],
    *,
    actor: str,
    reason: str,
) -> ReleaseEvent:
    """Add an event.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    rows = await database.once(
        "record_release", version, action, json.dumps(dict(weights)), actor, reason
    )
    return ReleaseEvent(
        **rows[0], version=version, action=action, weights=weights, actor=actor, reason=reason
    )


async def list_releases(database: Database, limit: int = 100) -> list[ReleaseEvent]:
    """Return the newest events, newest first.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    rows = await database.fetch("list_releases", limit)
    return [ReleaseEvent(**{**row, "weights": json.loads(row["weights"])}) for row in rows]
