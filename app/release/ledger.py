"""What the commands write down and read back: who released what, when and why.

Invariant: a release that was done stays done, whether it could be written down or not.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.core.errors import ReleaseError, StoreError
from app.release.history import FOUND, in_use
from app.store.releases import ReleaseEvent

HISTORY = 500
"""Events that are looked at for the weights before."""


class History(Protocol):
    """Where releases are written down; the store is one."""

    async def record_release(
        self, version: str, action: str, weights: Mapping[str, float], *, actor: str, reason: str
    ) -> ReleaseEvent:
        """Add an event."""

    async def list_releases(self, limit: int = 100) -> list[ReleaseEvent]:
        """Return the newest events, newest first."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a release, and why."""

    actor: str
    reason: str


class ReleaseHistory:
    """The history of releases as one asker's commands see it.

    Args:
        history: where releases are written down.
        asker: who asks.
        say: takes a line about what could not be written.
    """

    def __init__(self, history: History, asker: Asker, say: Callable[[str], None]) -> None:
        self._history = history
        self._asker = asker
        self._say = say

    async def events(self) -> list[ReleaseEvent]:
        """Return the newest events, newest first.

        Raises:
            ReleaseError: the database does not tell.
        """
        try:
            return await self._history.list_releases(HISTORY)
        except StoreError as error:
            raise ReleaseError(
                f"expected the history of releases in the database, found: {error.message}; give the weights with `split`"
            ) from error

    async def note_found(self, weights: Mapping[str, float]) -> None:
        """Write down weights that no command has set, so that one can go back to them."""
        with contextlib.suppress(StoreError):
            events = await self._history.list_releases(1)
            if not events or in_use(events[0].weights) != in_use(weights):
                most = max(weights, key=lambda version: weights[version])
                await self._history.record_release(
                    most,
                    FOUND,
                    weights,
                    actor=self._asker.actor,
                    reason="in force before, set by hand in the file",
                )

    async def record(
        self, version: str, action: str, weights: Mapping[str, float], reason: str | None = None
    ) -> None:
        """Write down what was done; a database that refuses is told, since it is done all the same."""
        why = self._asker.reason if reason is None else reason
        try:
            await self._history.record_release(
                version, action, weights, actor=self._asker.actor, reason=why
            )
        except StoreError as error:
            self._say(f"warning: done, but not written to the history of releases: {error.message}")


def told(weights: Mapping[str, float], shadows: Sequence[str] = ()) -> str:
    """Write weights as `split` reads them, and who is a shadow."""
    written = " ".join(f"{version}={weight:g}" for version, weight in weights.items())
    return f"{written}, shadows {' '.join(shadows)}" if shadows else written
