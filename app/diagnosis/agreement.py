"""Where two diagnoses of the same window say different things.

Pure. Invariant: only what a reader would act on counts, conditions and states, never a difference of digits.
"""

from app.schemas.diagnosis import Diagnosis


def shown(condition: str | None, state: str) -> tuple[str, str]:
    """Return what a reader sees first of a component: its condition, or its state where it has none; the one never equals the other."""
    return ("state", state) if condition is None else ("condition", condition)


def differing_components(one: Diagnosis, other: Diagnosis) -> tuple[str, ...]:
    """Return the ids of the components of which two versions tell different things, in the order of the topology.

    A component differs in its condition where either version tells one, else in its state. What one tells and the other keeps back
    differs.

    Args:
        one: of a window.
        other: of the same window and topology.
    """
    return tuple(
        first.component_id
        for first, second in zip(one.components, other.components, strict=True)
        if shown(first.condition, first.state) != shown(second.condition, second.state)
    )
