"""The release history: records releases and finds the weights that a rollback restores.

A release that was carried out stays so when it cannot be recorded; a warning is reported instead.
Two rollbacks in a row go back two steps.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from app.core.errors import ReleaseError, StoreError
from app.release.config.weights import Split
from app.store.releases import ReleaseEvent

FOUND = "found"
"""Action of weights that were in force without a release command."""
ROLLBACK = "rollback"
STEP = "step"
"""Action of an intermediate weight of a promotion; its rollback goes to before the promotion."""
SHADOW = "shadow"
UNSHADOW = "shadow off"
_MAX_EVENTS = 500


class HistoryStore(Protocol):
    """Where release events are stored: the database, or the ingress's store from another thread."""

    async def record_release(
        self,
        version: str,
        action: str,
        weights: Mapping[str, float],
        designs: Mapping[str, Mapping[str, float]] | None = None,
        *,
        actor: str,
        reason: str,
    ) -> ReleaseEvent:
        """Add an event."""

    async def list_releases(self, limit: int = 100) -> list[ReleaseEvent]:
        """Return the newest events, newest first."""


class Order(NamedTuple):
    """Who orders releases, why, and whether to show the change of the file without making it."""

    actor: str
    reason: str
    dry_run: bool = False


class ReleaseHistory:
    """Records and reads the releases of one order.

    Args:
        store: Where events are stored.
        order: Its actor and reason are recorded with each event.
        report: Receives a warning when an event cannot be recorded.
    """

    def __init__(self, store: HistoryStore, order: Order, report: Callable[[str], None]) -> None:
        self._store = store
        self._order = order
        self._report = report

    async def events(self) -> list[ReleaseEvent]:
        """Return the newest events, newest first.

        Raises:
            ReleaseError: The database does not answer.
        """
        try:
            return await self._store.list_releases(_MAX_EVENTS)
        except StoreError as error:
            raise ReleaseError(
                f"expected the release history in the database, found: {error.message}; set "
                "weights instead"
            ) from error

    async def before(self, split: Split) -> Split:
        """Return the weights before these, which are in force.

        Raises:
            ReleaseError: The history has none, or the database does not answer.
        """
        events = await self.events()
        if events and split_after(events[0]) == split.above_zero():
            earlier = split_before(events)
        else:  # they were set by hand: the newest weights of the history precede them
            earlier = split_after(events[0]) if events else None
        if earlier is None:
            raise ReleaseError(
                "expected earlier weights in the release history, found none: set weights instead"
            )
        return earlier

    async def record_found(self, split: Split) -> None:
        """Record weights that no command set, so that a rollback can restore them."""
        with contextlib.suppress(StoreError):
            events = await self._store.list_releases(1)
            if not events or split_after(events[0]) != split.above_zero():
                largest = max(split.weights, key=lambda version: split.weights[version])
                reason = "in force before, set by hand in the file"
                await self._store.record_release(
                    largest, FOUND, *split, actor=self._order.actor, reason=reason
                )

    async def record(
        self, version: str, action: str, split: Split, reason: str | None = None
    ) -> None:
        """Record a release; without a reason, that of the order."""
        why = self._order.reason if reason is None else reason
        try:
            await self._store.record_release(
                version, action, *split, actor=self._order.actor, reason=why
            )
        except StoreError as error:
            self._report(f"warning: done, but not written to the release history: {error.message}")


def split_after(event: ReleaseEvent) -> Split:
    """Return the weights above 0 that were in force after an event."""
    return Split(event.weights, event.designs).above_zero()


def split_before(events: Sequence[ReleaseEvent]) -> Split | None:
    """Return the weights in force before the current ones, or None when the history has none.

    Args:
        events: Newest first.
    """
    stack: list[Split] = []
    promoted: str | None = None
    for event in reversed(events):
        if event.action in {SHADOW, UNSHADOW}:  # these change no weights
            continue
        weights = split_after(event)
        if event.action == ROLLBACK:
            while stack and stack[-1] != weights:
                stack.pop()
            if not stack:
                stack.append(weights)
        elif not stack or stack[-1] != weights:
            if promoted == event.version and len(stack) > 1:
                stack.pop()
            stack.append(weights)
        promoted = event.version if event.action == STEP else None
    return stack[-2] if len(stack) > 1 else None
