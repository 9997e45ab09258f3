"""Walks a version's weight up in steps, watches it on each, and goes back by itself when a guard breaks or anything else stops it.

A guard on disagreement makes the version and those that it takes weight from shadow each other meanwhile.
Invariant: it ends with all steps done, with the weights from before the first step, or, when somebody else changed the weights meanwhile,
with theirs; and with the shadows from before. Only where the way back fails too, or the process is killed, do a step's weights or
shadows stay; the error says so.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from app.core.errors import HydraulicDiagnosticsError, ReleaseError, SettingsError, UnknownVersion
from app.release.config.shares import ShadowChange, with_share
from app.release.guards import DISAGREEMENT, Guard, Measured, Meter, broken, counted, unknown
from app.release.history import ROLLBACK, STEP, in_use
from app.release.ledger import told
from app.release.operations import Releases, WeightsTaken

POLL_S = 1.0
BLIND_S = 10.0
"""How long measuring, or reading the file, may fail before that counts as a broken guard."""
PROMOTE = "promote"
DONE = "the promotion is over"
NOTHING = Measured(None, 0)


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
        WeightsTaken: somebody else changed the weights meanwhile, and they stay.
        HydraulicDiagnosticsError: a step could not be made; the weights from before are in force, or the message says that they are not.
    """
    before = releases.weights()
    version = promotion.version
    if version not in before:
        raise UnknownVersion(
            f"expected a released version, found '{version}': there are {', '.join(before)}; deploy it"
        )
    added = new_shadows(releases, promotion)
    try:
        await _walk(releases, promotion, before, added, meters, say)
        await releases.unshadow(added, version, DONE)
    except (
        BaseException
    ):  # also when somebody else's weights stay: they did not ask for these shadows
        try:
            await releases.unshadow(added, version, DONE)
        except HydraulicDiagnosticsError as left:
            say(
                f"warning: expected to end the shadows {' '.join(added)}, found: {left.message}: use `shadow VERSION --off`"
            )
        raise
    say(f"version {version} was promoted")


def new_shadows(releases: Releases, promotion: Promotion) -> tuple[str, ...]:
    """Return the versions that a promotion makes shadows, those that are some already left out.

    Raises:
        SettingsError: the file can't be used.
    """
    if all(guard.name != DISAGREEMENT for guard in promotion.guards):
        return ()
    pair, shadows = (
        dict.fromkeys([promotion.version, *in_use(releases.weights())]),
        releases.shadows(),
    )
    return tuple(version for version in pair if version not in shadows)


async def _walk(
    releases: Releases,
    promotion: Promotion,
    before: Mapping[str, float],
    added: Sequence[str],
    meters: Sequence[Meter],
    say: Callable[[str], None],
) -> None:
    """Walk the steps; on an error the weights and shadows from before are in force again, or it says why not."""
    version = promotion.version
    own = [before]
    step = 0.0
    try:
        for place, step in enumerate(promotion.steps):
            weights = with_share(before, version, step)
            own = [own[-1], weights]
            last = place == len(promotion.steps) - 1
            action = PROMOTE if last else STEP
            await releases.follow(
                own[:1], weights, action, version, shadows=ShadowChange(add=added)
            )
            if last and not promotion.guards:
                return
            await _hold(releases, promotion, weights, meters, say)
    except WeightsTaken:
        raise
    except (
        Exception,
        asyncio.CancelledError,
    ) as error:  # Ctrl-C cancels: no weights stay that nobody watches
        reason = _in_words(error, step)
        say(reason)
        await _go_back(releases, own, before, version, reason, added)
        if isinstance(error, GuardBroken):
            raise GuardBroken(
                f"version {version} was rolled back at weight {step:g}: {reason.partition(': ')[2]}"
            ) from error
        if isinstance(error, HydraulicDiagnosticsError):
            raise ReleaseError(
                f"{reason}; the weights before the promotion are in force: {told(before)}"
            ) from error
        raise


async def _hold(
    releases: Releases,
    promotion: Promotion,
    weights: Mapping[str, float],
    meters: Sequence[Meter],
    say: Callable[[str], None],
) -> None:
    for meter in meters:
        await meter.begin(promotion.version)
    reason = await _watch(releases, promotion, weights, meters, say)
    if reason is not None:
        raise GuardBroken(f"guard broken at weight {weights[promotion.version]:g}: {reason}")


async def _go_back(
    releases: Releases,
    own: Sequence[Mapping[str, float]],
    before: Mapping[str, float],
    version: str,
    reason: str,
    added: Sequence[str],
) -> None:
    try:
        await releases.follow(own, before, ROLLBACK, version, reason, ShadowChange(remove=added))
    except WeightsTaken:
        raise
    except HydraulicDiagnosticsError as error:
        raise ReleaseError(
            f"{reason}; expected to go back to {told(before)}, found: {error.message}: look at `status`, and give the weights with `split`"
        ) from error


def _in_words(error: BaseException, step: float) -> str:
    if isinstance(error, GuardBroken):
        return error.message
    if isinstance(error, asyncio.CancelledError):
        return f"interrupted at weight {step:g}"
    return f"stopped at weight {step:g}: {error}"


async def _watch(
    releases: Releases,
    promotion: Promotion,
    weights: Mapping[str, float],
    meters: Sequence[Meter],
    say: Callable[[str], None],
) -> str | None:
    """Stay on a step; return why it can't be stayed on, or None when its time is over and everything held."""
    began = read_at = measured_at = time.monotonic()
    measured: dict[str, Measured] = {}
    while True:
        await asyncio.sleep(min(POLL_S, promotion.hold_s))
        now = time.monotonic()
        try:
            if in_use(found_weights := releases.weights()) != in_use(weights):
                raise WeightsTaken(found_weights)
            read_at = now
        except SettingsError as error:  # somebody may just be saving it
            if now - read_at > BLIND_S:
                return f"the file could not be read for {BLIND_S:g} s: {error.message}"
        try:
            if promotion.guards:
                measured = {
                    name: found
                    for meter in meters
                    for name, found in (await meter.measure()).items()
                }
            measured_at = now
        except ReleaseError as error:
            if now - measured_at > BLIND_S:
                return f"nothing could be measured for {BLIND_S:g} s: {error.message}"
        if (found := broken(promotion.guards, measured)) is not None:
            return f"{found[0].text}, found {found[1].value:.4g} in {found[1].calls} {counted(found[0].name)}"
        if now - began < promotion.hold_s:
            continue
        still = unknown(promotion.guards, measured)
        if not still:
            say(f"held for {now - began:.0f} s: " + (_told(measured) or "no guards"))
            return None
        if now - began > 2 * promotion.hold_s + POLL_S:
            names = ", ".join(guard.text for guard in still)
            fewest = min(still, key=lambda guard: measured.get(guard.name, NOTHING).calls)
            calls = measured.get(fewest.name, NOTHING).calls
            return f"{names} can't be judged, only {calls} {counted(fewest.name)} came in {now - began:.0f} s"


def _told(measured: Mapping[str, Measured]) -> str:
    return ", ".join(
        f"{name} {found.value:.4g} in {found.calls} {counted(name)}"
        for name, found in measured.items()
        if found.value is not None
    )
