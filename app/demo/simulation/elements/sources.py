"""Drives and pumps."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import BaseModel

from app.demo.simulation.circuit import Builder
from app.demo.simulation.elements.base import (
    BAR,
    CM3,
    FAR,
    NOMINAL_VISCOSITY,
    RPM,
    STRICT,
    Element,
)
from app.demo.simulation.layout import Stroke
from app.schemas.equipment import Identifier


class Vibrating(BaseModel):
    """Vibration of a machine at its nominal speed, in mm/s.

    Shares grow with 100 bar of pressure, bearing wear at severity 1, and free air (cavitation).
    """

    model_config = STRICT

    base: float = 1.4
    of_pressure: float = 0.12
    wear: float = 3.0
    air: float = 25.0


class DriveElement(Element):
    """An electric motor or a diesel engine whose speed falls with torque (slip, droop)."""

    kind: Literal["drive"]
    type: ClassVar[str] = "motor"
    turn: ClassVar[int] = 0
    heat_share: ClassVar[float] = 1.0
    speed_rpm: float
    torque_Nm: float
    slip_percent: float = 3.0
    inertia_kgm2: float = 0.5
    bearing_Nm: float = 1.5
    constant_loss_kW: float = 0.5
    load_loss_kW: float = 1.0
    watts_per_A: float = 600.0
    speed_signal: str | None = None
    vibration: Vibrating = Vibrating()
    vibration_line: str
    effects: ClassVar = {
        "bearing_wear": (
            ("drive", "bearing", 6.0, 0.0, 1.3),
            ("vibration", "wear", 0.0, 3.5, 1.0),
        )
    }

    def build(self, to: Builder) -> None:
        """Add drive, its body and its vibration."""
        drive = to.add(
            "drive", self.component_id,
            {"signal": to.signal_of(self.speed_signal, self.component_id), **self._number(to)},
            inertia=self.inertia_kgm2,
            speed=self.speed_rpm * RPM,
            droop=self.torque_Nm / (self.speed_rpm * RPM * self.slip_percent / 100),
            bearing=self.bearing_Nm,
            constant_loss=self.constant_loss_kW * 1e3,
            torque_loss=self.load_loss_kW * 1e3 / self.torque_Nm**2,
            volts=self.watts_per_A,
        )  # fmt: skip
        to.add(
            "body", self.component_id, self._number(to),
            share=1.0, capacity=self.torque_Nm * 150 + 4_000, to_oil=0.0,
            to_ambient=(self.constant_loss_kW + self.load_loss_kW) * 1e3 / 55,
        )  # fmt: skip
        add_vibration(to, self.component_id, self.vibration, drive, self.vibration_line)

    def build_faults(self, to: Builder) -> None:
        """Scale the vibration of a worn bearing by the machine's own."""
        super().build_faults(to)
        scale_vibration(to, self.component_id, self.vibration.wear)


def add_vibration(to: Builder, own: str, vibration: Vibrating, drive: int, line: str) -> None:
    """Add the vibration of a drive or pump."""
    to.add(
        "vibration", own, {"drive": drive, "node": to.node_of(line, own)},
        base=vibration.base, of_pressure=vibration.of_pressure, air=vibration.air,
    )  # fmt: skip


def scale_vibration(to: Builder, own: str, wear: float) -> None:
    """Multiply what wear adds to a component's vibration."""
    index = to.own("vibration", own)
    to.effects[:] = [
        each._replace(add=each.add * wear)
        if each.group == "vibration" and each.element == index and each.add
        else each
        for each in to.effects
    ]


class PumpElement(Element):
    """A pump: fixed, pressure compensated or load sensing.

    The coefficients of Wilson (1946) follow from the efficiencies of the data sheet at
    `pressure_bar` and the drive's speed; half of the torque loss depends on viscosity.
    """

    kind: Literal["pump"]
    type: ClassVar[str] = "pump"
    drive: Identifier
    inlet: str = "tank"
    outlet: str
    displacement_cm3: float
    control: Literal["fixed", "pressure", "load_sensing"] = "fixed"
    pressure_bar: float
    band_bar: float = 10.0
    lag_ms: float = 60.0
    margin_bar: float = 20.0
    torque_limit_Nm: float = FAR
    volumetric_efficiency: float = 0.95
    mechanical_efficiency: float = 0.93
    flow_signal: str | None = None
    pressure_signal: str | None = None
    speed_rpm: float = 1_500
    vibration: Vibrating = Vibrating()
    effects: ClassVar = {
        "leakage": (("pump", "leakage", 4.5, 0.0, 1.0),),
        "bearing_wear": (
            ("pump", "torque", 8.0, 0.0, 1.3),
            ("pump", "leakage", 0.25, 0.0, 1.0),
            ("vibration", "wear", 0.0, 3.5, 1.0),
        ),
    }

    def ports(self) -> Iterator[tuple[str, Literal["in", "out", "both"]]]:
        """Yield inlet and outlet."""
        yield self.inlet, "in"
        yield self.outlet, "out"

    def build(self, to: Builder) -> None:
        """Add pump and vibration."""
        w, pressure = self.speed_rpm * RPM, self.pressure_bar * BAR
        displacement = self.displacement_cm3 * CM3
        lost = 1 / self.mechanical_efficiency - 1
        drive = to.own("drive", self.drive)
        to.add(
            "pump", self.component_id,
            {
                "in": to.node_of(self.inlet, self.component_id),
                "out": to.node_of(self.outlet, self.component_id),
                "drive": drive,
                "stroke": Stroke[self.control],
                "flow_signal": to.signal_of(self.flow_signal, self.component_id),
                "pressure_signal": to.signal_of(self.pressure_signal, self.component_id),
                **self._number(to),
            },
            displacement=displacement,
            leakage=(1 - self.volumetric_efficiency) * w * NOMINAL_VISCOSITY / pressure,
            viscous=0.5 * lost * pressure / (NOMINAL_VISCOSITY * w),
            friction=0.4 * lost,
            torque=0.1 * lost * displacement * pressure,
            setting=pressure, band=self.band_bar * BAR, lag=self.lag_ms * 1e-3,
            torque_limit=self.torque_limit_Nm, margin=self.margin_bar * BAR, air_loss=2.0,
        )  # fmt: skip
        add_vibration(to, self.component_id, self.vibration, drive, self.outlet)

    def build_faults(self, to: Builder) -> None:
        """Scale the vibration of a worn bearing by the pump's own."""
        super().build_faults(to)
        scale_vibration(to, self.component_id, self.vibration.wear)
