"""Traffic weights, and which released version answers for which equipment.

The choice is a pure function of (equipment id, design, weights), the same in every replica. Only
versions that can serve the machine take part; among them it is weighted rendezvous hashing.
Equipment changes its version only when weights change, and raising one weight only adds equipment
to that version (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005: the
logarithmic method).
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.core.errors import InputError, UnknownVersion
from app.schemas.equipment import Equipment, Identifier
from app.schemas.places import some_of

VersionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]
Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Designs = Annotated[tuple[Identifier, ...], Field(min_length=1, max_length=1_000)]
MAX_OWN_WEIGHTS = 1_000
"""Designs that may have weights of their own."""


class Machine(NamedTuple):
    """What the choice of a version depends on, beside the traffic."""

    equipment_id: str
    design: str


def machine_of(equipment: Equipment) -> Machine:
    """Return what the choice of a version depends on."""
    return Machine(equipment.equipment_id, equipment.design)


class Release(BaseModel):
    """A version that receives traffic: the Serve application that answers for it and its weight.

    `designs` are those of its checkpoint that it serves; a release without them may serve any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: VersionName
    application: Annotated[str, StringConstraints(min_length=1)]
    designs: Designs | None = None
    weight: Weight

    def serves(self, machine: Machine) -> bool:
        """Return whether the version can serve a machine."""
        return self.designs is None or machine.design in self.designs


class Traffic(BaseModel):
    """All releases and how traffic is split between them; weights are percentages and sum to 100.

    `designs` has the weights of designs with weights of their own, by version. A shadow also scores
    copies of windows that another version answered; its diagnosis is stored beside the returned
    one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    releases: Annotated[tuple[Release, ...], Field(min_length=1, max_length=16)]
    designs: Annotated[
        Mapping[Identifier, Mapping[VersionName, Weight]], Field(max_length=MAX_OWN_WEIGHTS)
    ] = {}
    shadows: Annotated[tuple[VersionName, ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _weights_sum_to_100(self) -> "Traffic":
        _check_sum(sum(release.weight for release in self.releases), "")
        versions = [release.version for release in self.releases]
        if len(set(versions)) < len(versions):
            raise ValueError(
                f"expected each version once, found {versions}: remove the repeated release"
            )
        return self

    @model_validator(mode="after")
    def _own_weights_are_of_versions_that_serve_the_design(self) -> "Traffic":
        for design, weights in self.designs.items():
            _check_sum(sum(weights.values()), f" for design '{design}'")
            for version in weights:
                release = self.find(version)
                if release is None or not release.serves(Machine("", design)):
                    able = [each.version for each in self.able(Machine("", design))]
                    raise ValueError(
                        f"expected weights of versions that serve design '{design}' "
                        f"({', '.join(able) or 'none is released'}), found {version}: correct the "
                        "weights of the design"
                    )
        return self

    @model_validator(mode="after")
    def _shadows_are_released_once(self) -> "Traffic":
        unknown = [version for version in self.shadows if self.find(version) is None]
        if unknown:
            raise ValueError(
                f"expected shadows that are released, found {', '.join(unknown)}: take them out of "
                "shadows, or deploy them"
            )
        if len(set(self.shadows)) < len(self.shadows):
            raise ValueError(
                f"expected each shadow once, found {list(self.shadows)}: remove the repeated one"
            )
        return self

    def find(self, version: str) -> Release | None:
        """Return the release of a version, or None."""
        return next((release for release in self.releases if release.version == version), None)

    @property
    def known_designs(self) -> tuple[str, ...]:
        """Designs that releases name, in order; machines of others may exist."""
        named = dict.fromkeys(each for item in self.releases for each in item.designs or ())
        return (*named, *(each for each in self.designs if each not in named))

    @property
    def in_service(self) -> tuple[Release, ...]:
        """Releases that answer for some machines by their weights."""
        found = {each.version for each in self.releases if each.weight > 0}
        for design in self.known_designs:
            found |= self.shares(design).keys()
        return tuple(release for release in self.releases if release.version in found)

    def able(self, machine: Machine) -> list[Release]:
        """Return the releases that can serve a machine."""
        return [release for release in self.releases if release.serves(machine)]

    def weighted(self, machine: Machine) -> list[tuple[Release, float]]:
        """Return the releases that answer for machines such as this one, with their weights.

        The weights are those of its design, else those of all machines, of the versions that can
        serve it. Where these have none, the one that was released first answers. Where no version
        can serve it, those with weight say so.
        """
        able = self.able(machine)
        own = self.designs.get(machine.design)
        found = [
            (release, release.weight if own is None else own.get(release.version, 0.0))
            for release in able or self.releases
        ]
        return [each for each in found if each[1] > 0] or [(able[0], 100.0)]

    def shares(self, design: str) -> dict[str, float]:
        """Return the percentage of a design's machines by version that answers for them."""
        found = self.weighted(Machine("", design))
        total = sum(weight for _, weight in found)
        if math.isclose(total, 100.0, abs_tol=1e-6):
            return {release.version: weight for release, weight in found}
        return {release.version: 100.0 * weight / total for release, weight in found}


def order_of_versions(machine: Machine, traffic: Traffic) -> tuple[Release, ...]:
    """Rank the releases for one machine.

    Args:
        machine: any id and design.
        traffic: the releases with their weights.

    Returns:
        The releases with weight: the first answers, the others are its fallbacks in this order.
    """
    weighted = traffic.weighted(machine)
    if len(weighted) > 1:
        weighted.sort(key=lambda each: _distance(machine.equipment_id, *each))
    return tuple([release for release, _ in weighted])


def forced_release(version: str, machine: Machine, traffic: Traffic) -> Release:
    """Return the release of a version that a request names.

    Raises:
        UnknownVersion: it is not released.
        InputError: it can't serve the machine.
    """
    release = traffic.find(version)
    if release is None:
        released = ", ".join(release.version for release in traffic.releases)
        raise UnknownVersion(
            f"expected a released version, found '{version}': there are {released}; leave "
            "model_version out for the one that traffic chooses",
            "model_version",
        )
    if not release.serves(machine):
        able = [each.version for each in traffic.able(machine)]
        others = f", or name {' or '.join(able)}" if able else ""
        raise InputError(
            f"expected a version for machines of design '{machine.design}', found version "
            f"{version}, which serves {some_of(release.designs or ())}: leave model_version out "
            f"for the one that traffic chooses{others}",
            "model_version",
        )
    return release


def _distance(equipment_id: str, release: Release, weight: float) -> float:
    digest = hashlib.blake2b(f"{release.version}\0{equipment_id}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
    return -math.log(uniform) / weight


def _check_sum(total: float, of: str) -> None:
    if not math.isclose(total, 100.0, abs_tol=1e-6):
        raise ValueError(
            f"expected weights{of} that sum to 100, found {total:g}: correct the weights"
        )
