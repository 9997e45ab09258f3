"""A simulated machine as its YAML describes it: elements, lines, oil, duty cycle and sensors.

Its topology and the arrays of the kernel are derived from this one description.
"""

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import app.demo
from app.core.errors import ReadingError, TopologyError
from app.demo.simulation.circuit import Builder, Circuit, measured
from app.demo.simulation.elements.base import BAR, Instrument
from app.demo.simulation.elements.kinds import AnyElement
from app.demo.simulation.elements.sources import PumpElement
from app.demo.simulation.layout import HEAT_J_KGK
from app.schemas.document import read_document
from app.schemas.equipment import Connection, Equipment, Identifier
from app.schemas.explain import explain
from app.schemas.places import place_of
from app.schemas.topology import parse_equipment

FILE = "machine.yaml"
_STRICT = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))


class Oil(BaseModel):
    """The oil and the tank that holds it."""

    model_config = _STRICT

    volume_l: float
    viscosity_40_mm2_s: float = 46.0
    viscosity_100_mm2_s: float = 6.9
    density_kg_m3: float = 870.0
    bulk_modulus_bar: float = 13_000.0
    air_percent: float = 0.4
    tank_ua_W_K: float = 15.0
    contamination_iso4406: float = 16.0

    def walther(self) -> tuple[float, float]:
        """Return A and B of Walther's equation through both viscosities (ASTM D341)."""
        cold, hot = (
            math.log10(math.log10(nu + 0.7))
            for nu in (self.viscosity_40_mm2_s, self.viscosity_100_mm2_s)
        )
        b = (cold - hot) / (math.log10(373.15) - math.log10(313.15))
        return cold + b * math.log10(313.15), b


class Ambient(BaseModel):
    """Temperature around the machine: mean, half of the swing over a year and over a day."""

    model_config = _STRICT

    mean_degC: float
    season_K: float
    day_K: float


class Window(BaseModel):
    """The window of a diagnosis, as in a topology."""

    model_config = _STRICT

    grid_s: float = 1.0
    window_s: float = 600.0
    steps: int = 12
    cycle_s: float | None = None


class Varies(BaseModel):
    """Spread of a signal's deviation from rest: over machines, jobs (a window), and cycles."""

    model_config = _STRICT

    machine: float = 0.0
    job: float = 0.0
    cycle: float = 0.0


class Program(BaseModel):
    """One kind of cycle: values of signals at increasing seconds, linear between them."""

    model_config = _STRICT

    weight: Annotated[float, Field(gt=0)] = 1.0
    seconds: Annotated[tuple[float, ...], Field(min_length=2)]
    signals: dict[str, tuple[float, ...]]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(b <= a for a, b in zip(self.seconds, self.seconds[1:], strict=False)):
            raise ValueError("expected seconds that increase: sort them")
        for name, values in self.signals.items():
            if len(values) != len(self.seconds):
                raise ValueError(
                    f"expected {len(self.seconds)} values of '{name}', one for each of seconds, "
                    f"found {len(values)}"
                )
        return self


class Duty(BaseModel):
    """What the machine does: programs, and how operators and jobs differ.

    `pace` is the spread of the operators' cycle times, `persistence` the probability that a cycle
    is followed by one of the same program, `pause_s` the longest pause between cycles.
    """

    model_config = _STRICT

    rest: dict[str, float]
    programs: dict[str, Program]
    pace: float = 0.08
    persistence: float = 0.8
    pause_s: float = 1.0
    varies: dict[str, Varies] = {}

    @model_validator(mode="after")
    def _known(self) -> Self:
        used = {name for program in self.programs.values() for name in program.signals}
        for name in sorted((used | self.varies.keys()) - self.rest.keys()):
            known = ", ".join(self.rest)
            raise ValueError(
                f"expected a signal with a value at rest, found '{name}': name one of {known}"
            )
        return self


class MachineDesign(BaseModel):
    """A design of simulated machines."""

    model_config = _STRICT

    machine: Identifier
    name: str
    design: Identifier
    description: str
    steps_per_s: Annotated[int, Field(ge=20, le=1_000)] = 100
    window: Window = Window()
    oil: Oil
    ambient: Ambient
    lines: dict[str, Annotated[float, Field(gt=0)]]
    """Litres of oil in each line."""
    return_lines: tuple[str, ...] = ()
    components: tuple[AnyElement, ...]
    connections: tuple[Connection, ...] = ()
    """Beside those that follow from lines and shafts."""
    duty: Duty

    @cached_property
    def circuit(self) -> Circuit:
        """The arrays of the kernel.

        Raises:
            ReadingError: a component names a line, signal or component that there is not.
        """
        builder = Builder(
            components=[each.component_id for each in self.components],
            lines={name: litres * 1e-3 for name, litres in self.lines.items()},
            signals=tuple(self.duty.rest),
            steps_per_s=self.steps_per_s,
        )
        a, b = self.oil.walther()
        volume = self.oil.volume_l * 1e-3
        builder.rows["system"].append(
            {
                "air": self.oil.air_percent / 100,
                "bulk_modulus": self.oil.bulk_modulus_bar * BAR,
                "density": self.oil.density_kg_m3,
                "walther_a": a,
                "walther_b": b,
                "oil_volume": volume,
                "heat_capacity": 1.3 * volume * self.oil.density_kg_m3 * HEAT_J_KGK,
                "tank_ua": self.oil.tank_ua_W_K,
                "ambient": self.ambient.mean_degC,
                "time_factor": 1.0,
                "dirt": self.oil.contamination_iso4406,
                "fan_to": 1.0,
                **self._cooling(),
            }
        )
        # what others name comes first: drives, then pumps and actuators, then valves
        for each in sorted(self.components, key=lambda each: each.turn):
            each.build(builder)
        for each in self.components:
            each.build_faults(builder)
        for each in self.components:
            for sensor in each.sensors:
                index = each.output_index(sensor, builder)
                builder.outputs.append(measured(sensor.measures, index))
        return builder.circuit()

    def _cooling(self) -> dict[str, float]:
        for each in self.components:
            if each.kind == "cooler":
                return {
                    "cooler_ua": each.ua_W_K,
                    "cold_capacity": each.cold_W_K,
                    "cold_offset": each.cold_offset_K,
                    "fan_from": each.from_degC,
                    "fan_to": each.to_degC,
                }
        return {}

    def equipment(self, equipment_id: str) -> Equipment:
        """Return the topology of a machine of this design.

        Raises:
            TopologyError: the id is invalid, or the topology has errors.
        """
        return parse_equipment(
            {
                "equipment_id": equipment_id,
                "name": f"{self.name} (simulated)",
                "design": self.design,
                **self.window.model_dump(exclude_none=True),
                "components": [
                    {
                        "component_id": each.component_id,
                        "type": each.type,
                        "sensors": [
                            {
                                "sensor_id": sensor.sensor_id,
                                "quantity": sensor.quantity,
                                "unit": sensor.unit,
                                "range": list(sensor.range),
                            }
                            for sensor in each.sensors
                        ],
                    }
                    for each in self.components
                ],
                "connections": [each.model_dump() for each in self._connections()],
            },
            self.machine,
        )

    def _connections(self) -> Iterator[Connection]:
        for each in self.components:
            if isinstance(each, PumpElement):
                yield Connection(source=each.drive, target=each.component_id, medium="shaft")
        ports = [
            (each.component_id, line, way) for each in self.components for line, way in each.ports()
        ]
        seen: set[tuple[str, str, str]] = set()
        for source, line, out in ports:
            for target, other, way in ports:
                if line != other or source == target or out == "in" or way == "out":
                    continue
                if out == way == "both" or (line == "tank" and "both" not in (out, way)):
                    continue
                medium = "return_line" if line in ("tank", *self.return_lines) else "pressure_line"
                if line == "tank" and way == "in":
                    medium = "suction_line"
                key = (source, target, medium)
                # of two directions between the same components, the first is enough
                if {key, (target, source, medium)} & seen:
                    continue
                seen.add(key)
                yield Connection(source=source, target=target, medium=medium)
        yield from self.connections

    @cached_property
    def sensors(self) -> tuple[tuple[str, Instrument], ...]:
        """Component id and instrument of every sensor, in the order of the topology."""
        return tuple(
            (each.component_id, sensor) for each in self.components for sensor in each.sensors
        )


def parse_design(data: object, where: str) -> MachineDesign:
    """Check the parsed description of a machine.

    Raises:
        TopologyError: with all findings.
        ReadingError: a component names a line, signal or component that there is not.
    """
    try:
        design = MachineDesign.model_validate(data)
    except ValidationError as error:
        findings = tuple(
            (place_of(item["loc"]), explain(item)) for item in error.errors(include_url=False)
        )
        raise TopologyError(where, findings) from error
    design.equipment(design.machine)
    _ = design.circuit
    return design


def machine_files() -> dict[str, Path]:
    """Return the file of each shipped machine by name: folders of `app/demo` with one."""
    return {
        path.parent.name: path
        for folder in app.demo.__path__
        for path in sorted(Path(folder).glob(f"*/{FILE}"))
    }


def read_machine(name: str) -> MachineDesign:
    """Read a shipped machine by name, or any by the path of its folder or file.

    Raises:
        ReadingError: there is no such machine.
        TopologyError: the description has errors.
    """
    shipped = machine_files()
    path = shipped.get(name.replace("-", "_"), Path(name))
    if path.is_dir():
        path = path / FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ReadingError(
            f"expected a machine, one of {', '.join(shipped)}, or a folder with {FILE}, found "
            f"'{name}'",
            "machine",
        ) from error
    return parse_design(read_document(text, str(path)), str(path))
