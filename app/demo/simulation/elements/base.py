"""What every kind of component has: sensors, faults, and its place in the circuit.

Parameters are data-sheet values in their usual units. Each kind states what its faults change at
severity 1, the threshold of failure.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from app.demo.simulation.circuit import Builder
from app.demo.simulation.layout import Measure, Opens
from app.schemas.equipment import Identifier

STRICT = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

BAR = 1e5
L_MIN = 1e-3 / 60
RPM = 2 * math.pi / 60
CM3 = 1e-6 / (2 * math.pi)
"""cm3 per turn in m3/rad."""
NOMINAL_VISCOSITY = 0.03
"""Pa s at which leakages of data sheets are taken: about 35 mm2/s."""
FAR = 1e9


class Usual(NamedTuple):
    """What instruments of a measure usually are; `factor` converts SI into the unit."""

    quantity: str
    unit: str
    factor: float


USUAL: Mapping[str, Usual] = {
    "pressure": Usual("pressure", "bar", 1e-5),
    "differential_pressure": Usual("differential_pressure", "bar", 1e-5),
    "flow": Usual("flow", "l/min", 6e4),
    "position": Usual("position", "mm", 1e3),
    "velocity": Usual("speed", "m/s", 1.0),
    "spool": Usual("ratio", "%", 100.0),
    "speed": Usual("speed", "rpm", 1 / RPM),
    "pump_flow": Usual("flow", "l/min", 6e4),
    "swash": Usual("ratio", "%", 100.0),
    "leakage": Usual("flow", "l/min", 6e4),
    "force": Usual("force", "kN", 1e-3),
    "command": Usual("ratio", "%", 100.0),
    "torque": Usual("torque", "Nm", 1.0),
    "valve_command": Usual("ratio", "%", 100.0),
    "power": Usual("power", "kW", 1e-3),
    "current": Usual("current", "A", 1.0),
    "vibration": Usual("vibration", "mm/s", 1.0),
    "oil_temperature": Usual("temperature", "degC", 1.0),
    "body_temperature": Usual("temperature", "degC", 1.0),
    "cooler_outlet": Usual("temperature", "degC", 1.0),
    "return_temperature": Usual("temperature", "degC", 1.0),
    "fan": Usual("ratio", "%", 100.0),
    "level": Usual("level", "%", 100.0),
    "contamination": Usual("contamination", "iso4406", 1.0),
    "ambient": Usual("temperature", "degC", 1.0),
    "cooler_power": Usual("power", "kW", 1e-3),
    "cooler_effectiveness": Usual("efficiency", "%", 100.0),
    "efficiency": Usual("efficiency", "%", 100.0),
}

_OTHER_UNITS: Mapping[str, Usual] = {
    "rpm": Usual("speed", "rpm", 1 / RPM),
    "deg": Usual("position", "deg", 180 / math.pi),
    "W": Usual("power", "W", 1.0),
}


class Instrument(BaseModel):
    """A sensor: what the topology says of it, what it measures, and how well.

    `noise` is the standard deviation of a value, `offset` and `gain` those of its calibration over
    machines; noise and offset in `unit`, gain as a share. Quantity and unit follow from `measures`;
    noise and offset, if not given, from the range.
    """

    model_config = STRICT

    sensor_id: Identifier = Field(alias="id")
    measures: str
    at: str | None = None
    range: tuple[float, float]
    turns: bool = False
    """The position or velocity of a rotating actuator, in deg or rpm."""
    watts: bool = False
    """A power in W instead of kW."""
    shift: float = 0.0
    """What the instrument's place adds to the value, in `unit`."""
    noise: Annotated[float, Field(ge=0)] | None = None
    offset: Annotated[float, Field(ge=0)] | None = None
    gain: Annotated[float, Field(ge=0)] = 0.005

    @field_validator("measures")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in USUAL:
            raise ValueError(f"expected one of {', '.join(USUAL)}")
        return name

    @property
    def usual(self) -> Usual:
        """Quantity, unit and factor."""
        if self.turns:
            return _OTHER_UNITS["deg" if self.measures == "position" else "rpm"]
        if self.watts:
            return _OTHER_UNITS["W"]
        return USUAL[self.measures]

    @property
    def quantity(self) -> str:
        """Quantity of the topology."""
        return self.usual.quantity

    @property
    def unit(self) -> str:
        """Unit of the topology."""
        return self.usual.unit

    @property
    def span(self) -> float:
        """Width of the range."""
        return self.range[1] - self.range[0]


class FaultSpec(BaseModel):
    """A fault of a component.

    `life_h` is the median time from onset to failure; `size` scales what the kind states for
    severity 1.
    """

    model_config = STRICT

    life_h: Annotated[float, Field(gt=0)]
    size: Annotated[float, Field(gt=0)] = 1.0


class Element(BaseModel):
    """A component of a machine."""

    model_config = STRICT

    component_id: Identifier = Field(alias="id")
    sensors: tuple[Instrument, ...] = ()
    faults: dict[str, FaultSpec] = {}

    type: ClassVar[str]
    turn: ClassVar[int] = 1
    """When it is built: 0 before all others, 2 after them."""
    effects: ClassVar[Mapping[str, tuple[tuple[str, str, float, float, float], ...]]] = {}
    """By fault: group, parameter, gain, add and power at severity 1."""
    heat_share: ClassVar[float] = 0.35
    heat_J_K: ClassVar[float] = 12_000.0
    """Of the body whose temperature a sensor may measure."""

    @model_validator(mode="after")
    def _has_faults(self) -> Self:
        for fault in self.faults:
            if fault not in self.effects:
                known = ", ".join(self.effects) or "none"
                raise ValueError(f"expected faults of its kind ({known}), found '{fault}'")
        return self

    def ports(self) -> Iterator[tuple[str, Literal["in", "out", "both"]]]:
        """Yield the lines that the component joins, and the direction of flow there."""
        return iter(())

    def build(self, to: Builder) -> None:
        """Add the component's elements to a circuit."""

    def build_faults(self, to: Builder) -> None:
        """Add the component's fault modes; every one dirties the oil a little."""
        for fault, spec in self.faults.items():
            mode = to.mode(self.component_id, fault, spec.life_h)
            to.effect(mode, "system", 0, "dirt", add=0.5 * spec.size)
            for group, parameter, gain, add, power in self.effects[fault]:
                for index in self._elements(to, group):
                    size = spec.size if gain >= 0 else 1.0
                    to.effect(
                        mode, group.partition(":")[0], index, parameter,
                        gain=gain * size, add=add * spec.size, power=power,
                    )  # fmt: skip

    def _elements(self, to: Builder, group: str) -> list[int]:
        if group == "system":
            return [0]
        if group == "branch":
            number = list(to.components).index(self.component_id)
            return [i for i, c in enumerate(to.links["branch_component"]) if c == number]
        return [to.own(group, self.component_id)]

    def _number(self, to: Builder) -> dict[str, int]:
        return {"component": list(to.components).index(self.component_id)}

    def _branch(
        self, to: Builder, a: str, b: str, links: Mapping[str, int], **values: float
    ) -> int:
        ends = {
            "a": to.node_of(a, self.component_id),
            "b": to.node_of(b, self.component_id),
            "opens": Opens.fixed,
            "spool": -1,
            "sign": 1,
            "signal": -1,
            **self._number(to),
            **links,
        }
        return to.add("branch", self.component_id, ends, **values)

    def output_index(self, instrument: Instrument, to: Builder) -> int:
        """Return which element an instrument measures.

        Raises:
            ReadingError: the component has none that it can measure.
        """
        measure, own = Measure[instrument.measures], self.component_id
        if measure == Measure.pressure:
            return to.node_of(instrument.at or "", own)
        if measure == Measure.command:
            return to.signal_of(instrument.at or "", own)
        groups = {
            "branch": (Measure.differential_pressure, Measure.flow, Measure.efficiency),
            "actuator": (Measure.position, Measure.velocity, Measure.force),
            "spool": (Measure.spool, Measure.valve_command),
            "drive": (Measure.speed, Measure.torque, Measure.power, Measure.current),
            "pump": (Measure.pump_flow, Measure.swash, Measure.leakage),
            "vibration": (Measure.vibration,),
        }
        for group, measures in groups.items():
            if measure in measures:
                return to.own(group, instrument.at or own)
        if measure == Measure.body_temperature:
            if ("body", own) not in to.owned:
                self.add_body(to)
            return to.own("body", own)
        return 0

    def add_body(self, to: Builder) -> None:
        """Add the mass that the component's losses warm."""
        to.add(
            "body", self.component_id, self._number(to),
            share=self.heat_share, capacity=self.heat_J_K, to_oil=self.heat_J_K / 250,
            to_ambient=self.heat_J_K / 1_500,
        )  # fmt: skip


class TankElement(Element):
    """The tank, in which the oil may take up air."""

    kind: Literal["tank"]
    type: ClassVar[str] = "tank"
    effects: ClassVar = {"aeration": (("system", "air", 0.0, 0.08, 1.0),)}

    def ports(self) -> Iterator[tuple[str, Literal["in", "out", "both"]]]:
        """Yield the tank."""
        yield "tank", "both"
