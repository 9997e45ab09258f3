"""Draws how the components of one machine wear: onset, growth, failure and repair, by seed.

Severity runs from 0, as new, to 1, the threshold of failure: s = ((h - onset) / life)^shape over
operating hours h. Health is 1 - s of a component's worst fault; RUL is the time to its first
failure. Invariant: after a repair a component's faults begin anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.core.errors import ReadingError
from app.demo.simulation.circuit import Mode
from app.demo.simulation.layout import Floats


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One fault of one component, from the hour of onset until repair.

    Args:
        mode: number of the fault mode.
        onset_h: operating hour at which it begins.
        life_h: from onset to failure.
        shape: exponent; above 1 it grows faster and faster.
        repaired_h: operating hour of the repair, or infinity.
    """

    mode: int
    onset_h: float
    life_h: float
    shape: float
    repaired_h: float = float("inf")

    @property
    def failure_h(self) -> float:
        """Operating hour at which severity is 1."""
        return self.onset_h + self.life_h

    def severity(self, hour: float) -> float:
        """Return the severity at an operating hour, in [0, 1]."""
        if not self.onset_h < hour < self.repaired_h:
            return 0.0
        return float(min(1.0, ((hour - self.onset_h) / self.life_h) ** self.shape))

    def rate(self, hour: float) -> float:
        """Return the growth of severity per 1000 operating hours."""
        if not self.onset_h < hour < min(self.repaired_h, self.failure_h):
            return 0.0
        share = (hour - self.onset_h) / self.life_h
        return float(1_000 * self.shape / self.life_h * share ** (self.shape - 1))


class Repair(NamedTuple):
    """Maintenance of a component: its wear starts anew."""

    component: str
    hour: float


class Condition(NamedTuple):
    """Truth about a component at one hour; `fault` is the worst, empty without one.

    `rul_h` is finite also before the onset of wear, when no reading shows it yet.
    """

    health: float
    degradation_rate: float
    rul_h: float
    fault: str


@dataclass(frozen=True, slots=True)
class WearPlan:
    """The wear of one machine."""

    modes: tuple[Mode, ...]
    trajectories: tuple[Trajectory, ...]
    repairs: tuple[Repair, ...] = ()

    def severities(self, hour: float) -> Floats:
        """Return the severity of every fault mode, float64[F]."""
        found_F = np.zeros(len(self.modes))
        for each in self.trajectories:
            found_F[each.mode] = max(found_F[each.mode], each.severity(hour))
        return found_F

    def condition(self, component: str, hour: float) -> Condition:
        """Return the truth about a component."""
        own = [
            each
            for each in self.trajectories
            if self.modes[each.mode].component == component and hour < each.repaired_h
        ]
        ahead = [max(0.0, each.failure_h - hour) for each in own]
        worst = max(own, key=lambda each: each.severity(hour), default=None)
        severity = worst.severity(hour) if worst is not None else 0.0
        if worst is None or severity == 0.0:
            return Condition(1.0, 0.0, min(ahead, default=float("inf")), "")
        fault = self.modes[worst.mode].fault
        return Condition(1.0 - severity, worst.rate(hour), min(ahead), fault)

    def injected(self, name: str, severity: float, start_h: float, over_h: float) -> "WearPlan":
        """Return the plan with a fault that reaches a severity `over_h` hours after its onset.

        Args:
            name: `component.fault`, or a fault that one component has.
            severity: above 0, at most 1.
            start_h: operating hour of the onset.
            over_h: hours.

        Raises:
            ReadingError: no component, or more than one, has the fault, or a number is out of
                range.
        """
        if not 0 < severity <= 1:
            raise ReadingError(
                f"expected a severity above 0 and at most 1, found {severity:g}", "severity"
            )
        if not over_h > 0:
            raise ReadingError(f"expected hours above 0, found {over_h:g}", "over")
        mode = mode_of(self.modes, name)
        new = Trajectory(mode, start_h, over_h / severity, 1.0)
        component = self.modes[mode].component
        kept = [
            each
            for each in self.trajectories
            if self.modes[each.mode].component != component or each.repaired_h <= start_h
        ]
        repairs = tuple(
            each for each in self.repairs if each.component != component or each.hour <= start_h
        )
        return WearPlan(self.modes, (*kept, new), repairs)


def mode_of(modes: Sequence[Mode], name: str) -> int:
    """Return the number of a fault mode.

    Args:
        modes: of the design.
        name: `component.fault`, or the fault alone when one component has it.

    Raises:
        ReadingError: none, or more than one, fits.
    """
    names = [f"{mode.component}.{mode.fault}" for mode in modes]
    fits = [i for i, mode in enumerate(modes) if name in (names[i], mode.fault)]
    if len(fits) != 1:
        options = ", ".join(names[i] for i in fits) or ", ".join(names)
        raise ReadingError(
            f"expected a fault as component.fault, found '{name}': name one of {options}", "fault"
        )
    return fits[0]


def healthy_plan(modes: Sequence[Mode], hours: float) -> WearPlan:
    """Return the plan of a machine on which nothing wears within these hours."""
    late = tuple(
        Trajectory(mode, hours + each.life_h, each.life_h, 1.0) for mode, each in enumerate(modes)
    )
    return WearPlan(tuple(modes), late)


def constant_plan(modes: Sequence[Mode], severities: Mapping[int, float]) -> WearPlan:
    """Return a plan whose faults keep these severities, by number of the mode; others have none."""
    plan = healthy_plan(modes, 1e6)
    # so slow that the severity does not change within any history
    constant = (Trajectory(mode, -size * 1e9, 1e9, 1.0) for mode, size in severities.items())
    return WearPlan(plan.modes, (*plan.trajectories, *constant))


def draw_plan(
    modes: Sequence[Mode], hours: float, wearing: float, random: np.random.Generator
) -> WearPlan:
    """Draw the wear of one machine over a history.

    About `wearing` components wear within the history; where in its wear a component is at the
    beginning is uniform, so severities are spread. All others fail later. One in six worn
    components has a second fault. A worn component is repaired when it fails, or before.

    Args:
        modes: of the design.
        hours: length of the history.
        wearing: expected number of components that wear.
        random: source of chance.
    """
    by_component: dict[str, list[int]] = {}
    for index, mode in enumerate(modes):
        by_component.setdefault(mode.component, []).append(index)
    names = list(by_component)
    count = min(len(names), int(random.poisson(wearing)))
    worn = set(random.permutation(len(names))[:count].tolist())
    trajectories: list[Trajectory] = []
    repairs: list[Repair] = []
    for place, name in enumerate(names):
        own = by_component[name]
        beginning = -1.0
        if place in worn:
            chosen = [int(each) for each in random.permutation(own)]
            chosen = chosen[: 2 if random.uniform() < 1 / 6 else 1]
            faults = [_begin(modes[mode], mode, hours, random) for mode in chosen]
            fails = min(each.failure_h for each in faults)
            # preventive maintenance repairs three in ten before they fail
            share = float(random.uniform(0.5, 0.95)) if random.uniform() < 0.3 else 1.0
            onset = min(each.onset_h for each in faults)
            repaired = onset + share * (fails - onset)
            if repaired <= 0:
                repaired = fails
            trajectories += [
                Trajectory(each.mode, each.onset_h, each.life_h, each.shape, repaired)
                for each in faults
            ]
            if 0 < repaired < hours:
                repairs.append(Repair(name, repaired))
            beginning = repaired
        for number in own:
            life_h = _life(modes[number], random)
            later = max(hours, beginning) + float(random.exponential(modes[number].life_h))
            trajectories.append(Trajectory(number, later, life_h, _shape(random)))
    return WearPlan(tuple(modes), tuple(trajectories), tuple(repairs))


def _begin(mode: Mode, index: int, hours: float, random: np.random.Generator) -> Trajectory:
    life_h = _life(mode, random)
    # it fails after the beginning, and its wear begins before the end
    onset_h = float(random.uniform(-0.98 * life_h, 0.9 * hours))
    return Trajectory(index, onset_h, life_h, _shape(random))


def _life(mode: Mode, random: np.random.Generator) -> float:
    return float(mode.life_h * np.exp(0.3 * random.standard_normal()))


def _shape(random: np.random.Generator) -> float:
    return float(random.uniform(1.0, 2.0))
