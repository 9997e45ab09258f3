"""What the history of releases says about going back.

Pure. Invariant: going back twice in a row goes back two steps, never to and fro.
"""

from collections.abc import Mapping, Sequence

from app.store.releases import ReleaseEvent

FOUND = "found"
"""Weights that were in force without having been set by a command of `app.release`."""
ROLLBACK = "rollback"
STEP = "step"
"""A weight on the way of a promotion: going back from it goes to before the promotion."""
SHADOW = "shadow"
UNSHADOW = "shadow off"
"""These two change no weights, so there is nothing to go back from."""


def weights_before(events: Sequence[ReleaseEvent]) -> dict[str, float] | None:
    """Return the weights that were in force before those of now, or None when the history knows none.

    Args:
        events: newest first.
    """
    stack: list[dict[str, float]] = []
    walking: str | None = None
    for event in reversed(events):
        if event.action in {SHADOW, UNSHADOW}:
            continue
        weights = in_use(event.weights)
        if event.action == ROLLBACK:
            while stack and stack[-1] != weights:
                stack.pop()
            if not stack:
                stack.append(weights)
        elif not stack or stack[-1] != weights:
            if walking == event.version and len(stack) > 1:
                stack.pop()
            stack.append(weights)
        walking = event.version if event.action == STEP else None
    return stack[-2] if len(stack) > 1 else None


def in_use(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the weights without the versions that have none."""
    return {version: weight for version, weight in weights.items() if weight > 0}
