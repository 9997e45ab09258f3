"""Reads, shares and formats traffic weights; changes of shadow versions. Pure."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from app.core.errors import InputError, ReleaseError, UnknownVersion
from app.serving.ingress.traffic import Machine, Traffic

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


class Split(NamedTuple):
    """Traffic weights in percent by version; `designs` has those of designs with their own."""

    weights: Mapping[str, float]
    designs: Mapping[str, Mapping[str, float]] = MappingProxyType({})

    @classmethod
    def of(cls, traffic: Traffic) -> "Split":
        """Return the weights of all released versions."""
        weights = {release.version: release.weight for release in traffic.releases}
        return cls(weights, traffic.designs)

    def above_zero(self) -> "Split":
        """Return the weights of the versions that receive traffic."""
        return Split(
            above_zero(self.weights),
            {design: above_zero(weights) for design, weights in self.designs.items()},
        )

    def changed(self, design: str | None, weights: Mapping[str, float]) -> "Split":
        """Return the split with other weights of a design, or of all that have none of their own.

        Args:
            design: None for all machines of designs without weights of their own.
            weights: percent by version; empty ends the design's own.
        """
        if design is None:
            return self._replace(weights=weights)
        designs = {name: item for name, item in self.designs.items() if name != design}
        return self._replace(designs=designs | {design: weights} if weights else designs)

    def versions(self) -> set[str]:
        """Return the versions that have weight anywhere."""
        return {
            version
            for weights in (self.weights, *self.designs.values())
            for version in above_zero(weights)
        }

    def gaining(self, before: "Split") -> list[str]:
        """Return the versions whose weight is larger than before, of any machines."""
        pairs = [(self.weights, before.weights)]
        pairs += [
            (weights, before.designs.get(design, before.weights))
            for design, weights in self.designs.items()
        ]
        found = [
            version
            for weights, earlier in pairs
            for version, weight in weights.items()
            if weight > earlier.get(version, 0.0)
        ]
        return list(dict.fromkeys(found))

    def largest_gain(self, before: "Split") -> str:
        """Return the version that gains most, of the weights of all machines or of a design."""
        pairs = [(self.weights, before.weights)]
        pairs += [
            (weights, before.designs.get(design, {})) for design, weights in self.designs.items()
        ]
        gains = [
            (weight - earlier.get(version, 0.0), version)
            for weights, earlier in pairs
            for version, weight in weights.items()
        ]
        return max(gains, key=lambda gain: gain[0])[1]


def keeping_designs_served(before: Traffic, split: Split) -> tuple[Split, tuple[str, ...]]:
    """Keep the versions of designs of which no version would have weight.

    Args:
        before: the traffic in force.
        split: requested weights.

    Returns:
        The split, in which those designs have the weights in force as their own, and the designs.
    """
    kept = {}
    for design in before.known_designs:
        able = before.able(Machine("", design))
        had_weight = any(release.weight > 0 for release in able)
        has_weight = any(split.weights.get(release.version) for release in able)
        is_own = design in before.designs or design in split.designs
        if had_weight and not has_weight and not is_own:
            kept[design] = before.shares(design)
    return split._replace(designs={**split.designs, **kept}), tuple(kept)


def with_promoted(before: Traffic, version: str, share: float, design: str | None) -> Split:
    """Give one version a share of the machines that it serves.

    The weights of all machines change if they are those of the version's designs alone, and the
    designs' own weights otherwise: machines of other designs keep their versions.

    Args:
        before: the traffic in force.
        version: A released version.
        share: In percent.
        design: The only one whose weights change; None for all of the version.

    Raises:
        InputError: The version does not serve the design, or no other version has weight.
    """
    release, split = before.find(version), Split.of(before)
    assert release is not None
    if design is not None and not release.serves(Machine("", design)):
        raise InputError(
            f"expected a design that version {version} serves "
            f"({', '.join(release.designs or ())}), found '{design}': correct it",
            "design",
        )
    designs = _own_designs(before, version) if design is None else (design,)
    if not designs:
        return split._replace(weights=with_share(split.weights, version, share))
    for each in designs:
        shares = dict.fromkeys([version], 0.0) | before.shares(each)
        alone = {version: 100.0}
        moved = alone if shares == alone else with_share(shares, version, share)
        split = split.changed(each, above_zero(moved))
    return split


def _own_designs(before: Traffic, version: str) -> tuple[str, ...]:
    """Return the designs whose own weights a promotion changes; none if it changes the default."""
    release, weights = before.find(version), above_zero(Split.of(before).weights)
    if release is None or release.designs is None:
        return ()
    others = [each for each in before.releases if each.version in weights and each != release]
    is_alone = all(
        each.designs is not None and set(each.designs) <= set(release.designs) for each in others
    )
    # else the share would be another one among the versions that serve the design
    serving = [sum(each.serves(Machine("", name)) for each in others) for name in release.designs]
    same = all(count in (0, len(others)) for count in serving)
    own = set(before.designs) & set(release.designs)
    return () if is_alone and same and not own else release.designs


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


def format_weights(weights: Mapping[str, float]) -> str:
    """Format weights as `split` parses them."""
    return " ".join(f"{version}={weight:g}" for version, weight in weights.items())


def format_split(split: Split, shadows: Sequence[str] = ()) -> str:
    """Format weights, those of designs with their own, and the shadows."""
    parts = [format_weights(split.weights)]
    parts += [f"{name} {format_weights(weights)}" for name, weights in split.designs.items()]
    parts += [f"shadows {' '.join(shadows)}"] if shadows else []
    return ", ".join(parts)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None


def orphans_without(traffic: Traffic, version: str) -> list[str]:
    """Return the designs that only this version can serve.

    Raises:
        ReleaseError: It answers for machines that another version can serve.
    """
    designs = [each for each in traffic.known_designs if version in traffic.shares(each)]
    shared = [each for each in designs if len(traffic.able(Machine("", each))) > 1]
    if shared:
        raise ReleaseError(
            f"expected a version that answers for no machine, found that version {version} "
            f"answers for {', '.join(shared)} without weight, as the first one released: give "
            "another version weight there first"
        )
    return designs


def served_alone(traffic: Traffic, version: str) -> list[str]:
    """Return the designs whose machines a version serves although it has no weight."""
    return [each for each in traffic.known_designs if traffic.shares(each) == {version: 100.0}]


def unreleased(version: str, weights: Mapping[str, float]) -> UnknownVersion:
    """Return the error about a version that is not released."""
    return UnknownVersion(
        f"expected a released version, found '{version}': there are {', '.join(weights)}; deploy it"
    )
