"""Weights as a person writes them, how they are shared when one version gets another, and how shadows change beside them.

Pure. Invariant: weights that come out sum to 100.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.core.errors import InputError

_DIGITS = 4


class ShadowChange(NamedTuple):
    """Versions that become shadows, and versions that no longer are."""

    add: Sequence[str] = ()
    remove: Sequence[str] = ()

    def of(self, shadows: Sequence[str]) -> tuple[str, ...]:
        """Return the shadows after the change of these."""
        kept = [version for version in shadows if version not in self.remove]
        return (*kept, *(version for version in self.add if version not in kept))


UNCHANGED = ShadowChange()


def parse_weights(parts: Sequence[str]) -> dict[str, float]:
    """Read `3=90 4=10`.

    Raises:
        InputError: a part is no `VERSION=WEIGHT`, a version stands there twice, or the weights do not sum to 100.
    """
    weights: dict[str, float] = {}
    for part in parts:
        version, _, number = part.partition("=")
        if not version or (weight := _number(number)) is None or not 0 <= weight <= 100:
            raise InputError(
                f"expected VERSION=WEIGHT with a weight from 0 to 100, found '{part}': such as 3=90 4=10"
            )
        if version in weights:
            raise InputError(f"expected each version once, found {version} twice")
        weights[version] = weight
    total = sum(weights.values())
    if abs(total - 100.0) > 1e-6:
        raise InputError(f"expected weights that sum to 100, found {total:g}: correct them")
    return weights


def parse_steps(text: str) -> tuple[float, ...]:
    """Read `1,10,50,100`, the weights that a version is given one after the other.

    Raises:
        InputError: they do not rise from above 0 to 100.
    """
    steps = [_number(part) for part in text.split(",")]
    known = [step for step in steps if step is not None]
    if len(known) < len(steps) or known != sorted(set(known)) or known[0] <= 0 or known[-1] > 100:
        raise InputError(
            f"expected weights that rise, above 0 and up to 100, found '{text}': such as 1,10,50,100"
        )
    return tuple(known)


def with_share(weights: Mapping[str, float], version: str, share: float) -> dict[str, float]:
    """Give one version a share; what is left stays among the others in their proportion.

    Args:
        weights: of all versions, summing to 100.
        version: one of them.
        share: in percent.

    Raises:
        InputError: no other version has any weight to take what is left.
    """
    others = {name: weight for name, weight in weights.items() if name != version and weight > 0}
    total = sum(others.values())
    if share < 100 and not others:
        raise InputError(
            f"expected another version with weight to take {100 - share:g} %, found none: {version} has all, nothing to promote"
        )
    shared = dict.fromkeys(weights, 0.0)
    shared |= {
        name: round((100.0 - share) * weight / total, _DIGITS) for name, weight in others.items()
    }
    shared[version] = share
    if others:
        largest = max(others, key=lambda name: others[name])
        shared[largest] = round(shared[largest] + 100.0 - sum(shared.values()), _DIGITS)
    return shared


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None
