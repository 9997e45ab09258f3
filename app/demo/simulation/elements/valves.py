"""Relief, reducing and directional valves."""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

from app.demo.simulation.circuit import Builder
from app.demo.simulation.elements.base import BAR, L_MIN, NOMINAL_VISCOSITY, Element
from app.demo.simulation.layout import Loop, Opens
from app.schemas.equipment import Identifier


class ReliefElement(Element):
    """A relief, check, sequence or counterbalance valve: opens in proportion above its setting."""

    kind: Literal["relief"]
    type: ClassVar[str] = "valve"
    inlet: str
    outlet: str = "tank"
    setting_bar: float
    band_bar: float = 8.0
    flow_l_min: float
    drop_bar: float = 30.0
    clearance_ml_min: float = 20.0
    setting_signal: str | None = None
    """Signal of the duty cycle that multiplies the setting of a proportional valve."""
    effects: ClassVar = {
        "drift": (
            ("branch", "setting", -0.36, 0.0, 1.0),
            ("branch", "clearance", 30.0, 0.0, 1.0),
        )
    }

    def ports(self) -> Iterator[tuple[str, Literal["in", "out", "both"]]]:
        """Yield inlet and outlet."""
        yield self.inlet, "in"
        yield self.outlet, "out"

    opens: ClassVar[Opens] = Opens.relief

    def build(self, to: Builder) -> None:
        """Add one branch."""
        q = self.flow_l_min * L_MIN
        self._branch(
            to, self.inlet, self.outlet,
            {"opens": self.opens, "signal": to.signal_of(self.setting_signal, self.component_id)},
            laminar=0.1 * self.drop_bar * BAR / (q * NOMINAL_VISCOSITY),
            turbulent=0.9 * self.drop_bar * BAR / q**2,
            setting=self.setting_bar * BAR, band=self.band_bar * BAR,
            clearance=self.clearance_ml_min * 1e-3 * L_MIN / (100 * BAR) * NOMINAL_VISCOSITY,
        )  # fmt: skip


class ReducingElement(ReliefElement):
    """A pressure-reducing valve: closes as the pressure behind it reaches its setting."""

    kind: Literal["reducing"]  # type: ignore[assignment]
    opens: ClassVar[Opens] = Opens.reducing


class ValveElement(Element):
    """A directional, proportional or servo valve with three or four ways.

    `flow_l_min` at `drop_bar` over one fully open edge; `clearance_ml_min` over a closed one at 100
    bar. It is open loop, or holds the position of an actuator or the pressure of a line.
    """

    kind: Literal["valve"]
    type: ClassVar[str] = "valve"
    turn: ClassVar[int] = 2
    p: str
    t: str = "tank"
    a: str
    b: str | None = None
    flow_l_min: float
    drop_bar: float = 35.0
    meter_out: float = 1.0
    """Flow of the edges to T as a share of those from P."""
    bandwidth_hz: float = 20.0
    damping: float = 0.8
    overlap: float = 0.03
    stiction: float = 0.004
    clearance_ml_min: float = 150.0
    signal: str
    loop: Literal["open", "position", "pressure"] = "open"
    target: Identifier | None = None
    gain: float = 1.0
    """Opening per m or rad, or per bar, of control error."""
    sensed_by: Identifier | None = None
    make_up: bool = False
    """With anti-cavitation check valves from T to A and B."""
    coil_ms: float = 0.0
    """Time constant of a switching solenoid's current; 0 for a valve without one."""
    pull_in: float = 0.65
    """Share of the rated current that moves the spool."""
    effects: ClassVar = {
        "weak_solenoid": (("spool", "current", -0.3, 0.0, 1.0),),
        "stiction": (("spool", "stiction", 0.0, 0.5, 1.0), ("spool", "bandwidth", -0.7, 0.0, 1.0)),
        "wear": (
            ("branch", "clearance", 50.0, 0.0, 1.0),
            ("branch:p", "clearance", 2.5, 0.0, 1.0),
            ("branch", "overlap", 0.0, -0.04, 1.0),
        ),
    }

    def ports(self) -> Iterator[tuple[str, Literal["in", "out", "both"]]]:
        """Yield P, T, A and B."""
        yield self.p, "in"
        yield self.t, "out"
        yield self.a, "both"
        if self.b is not None:
            yield self.b, "both"

    def _elements(self, to: Builder, group: str) -> list[int]:
        if group != "branch:p":
            return super()._elements(to, group)
        # the drop over the edges from P is the largest, so they erode most
        supply = to.node_of(self.p, self.component_id)
        return [i for i in super()._elements(to, "branch") if to.links["branch_a"][i] == supply]

    def build(self, to: Builder) -> None:
        """Add the spool and its metering edges."""
        own, loop, target = self.component_id, Loop[self.loop], 0
        if loop == Loop.position:
            target = to.own("actuator", self.target or own)
        elif loop == Loop.pressure:
            target = to.node_of(self.target or self.a, own)
        spool = to.add(
            "spool", own,
            {
                "loop": loop,
                "signal": to.signal_of(self.signal, own),
                "target": target,
                "a": to.node_of(self.a, own),
                "b": to.node_of(self.b or self.t, own),
                "pump": -1 if self.sensed_by is None else to.own("pump", self.sensed_by),
            },
            bandwidth=2 * math.pi * self.bandwidth_hz,
            damping=self.damping,
            stiction=self.stiction,
            gain=self.gain / BAR if loop == Loop.pressure else self.gain,
            coil=self.coil_ms * 1e-3,
            current=1.0,
            pull_in=self.pull_in,
        )  # fmt: skip
        if self.make_up:
            for work in (self.a, self.b or self.a):
                self._branch(
                    to, self.t, work, {"opens": Opens.relief},
                    laminar=1e4 / (self.flow_l_min * L_MIN * NOMINAL_VISCOSITY),
                    turbulent=0.4 * BAR / (self.flow_l_min * L_MIN) ** 2,
                    setting=0.02 * BAR, band=0.1 * BAR,
                )  # fmt: skip
        edges = [(self.p, self.a, 1), (self.a, self.t, -1)]
        if self.b is not None:
            edges += [(self.p, self.b, -1), (self.b, self.t, 1)]
        for first, second, sign in edges:
            q = self.flow_l_min * L_MIN * (self.meter_out if second == self.t else 1.0)
            self._branch(
                to, first, second, {"opens": Opens.spool, "spool": spool, "sign": sign},
                laminar=0.02 * self.drop_bar * BAR / (q * NOMINAL_VISCOSITY),
                turbulent=self.drop_bar * BAR / q**2,
                overlap=self.overlap,
                clearance=self.clearance_ml_min * 1e-3 * L_MIN / (100 * BAR) * NOMINAL_VISCOSITY,
            )  # fmt: skip
