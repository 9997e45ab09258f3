"""Promotes a version in steps of traffic weight, and rolls back when a guard breaks.

A guard on disagreement makes the version and those with traffic shadow each other meanwhile.
Invariant: a promotion ends with all steps done, with the weights from before, or with those that
somebody else set meanwhile; and with the shadows from before. Only when the rollback fails too, or
the process is killed, a step's weights or shadows stay; the error says so.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.core.errors import HydraulicDiagnosticsError, InputError, ReleaseError, SettingsError
from app.release.attempts import WeightsChanged
from app.release.clients.service_api import ServiceApi
from app.release.config.weights import (
    ShadowChange,
    Split,
    format_split,
    unreleased,
    with_promoted,
)
from app.release.guards import (
    DISAGREEMENT,
    UNMEASURED,
    Guard,
    Measurement,
    MetricsMeter,
    first_broken,
    undecided,
    unit_of,
)
from app.release.history import ROLLBACK, STEP
from app.release.operations import Releases

POLL_S = 1.0
PROMOTE = "promote"
ENDED = "the promotion ended"


class GuardBroken(ReleaseError):
    """A guard broke; the weights from before are in force again."""


class Promotion(NamedTuple):
    """A promotion.

    Args:
        version: The version to promote.
        steps: Its successive weights, in percent.
        hold_s: Seconds to stay on each step.
        guards: Limits that must hold meanwhile.
        design: Whose machines' weights change; None for all designs that the version serves.
    """

    version: str
    steps: Sequence[float]
    hold_s: float
    guards: tuple[Guard, ...]
    design: str | None = None


def checked_promotion(
    version: str,
    steps: Sequence[float],
    hold_s: float,
    guards: tuple[Guard, ...],
    design: str | None = None,
) -> Promotion:
    """Return a promotion if its guards have time to be decided.

    Raises:
        InputError: There are guards and no time to stay on a step.
    """
    if guards and hold_s <= 0:
        raise InputError(
            "expected a time to watch the guards for, found none: say how long each step holds",
            "hold_s",
        )
    return Promotion(version, steps, hold_s, guards, design)


async def carry_out(
    promotion: Promotion,
    releases: Releases,
    service: ServiceApi,
    report: Callable[[str], None],
    *,
    dry_run: bool,
) -> None:
    """Promote a version by the metrics of the service; in a dry run, report the first change.

    Raises:
        HydraulicDiagnosticsError: As `promote`.
    """
    weights = releases.read().weights
    if promotion.version not in weights:
        raise unreleased(promotion.version, weights)
    if dry_run:
        first = split_at(releases, promotion, promotion.steps[0])
        before = releases.read().split
        shadows = ShadowChange(add=new_shadows(releases, promotion))
        await releases.move_from([before], first, STEP, promotion.version, shadows=shadows)
        return
    meter = MetricsMeter(service.metrics, _others(releases, promotion))
    await promote(releases, promotion, meter, report)


async def promote(
    releases: Releases, promotion: Promotion, meter: MetricsMeter, report: Callable[[str], None]
) -> None:
    """Promote a version.

    Raises:
        GuardBroken: A guard broke or could not be decided; the weights from before are in force.
        WeightsChanged: Somebody else changed the weights meanwhile, and they stay.
        HydraulicDiagnosticsError: A step failed; the weights from before are in force, or the
            message says that they are not.
    """
    read = releases.read()
    before, version = read.split, promotion.version
    if version not in before.weights:
        raise unreleased(version, before.weights)
    steps = [split_at(releases, promotion, step) for step in promotion.steps]
    added = new_shadows(releases, promotion)
    try:
        await _Walk(releases, promotion, meter, report, before, steps, added).run()
        await releases.unshadow(added, version, ENDED)
    except BaseException:  # also when somebody else's weights stay, who did not add these shadows
        try:
            await releases.unshadow(added, version, ENDED)
        except HydraulicDiagnosticsError as error:
            report(
                f"warning: expected to end the shadows {' '.join(added)}, found: {error.message}: "
                "end them by hand"
            )
        raise
    report(f"version {version} was promoted")


def new_shadows(releases: Releases, promotion: Promotion) -> tuple[str, ...]:
    """Return the versions that a promotion makes shadows."""
    if all(guard.name != DISAGREEMENT for guard in promotion.guards):
        return ()
    shadows = releases.read().config.traffic.shadows
    compared = dict.fromkeys([promotion.version, *_others(releases, promotion)])
    return tuple(name for name in compared if name not in shadows)


def split_at(releases: Releases, promotion: Promotion, share: float) -> Split:
    """Return the weights of a step of a promotion that begins now.

    Raises:
        InputError: The version does not serve the design, or no other version has weight.
    """
    traffic = releases.read().config.traffic
    return with_promoted(traffic, promotion.version, share, promotion.design)


def _others(releases: Releases, promotion: Promotion) -> tuple[str, ...]:
    """Return the versions that answer for machines that the promoted one serves."""
    traffic = releases.read().config.traffic
    release = traffic.find(promotion.version)
    if promotion.design is not None:
        designs: Sequence[str] = [promotion.design]
    elif release is None or release.designs is None:
        return tuple(each.version for each in traffic.in_service)
    else:
        designs = release.designs
    return tuple(dict.fromkeys(name for each in designs for name in traffic.shares(each)))


@dataclass(slots=True)
class _Walk:
    """The steps of one promotion; `splits` has their weights, `added` the shadows that it adds."""

    releases: Releases
    promotion: Promotion
    meter: MetricsMeter
    report: Callable[[str], None]
    before: Split
    splits: Sequence[Split]
    added: Sequence[str]

    async def run(self) -> None:
        """Take the steps; on an error, roll back or say why that failed."""
        promotion, step, split = self.promotion, 0.0, self.before
        own = [split]  # weights that this promotion may find in the file
        try:
            for step, following in zip(promotion.steps, self.splits, strict=True):
                previous, split = split, following
                own = [previous, split]
                is_last = step == promotion.steps[-1]
                await self.releases.move_from(
                    [previous],
                    split,
                    PROMOTE if is_last else STEP,
                    promotion.version,
                    shadows=ShadowChange(add=self.added),
                )
                if is_last and not promotion.guards:
                    return
                await self._hold(step, split)
        except WeightsChanged:
            raise
        except (Exception, asyncio.CancelledError) as error:  # no step stays without its guards
            reason = _reason(error, step)
            self.report(reason)
            await self._roll_back(own, reason)
            if isinstance(error, GuardBroken):
                raise GuardBroken(
                    f"version {promotion.version} was rolled back at weight {step:g}: "
                    f"{reason.partition(': ')[2]}"
                ) from error
            if isinstance(error, HydraulicDiagnosticsError):
                raise ReleaseError(
                    f"{reason}; the weights before the promotion are in force: "
                    f"{format_split(self.before)}"
                ) from error
            raise

    async def _roll_back(self, own: Sequence[Split], reason: str) -> None:
        shadows = ShadowChange(remove=self.added)
        try:
            await self.releases.move_from(
                [*own, self.before],
                self.before,
                ROLLBACK,
                self.promotion.version,
                reason,
                shadows,
            )
        except WeightsChanged:
            raise
        except HydraulicDiagnosticsError as error:
            raise ReleaseError(
                f"{reason}; expected to go back to {format_split(self.before)}, found: "
                f"{error.message}: look at the traffic in force, and set the weights"
            ) from error

    async def _hold(self, step: float, split: Split) -> None:
        await self.meter.begin(self.promotion.version)
        failure = await self._watch(split)
        if failure is not None:
            raise GuardBroken(f"guard broken at weight {step:g}: {failure}")

    async def _watch(self, split: Split) -> str | None:
        """Measure during a step; return why it fails, or None when it passes."""
        guards, hold_s = self.promotion.guards, self.promotion.hold_s
        outage_s = self.releases.outage_s
        began = read_at = measured_at = time.monotonic()
        measured: Mapping[str, Measurement] = {}
        while True:
            await asyncio.sleep(min(POLL_S, hold_s))
            now = time.monotonic()
            try:
                found = self.releases.read().split
            except (SettingsError, ReleaseError) as error:  # somebody may be saving it
                if now - read_at > outage_s:
                    name = self.releases.name
                    return f"{name} could not be read for {outage_s:g} s: {error.message}"
            else:
                if found.above_zero() != split.above_zero():
                    raise WeightsChanged(found, self.releases.name)
                read_at = now
            try:
                if guards:
                    measured = await self.meter.measure()
                measured_at = now
            except ReleaseError as error:
                if now - measured_at > outage_s:
                    return f"nothing could be measured for {outage_s:g} s: {error.message}"
            if (broken := first_broken(guards, measured)) is not None:
                guard, measurement = broken
                return f"{guard.text}, found {_format(guard.name, measurement)}"
            if now - began < hold_s:
                continue
            waiting = undecided(guards, measured)
            if not waiting:
                known = [
                    f"{name} {_format(name, measurement)}"
                    for name, measurement in measured.items()
                    if measurement.value is not None
                ]
                self.report(f"passed after {now - began:.0f} s: {', '.join(known) or 'no guards'}")
                return None
            if now - began > 2 * hold_s + POLL_S:
                calls = {name: measured.get(name, UNMEASURED).calls for name, _, _ in waiting}
                fewest = min(calls, key=lambda name: calls[name])
                return (
                    f"{', '.join(guard.text for guard in waiting)} can't be decided, only "
                    f"{calls[fewest]} {unit_of(fewest)} in {now - began:.0f} s"
                )


def _reason(error: BaseException, step: float) -> str:
    if isinstance(error, GuardBroken):
        return error.message
    if isinstance(error, asyncio.CancelledError):
        return f"interrupted at weight {step:g}"
    return f"stopped at weight {step:g}: {error}"


def _format(name: str, measurement: Measurement) -> str:
    return f"{measurement.value:.4g} in {measurement.calls} {unit_of(name)}"
