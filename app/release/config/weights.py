"""Reads, shares and formats traffic weights; changes of shadow versions. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.core.errors import InputError

_DIGITS = 4


class ShadowChange(NamedTuple):
    """Versions that become shadows, and versions that stop being shadows."""

    add: Sequence[str] = ()
    remove: Sequence[str] = ()

    def apply(self, shadows: Sequence[str]) -> tuple[str, ...]:
        """Return the shadows after the change."""
        kept = [version for version in shadows if version not in self.remove]
        return (*kept, *(version for version in self.add if version not in kept))


UNCHANGED = ShadowChange()


def parse_weights(parts: Sequence[str]) -> dict[str, float]:
    """Parse `3=90 4=10`.

    Returns:
        Percent by version.

    Raises:
        InputError: A part is not `VERSION=WEIGHT`, a version is repeated, or the sum is not 100.
    """
    weights: dict[str, float] = {}
    for part in parts:
        version, _, number = part.partition("=")
        if not version or (weight := _number(number)) is None or not 0 <= weight <= 100:
            raise InputError(
                "expected VERSION=WEIGHT with a weight from 0 to 100, such as 3=90 4=10, found "
                f"'{part}'"
            )
        if version in weights:
            raise InputError(f"expected each version once, found {version} twice")
        weights[version] = weight
    total = sum(weights.values())
    if abs(total - 100.0) > 1e-6:
        raise InputError(f"expected weights that sum to 100, found {total:g}: correct them")
    return weights


def parse_steps(text: str) -> tuple[float, ...]:
    """Parse `1,10,50,100`, the successive weights of a promotion in percent.

    Raises:
        InputError: They do not rise from above 0 to at most 100.
    """
    steps = [_number(part) for part in text.split(",")]
    known = [step for step in steps if step is not None]
    if len(known) < len(steps) or known != sorted(set(known)) or known[0] <= 0 or known[-1] > 100:
        raise InputError(
            "expected weights that rise, above 0 and up to 100, such as 1,10,50,100, found "
            f"'{text}'"
        )
    return tuple(known)


def with_share(weights: Mapping[str, float], version: str, share: float) -> dict[str, float]:
    """Give one version a share and scale the other weights to the remainder.

    Args:
        weights: Percent by version, of all versions, summing to 100.
        version: One of them.
        share: In percent.

    Returns:
        Percent by version, summing to 100.

    Raises:
        InputError: No other version has weight to take the remainder.
    """
    others = {name: weight for name, weight in weights.items() if name != version and weight > 0}
    total = sum(others.values())
    if share < 100 and not others:
        raise InputError(
            f"expected another version with weight to take {100 - share:g} %, found none: "
            f"{version} has all, nothing to promote"
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


def above_zero(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the weights of the versions that receive traffic."""
    return {version: weight for version, weight in weights.items() if weight > 0}


def format_weights(weights: Mapping[str, float], shadows: Sequence[str] = ()) -> str:
    """Format weights as `split` parses them, followed by the shadows."""
    written = " ".join(f"{version}={weight:g}" for version, weight in weights.items())
    return f"{written}, shadows {' '.join(shadows)}" if shadows else written


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None
