"""The history of releases: traffic weights after each change, when, by whom and why.

Invariant: events are only added.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.store.partitions import Repository

Weights = Mapping[str, float]
"""Percent by version."""


class ReleaseEvent(BaseModel):
    """One event of the history of releases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release_id: Annotated[int, Field(description="rises with time")]
    released_at: Annotated[datetime, Field(description="when the change was made")]
    version: Annotated[str, Field(description="the version that the change was about")]
    action: Annotated[str, Field(description="such as `deploy`, `split`, `promote` or `rollback`")]
    weights: Annotated[Weights, Field(description="of every version after it, in percent")]
    designs: Annotated[
        Mapping[str, Weights], Field(description="weights of designs with weights of their own")
    ] = {}
    actor: Annotated[str, Field(description="who made the change, such as the name of a key")]
    reason: Annotated[str, Field(description="why, as given with the change")]


class ReleaseRepository(Repository):
    """The history of releases."""

    async def record_release(
        self,
        version: str,
        action: str,
        weights: Weights,
        designs: Mapping[str, Weights] | None = None,
        *,
        actor: str,
        reason: str,
    ) -> ReleaseEvent:
        """Add an event to the history.

        Args:
            version: that the change is about.
            action: what was done.
            weights: of every version after it.
            designs: weights of designs with weights of their own; None for no such design.
            actor: who made the change.
            reason: why.
        """
        texts = [
            json.dumps({**weights}),
            json.dumps({k: {**v} for k, v in (designs or {}).items()}),
        ]
        rows = await self._database.once("record_release", version, action, *texts, actor, reason)
        return ReleaseEvent(
            **rows[0],
            version=version,
            action=action,
            weights=weights,
            designs=designs or {},
            actor=actor,
            reason=reason,
        )

    async def list_releases(
        self, limit: int = 100, before: int | None = None
    ) -> list[ReleaseEvent]:
        """Return the newest events, newest first.

        Args:
            limit: most events.
            before: id of an event; those older than it are returned.
        """
        rows = await self._database.fetch("list_releases", limit, before)
        return [
            ReleaseEvent.model_validate(
                {
                    **row,
                    "weights": json.loads(row["weights"]),
                    "designs": json.loads(row["designs"]),
                }
            )
            for row in rows
        ]
