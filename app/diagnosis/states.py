"""States of a component, and where two diagnoses of the same window differ."""

import numpy as np
from numpy.typing import NDArray

from app.diagnosis.input_quality import Thresholds
from app.schemas.diagnosis import Diagnosis, State

STATES: tuple[State, ...] = ("critical", "degraded", "watch", "healthy")
"""From worst to best."""


def state_of(health: float, previous: State | None, thresholds: Thresholds) -> State:
    """Return the state of a health; a better state than the previous one needs the hysteresis.

    Args:
        health: in [0, 1].
        previous: last state of the component, or None.
        thresholds: health where each state begins.
    """
    borders = critical, degraded, watch = thresholds.borders
    rank = (health >= critical) + (health >= degraded) + (health >= watch)
    if previous is not None and previous != "unknown":
        before = STATES.index(previous)
        while rank > before and health < borders[rank - 1] + thresholds.hysteresis:
            rank -= 1
    return STATES[rank]


def state_ranks(
    health_N: NDArray[np.floating], thresholds: Thresholds | None = None
) -> NDArray[np.int64]:
    """Return the positions in `STATES` that `state_of` gives without previous states.

    Args:
        health_N: in [0, 1].
        thresholds: default ones without any.
    """
    borders = (thresholds or Thresholds()).borders
    # as a diagnosis states it: 0.6 as float32 is just above 0.6
    return np.searchsorted(borders, np.round(health_N.astype(np.float64), 6), side="right")


def condition_or_state(condition: str | None, state: str) -> tuple[str, str]:
    """Return a component's condition, or its state without one; the one never equals the other."""
    return ("state", state) if condition is None else ("condition", condition)


def differing_components(one: Diagnosis, other: Diagnosis) -> tuple[str, ...]:
    """Return the ids of the components with different conditions, in topology order.

    Without a condition the states are compared; a condition always differs from a state. Digits of
    health do not count.

    Args:
        one: of a window.
        other: of the same window and topology, such as by another version.
    """
    return tuple(
        first.component_id
        for first, second in zip(one.components, other.components, strict=True)
        if condition_or_state(first.condition, first.state)
        != condition_or_state(second.condition, second.state)
    )
