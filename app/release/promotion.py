"""Walks a version's weight up in steps, watches it on each, and goes back by itself when a guard breaks.

Invariant: it ends with all steps done, with the weights from before the first step, or, when somebody else changed the weights meanwhile,
with theirs.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from app.errors import ReleaseConflict, ReleaseError, UnknownVersion
from app.release.guards import Guard, Measured, Meter, broken, unknown
from app.release.history import ROLLBACK, STEP
from app.release.operations import Releases
from app.release.shares import with_share

POLL_S = 1.0
BLIND_S = 10.0
"""How long measuring may fail before that counts as a broken guard."""
PROMOTE = "promote"


class GuardBroken(ReleaseError):
    """A guard did not hold; the weights from before are in force again."""


class Promotion(NamedTuple):
    """What to promote and how: the weights to walk, how long to stay on each, and what must hold meanwhile."""

    version: str
    steps: Sequence[float]
    hold_s: float
    guards: tuple[Guard, ...]


async def promote(
    releases: Releases, promotion: Promotion, meters: Sequence[Meter], say: Callable[[str], None]
) -> None:
    """Promote a version.

    Args:
        releases: moves the weights.
        promotion: what to do.
        meters: which know all names of its guards.
        say: takes a line about what was done.

    Raises:
        GuardBroken: a guard broke, or could not be judged; the weights from before are in force again.
        ReleaseConflict: somebody else changed the weights meanwhile, and they stay.
        HydraulicDiagnosticsError: weights could not be moved.
    """
    before = releases.weights()
    version = promotion.version
    if version not in before:
        raise UnknownVersion(
            f"expected a released version, found '{version}': there are {', '.join(before)}; deploy it"
        )
    for place, step in enumerate(promotion.steps):
        weights = with_share(before, version, step)
        last = place == len(promotion.steps) - 1
        await releases.split(weights, PROMOTE if last else STEP, version)
        if last and not promotion.guards:
            return
        for meter in meters:
            await meter.begin(version)
        reason = await _watch(releases, promotion, weights, meters, say)
        if reason is not None:
            say(f"guard broken at weight {step:g}: {reason}")
            await releases.split(before, ROLLBACK, version, reason=f"guard broken at weight {step:g}: {reason}")
            raise GuardBroken(f"version {version} was rolled back at weight {step:g}: {reason}")
    say(f"version {version} was promoted")


async def _watch(
    releases: Releases,
    promotion: Promotion,
    weights: Mapping[str, float],
    meters: Sequence[Meter],
    say: Callable[[str], None],
) -> str | None:
    """Stay on a step; return why it can't be stayed on, or None when its time is over and everything held."""
    began = measured_at = time.monotonic()
    measured: dict[str, Measured] = {}
    while True:
        await asyncio.sleep(min(POLL_S, promotion.hold_s))
        if releases.weights() != dict(weights):
            raise ReleaseConflict(
                "expected the weights of this promotion in the file, found others: somebody changed them, and they stay"
            )
        now = time.monotonic()
        try:
            if promotion.guards:
                measured = {name: found for meter in meters for name, found in (await meter.measure()).items()}
            measured_at = now
        except ReleaseError as error:
            if now - measured_at > BLIND_S:
                return f"nothing could be measured for {BLIND_S:g} s: {error.message}"
        if (found := broken(promotion.guards, measured)) is not None:
            return f"{found[0].text}, found {found[1].value:.4g} in {found[1].calls} calls"
        if now - began < promotion.hold_s:
            continue
        still = unknown(promotion.guards, measured)
        if not still:
            say(f"held for {now - began:.0f} s: " + (_told(measured) or "no guards"))
            return None
        if now - began > 2 * promotion.hold_s + POLL_S:
            names = ", ".join(guard.text for guard in still)
            calls = min(measured[guard.name].calls for guard in still) if measured else 0
            return f"{names} can't be judged, only {calls} calls came in {now - began:.0f} s"


def _told(measured: Mapping[str, Measured]) -> str:
    return ", ".join(
        f"{name} {found.value:.4g} in {found.calls} calls"
        for name, found in measured.items()
        if found.value is not None
    )
