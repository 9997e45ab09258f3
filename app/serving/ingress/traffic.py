"""Traffic weights, and which released version answers for which equipment.

The choice is a pure function of (equipment id, weights), the same in every replica: weighted
rendezvous hashing. Equipment changes its version only when weights change, and raising one weight
only adds equipment to that version (Schindelhauer and Schomaker, "Weighted Distributed Hash
Tables", SPAA 2005: the logarithmic method).
"""

import hashlib
import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

VersionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")]


class Release(BaseModel):
    """A version that receives traffic: the Serve application that answers for it and its weight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: VersionName
    application: Annotated[str, StringConstraints(min_length=1)]
    weight: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Traffic(BaseModel):
    """All releases and how traffic is split between them; weights are percentages and sum to 100.

    A shadow also scores copies of windows that another version answered; its diagnosis is stored
    beside the returned one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    releases: Annotated[tuple[Release, ...], Field(min_length=1, max_length=16)]
    shadows: Annotated[tuple[VersionName, ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _weights_sum_to_100(self) -> "Traffic":
        total = sum(release.weight for release in self.releases)
        if not math.isclose(total, 100.0, abs_tol=1e-6):
            raise ValueError(
                f"expected weights that sum to 100, found {total:g}: correct the weights"
            )
        versions = [release.version for release in self.releases]
        if len(set(versions)) < len(versions):
            raise ValueError(
                f"expected each version once, found {versions}: remove the repeated release"
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


def order_of_versions(equipment_id: str, traffic: Traffic) -> tuple[Release, ...]:
    """Rank the releases for one equipment.

    Args:
        equipment_id: any text.
        traffic: the releases with their weights.

    Returns:
        The releases with weight: the first answers, the others are its fallbacks in this order.
    """
    weighted = [release for release in traffic.releases if release.weight > 0]
    if len(weighted) > 1:
        weighted.sort(key=lambda release: _distance(equipment_id, release))
    return tuple(weighted)


def _distance(equipment_id: str, release: Release) -> float:
    digest = hashlib.blake2b(f"{release.version}\0{equipment_id}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
    return -math.log(uniform) / release.weight
