"""Collects the elements of a machine into the arrays of the kernel.

Every parameter has a base value, a scatter between machines of the design, and the effects of
faults: value = base * scatter * product(1 + gain s^power) + sum(add s^power), s the severity.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from app.core.errors import ReadingError
from app.demo.simulation.layout import (
    GROUPS,
    Counter,
    Drive,
    Floats,
    Ints,
    Layout,
    Measure,
    Node,
    Parameters,
    State,
)

SCATTER: Mapping[str, float] = {
    "displacement": 0.01, "leakage": 0.2, "viscous": 0.12, "friction": 0.1, "torque": 0.15,
    "setting": 0.015, "lag": 0.1, "turbulent": 0.06, "laminar": 0.06, "clearance": 0.25,
    "bandwidth": 0.08, "stiction": 0.25, "gain": 0.08, "gas_pressure": 0.02, "coulomb": 0.15,
    "stribeck": 0.15, "mass": 0.02, "bearing": 0.15, "droop": 0.1, "speed": 0.005,
    "constant_loss": 0.05, "torque_loss": 0.05, "capacity": 0.05, "to_oil": 0.1, "to_ambient": 0.1,
    "base": 0.08, "air": 0.3, "cooler_ua": 0.06, "tank_ua": 0.1, "volume": 0.05, "walther_a": 4e-4,
}  # fmt: skip
"""Standard deviation of the logarithm of a parameter over machines of one design.

Manufacturers' tolerances: displacement and settings 1 to 2 %, clearances a few micrometres, which
their third power multiplies (Merritt 1967, section 3-2).
"""


class Effect(NamedTuple):
    """What a fault mode does to one parameter at severity 1."""

    mode: int
    group: str
    row: int
    element: int
    gain: float
    add: float
    power: float


class Mode(NamedTuple):
    """A fault of a component and the hours from its onset to failure, as a median."""

    component: str
    fault: str
    life_h: float


@dataclass(frozen=True, slots=True)
class Circuit:
    """The compiled design. Groups of parameters are float64[parameters, elements]."""

    layout: Layout
    base: dict[str, Floats]
    scatter: dict[str, Floats]
    effects: tuple[Effect, ...]
    modes: tuple[Mode, ...]
    signals: tuple[str, ...]
    nodes: dict[str, int]

    def parameters(self, factor: Mapping[str, Floats], severity_MF: Floats) -> Parameters:
        """Return the parameters of M machines.

        Args:
            factor: of each group, float64[M, parameters, elements]: the machines' scatter.
            severity_MF: of each fault mode.
        """
        made = {name: self.base[name] * factor[name] for name in GROUPS}
        added = {name: np.zeros_like(values) for name, values in made.items()}
        for mode, group, row, element, gain, add, power in self.effects:
            grown_M = severity_MF[:, mode] ** power
            made[group][:, row, element] *= 1.0 + gain * grown_M
            added[group][:, row, element] += add * grown_M
        return Parameters(**{name: made[name] + added[name] for name in GROUPS})

    def scattered(self, random: np.random.Generator) -> dict[str, Floats]:
        """Draw the factors of one machine, float64[parameters, elements] of each group."""
        return {
            name: np.exp(self.scatter[name] * random.standard_normal(self.base[name].shape))
            for name in GROUPS
        }

    def rest(self, parameters: Parameters, oil_degC: Floats, position_MA: Floats) -> State:
        """Return machines at rest: drives turn, accumulators are filled, other lines have 2 bar.

        Args:
            parameters: of the M machines.
            oil_degC: temperature of the oil, float64[M].
            position_MA: of the actuators.
        """
        layout, count = self.layout, len(oil_degC)

        def zeros(elements: int) -> Floats:
            return np.zeros((count, elements))

        drives = np.broadcast_to(self.base["drive"][Drive.speed], (count, len(layout.drive_signal)))
        bodies = np.broadcast_to(oil_degC[:, None], (count, len(layout.body_component)))
        filled = parameters.node[:, Node.filled]
        pressure = np.where(filled > 0, filled, 2e5)
        pressure[:, 0] = 0.0
        return State(
            pressure=pressure,
            spool=zeros(len(layout.spool_loop)),
            spool_speed=zeros(len(layout.spool_loop)),
            coil=zeros(len(layout.spool_loop)),
            spool_command=zeros(len(layout.spool_loop)),
            position=position_MA.copy(),
            velocity=zeros(len(layout.actuator_a)),
            speed=drives.copy(),
            swash=zeros(len(layout.pump_in)),
            sensed=zeros(len(layout.pump_in)),
            body=bodies.copy(),
            thermal=np.repeat(oil_degC[:, None], 2, axis=1),
            counters=zeros(len(Counter)),
        )


@dataclass
class Builder:
    """Gathers elements one by one; `circuit` is the result.

    Args:
        components: ids, in order.
        lines: volume in m3 of each node but the tank.
        signals: names of the commands and loads of the duty cycle.
    """

    components: Sequence[str]
    lines: Mapping[str, float]
    signals: Sequence[str]
    nodes: dict[str, int] = field(default_factory=dict)
    rows: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    links: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    owned: dict[tuple[str, str], int] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    modes: list[Mode] = field(default_factory=list)
    outputs: list[tuple[int, int]] = field(default_factory=list)
    cooler_branch: int = -1
    steps_per_s: int = 100

    def __post_init__(self) -> None:
        self.node("tank", 1.0)
        for name, volume in self.lines.items():
            self.node(name, volume)

    def node(self, name: str, volume: float, **gas: float) -> int:
        """Add a node and return its index; with `gas` it is an accumulator."""
        self.nodes[name] = len(self.nodes)
        self.rows["node"].append({"volume": volume, **gas})
        return self.nodes[name]

    def node_of(self, name: str, component: str) -> int:
        """Return the index of a line.

        Raises:
            ReadingError: there is none of this name.
        """
        return _find(self.nodes, name, component, "a line")

    def signal_of(self, name: str | None, component: str) -> int:
        """Return the index of a signal of the duty cycle, -1 without a name.

        Raises:
            ReadingError: there is none of this name.
        """
        places = {each: index for index, each in enumerate(self.signals)}
        return -1 if name is None else _find(places, name, component, "a signal of the duty cycle")

    def add(self, group: str, component: str, links: Mapping[str, int], **values: float) -> int:
        """Add an element of a group to a component and return its index in the group."""
        index = len(self.rows[group])
        self.rows[group].append(values)
        for name, link in links.items():
            self.links[f"{group}_{name}"].append(link)
        self.owned.setdefault((group, component), index)
        return index

    def own(self, group: str, component: str) -> int:
        """Return the first element of a group that belongs to a component.

        Raises:
            ReadingError: the component has none.
        """
        found = self.owned.get((group, component))
        if found is None:
            known = ", ".join(sorted(name for kind, name in self.owned if kind == group))
            raise ReadingError(
                f"expected a component with a {group}, found '{component}': name one of {known}",
                component,
            )
        return found

    def mode(self, component: str, fault: str, life_h: float) -> int:
        """Add a fault mode and return its index."""
        self.modes.append(Mode(component, fault, life_h))
        return len(self.modes) - 1

    def effect(
        self,
        mode: int,
        group: str,
        element: int,
        parameter: str,
        *,
        gain: float = 0.0,
        add: float = 0.0,
        power: float = 1.0,
    ) -> None:
        """Add what a fault does to a parameter at severity 1."""
        row = int(GROUPS[group][parameter])
        self.effects.append(Effect(mode, group, row, element, gain, add, power))

    def circuit(self) -> Circuit:
        """Return the arrays of everything that was added."""
        base = {name: self._block(name, kind) for name, kind in GROUPS.items()}
        scatter = {
            name: np.array([[SCATTER.get(each.name, 0.0)] * base[name].shape[1] for each in kind])
            for name, kind in GROUPS.items()
        }
        links = {name: _ints(self.links[name]) for name in Layout._fields[4:]}
        measures = [measure for measure, _ in self.outputs]
        links |= {
            "output_measure": _ints(measures),
            "output_index": _ints([index for _, index in self.outputs]),
        }
        layout = Layout(
            components=len(self.components),
            signals=len(self.signals),
            steps_per_s=self.steps_per_s,
            cooler_branch=self.cooler_branch,
            **links,
        )
        return Circuit(
            layout,
            base,
            scatter,
            tuple(self.effects),
            tuple(self.modes),
            tuple(self.signals),
            dict(self.nodes),
        )

    def _block(self, name: str, kind: type[IntEnum]) -> Floats:
        return np.array(
            [[row.get(each.name, 0.0) for row in self.rows[name]] for each in kind], dtype=float
        ).reshape(len(kind), len(self.rows[name]))


def measured(measure: str, index: int) -> tuple[int, int]:
    """Return an output of the kernel: the number of a measure, and of what is measured."""
    return int(Measure[measure]), index


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _find(known: Mapping[str, int], name: str, component: str, what: str) -> int:
    if name not in known:
        raise ReadingError(
            f"expected {what} for '{component}', found '{name}': name one of {', '.join(known)}",
            component,
        )
    return known[name]
