"""Cylinders and hydraulic motors."""

import math
from collections.abc import Iterator
from typing import ClassVar, Literal

from app.demo.simulation.circuit import Builder
from app.demo.simulation.elements.base import BAR, CM3, FAR, L_MIN, NOMINAL_VISCOSITY, Element


class ActuatorElement(Element):
    """What cylinders and motors share: two lines, leakage between them, friction and loads."""

    a: str
    b: str
    balance: str = "tank"
    """Line of a counterbalance chamber that pushes as A does."""
    leakage_ml_min: float = 30.0
    """At 100 bar."""
    load: float = 0.0
    """Constant load, N or Nm, against extension."""
    load_signal: str | None = None
    resistance_signal: str | None = None
    coulomb: float
    breakaway: float
    viscous: float
    stribeck_speed: float = 0.02
    effects: ClassVar = {
        "seal_leakage": (
            ("actuator", "leakage", 0.0, 2.6, 1.0),
            ("actuator", "coulomb", -0.2, 0.0, 1.0),
        ),
        "bearing_wear": (
            ("actuator", "coulomb", 6.0, 0.0, 1.0),
            ("actuator", "viscous", 5.0, 0.0, 1.0),
        ),
    }
    worn_leakage_l_min: float = 6.0
    """Leakage at 100 bar when the seals have failed."""

    def ports(self) -> Iterator[tuple[str, Literal["in", "out", "both"]]]:
        """Yield both lines."""
        yield self.a, "in"
        yield self.b, "in"
        if self.balance != "tank":
            yield self.balance, "in"

    def add_actuator(self, to: Builder, **values: float) -> None:
        """Add the actuator with its own areas, mass and stops."""
        own = self.component_id
        to.add(
            "actuator", own,
            {
                "a": to.node_of(self.a, own),
                "b": to.node_of(self.b, own),
                "c": to.node_of(self.balance, own),
                "load": to.signal_of(self.load_signal, own),
                "resistance": to.signal_of(self.resistance_signal, own),
                **self._number(to),
            },
            viscous=self.viscous, coulomb=self.coulomb, stribeck=self.breakaway,
            stribeck_speed=self.stribeck_speed, load=self.load,
            leakage=self.leakage_ml_min * 1e-3 * L_MIN / (100 * BAR) * NOMINAL_VISCOSITY,
            **values,
        )  # fmt: skip

    def build_faults(self, to: Builder) -> None:
        """Give worn seals their leakage."""
        super().build_faults(to)
        index = to.own("actuator", self.component_id)
        worn = self.worn_leakage_l_min * L_MIN / (100 * BAR) * NOMINAL_VISCOSITY
        to.effects[:] = [
            each._replace(add=each.add * worn)
            if each.group == "actuator" and each.element == index and each.add
            else each
            for each in to.effects
        ]


class CylinderElement(ActuatorElement):
    """A double-acting cylinder; `a` is the side of the piston."""

    kind: Literal["cylinder"]
    type: ClassVar[str] = "cylinder"
    bore_mm: float
    rod_mm: float
    balance_bore_mm: float = 0.0
    stroke_mm: float
    mass_kg: float
    contact_mm: float = FAR
    stiffness_N_mm: float = 0.0
    """Of what the rod meets at `contact_mm`: a mould, a jaw."""

    def build(self, to: Builder) -> None:
        """Add the actuator."""
        area = math.pi / 4 * (self.bore_mm * 1e-3) ** 2
        rod = math.pi / 4 * (self.rod_mm * 1e-3) ** 2
        self.add_actuator(
            to, area_a=area, area_b=area - rod,
            area_c=math.pi / 4 * (self.balance_bore_mm * 1e-3) ** 2,
            mass=self.mass_kg, stroke=self.stroke_mm * 1e-3, contact=self.contact_mm * 1e-3,
            stiffness=self.stiffness_N_mm * 1e3,
        )  # fmt: skip


class MotorElement(ActuatorElement):
    """A hydraulic motor; speeds and torques at its shaft."""

    kind: Literal["motor"]
    type: ClassVar[str] = "motor"
    displacement_cm3: float
    inertia_kgm2: float
    stribeck_speed: float = 1.0

    def build(self, to: Builder) -> None:
        """Add the actuator; it turns without end in both directions."""
        area = self.displacement_cm3 * CM3
        self.add_actuator(
            to, area_a=area, area_b=area, mass=self.inertia_kgm2, stroke=FAR, contact=FAR,
        )  # fmt: skip
