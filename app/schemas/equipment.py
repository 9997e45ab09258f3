"""An equipment's topology: components, the sensors on them and the connections between them.

Reads it from YAML or JSON and checks what types alone can't: ids, units, ranges, what hangs together with what.
It knows no machine: quantities, types and media are the field's, everything else stands in the file.
Invariant: an `Equipment` that `read_equipment` returns has no finding of severity error.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from app.errors import TopologyError

QUANTITIES: Mapping[str, tuple[str, ...]] = {
    "pressure": ("bar", "kPa", "MPa", "psi"),
    "differential_pressure": ("bar", "kPa", "MPa", "psi"),
    "temperature": ("degC", "K", "degF"),
    "flow": ("l/min", "m3/h", "gpm"),
    "vibration": ("mm/s", "m/s2", "g"),
    "power": ("W", "kW"),
    "speed": ("rpm", "m/s", "rad/s"),
    "position": ("mm", "m", "deg", "rad"),
    "level": ("%", "mm", "l"),
    "current": ("A", "mA"),
    "voltage": ("V", "mV"),
    "torque": ("Nm",),
    "force": ("N", "kN"),
    "efficiency": ("%", "1"),
    "contamination": ("iso4406", "ppm", "1/ml"),
    "humidity": ("%", "ppm"),
    "ratio": ("%", "1"),
}
"""Quantities that a sensor may measure, each with the units that it may be in."""

COMPONENT_TYPES: tuple[str, ...] = (
    "accumulator", "bearing", "combustor", "compressor", "controller", "cooler", "cylinder", "fan", "filter", "gearbox",
    "heater", "line", "motor", "nozzle", "pump", "robot_joint", "spindle", "tank", "tool", "turbine", "valve", "other",
)  # fmt: skip
"""Kinds of component that the network has an embedding for."""

MEDIA: tuple[str, ...] = (
    "pressure_line", "return_line", "suction_line", "leakage_line", "shaft", "signal", "thermal", "gas_path",
)  # fmt: skip
"""What a connection carries."""

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
Evidence = Literal["forward", "both", "none"]

MAX_COMPONENTS = 512
MAX_SENSORS = 2048
MAX_CONNECTIONS = 4096
MAX_BINS = 100_000

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Sensor(BaseModel):
    """An instrument on a component.

    `range` is what the instrument can physically read, in `unit`; a value beyond it is a fault of the instrument.
    """

    model_config = _STRICT

    sensor_id: Identifier
    quantity: str
    unit: str
    range: tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]]


class Grade(BaseModel):
    """A named condition of a component and the health in [0, 1] that it stands for."""

    model_config = _STRICT

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    health: Annotated[float, Field(ge=0.0, le=1.0)]


class Component(BaseModel):
    """A part of the machine: a node of its graph. `grades` are in order from as new to failed."""

    model_config = _STRICT

    component_id: Identifier
    type: str
    sensors: tuple[Sensor, ...] = ()
    grades: tuple[Grade, ...] = ()


class Connection(BaseModel):
    """A line, shaft or other link from `source` to `target`, in the direction of flow or drive.

    `evidence` says which way one component's readings may speak for the other: along the connection (`forward`),
    along and against it (`both`), or not at all (`none`, the link is there and tells nothing).
    """

    model_config = _STRICT

    source: Identifier
    target: Identifier
    medium: str
    evidence: Evidence = "both"


class PlacedSensor(NamedTuple):
    """A sensor and the position of its component in `Equipment.components`."""

    component_index: int
    sensor: Sensor


class Finding(NamedTuple):
    """One result of the topology linter: where, how bad, and what to do."""

    severity: Literal["error", "warning"]
    place: str
    message: str


class Equipment(BaseModel):
    """One machine: one graph, its sensors and the window that a diagnosis looks at.

    `design` names the kind of machine: all machines of one design share a checkpoint's sensor references and grades.
    `cycle_s` is the period of a machine that repeats a cycle; its cycles start at whole multiples of it since
    1970-01-01T00:00Z, and a diagnosis of "now" looks at the last complete one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    equipment_id: Identifier
    name: Annotated[str, StringConstraints(max_length=200)] = ""
    design: Identifier
    components: Annotated[tuple[Component, ...], Field(min_length=1, max_length=MAX_COMPONENTS)]
    connections: Annotated[tuple[Connection, ...], Field(max_length=MAX_CONNECTIONS)] = ()
    grid_s: Annotated[float, Field(ge=0.001, le=86_400)]
    window_s: Annotated[float, Field(gt=0, le=31_536_000)]
    steps: Annotated[int, Field(ge=2, le=1_000)]
    cycle_s: Annotated[float, Field(gt=0, le=86_400)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _design_defaults_to_id(cls, data: Any) -> Any:
        if isinstance(data, dict) and "design" not in data and "equipment_id" in data:
            return {**data, "design": data["equipment_id"]}
        return data

    @cached_property
    def sensors(self) -> tuple[PlacedSensor, ...]:
        """All sensors, components in file order, then sensors in file order: the order of every array over S."""
        return tuple(
            PlacedSensor(index, sensor)
            for index, component in enumerate(self.components)
            for sensor in component.sensors
        )

    @cached_property
    def sensor_ids(self) -> tuple[str, ...]:
        """Ids of all sensors in the order of `sensors`."""
        return tuple(placed.sensor.sensor_id for placed in self.sensors)

    @cached_property
    def grid_us(self) -> int:
        """Width of a bin in microseconds."""
        return round(self.grid_s * 1_000_000)

    @cached_property
    def bins(self) -> int:
        """Bins of a window."""
        return round(self.window_s * 1_000_000) // self.grid_us

    @cached_property
    def bins_per_step(self) -> int:
        """Bins of one of the window's equal steps."""
        return self.bins // self.steps

    @cached_property
    def revision(self) -> str:
        """SHA-256 of the canonical JSON: equal for equal topologies, whatever file they came from."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def component_index(self, component_id: str) -> int:
        """Return the position of a component.

        Raises:
            KeyError: there is no such component.
        """
        for index, component in enumerate(self.components):
            if component.component_id == component_id:
                return index
        raise KeyError(component_id)


def read_equipment(text: str | bytes, where: str) -> Equipment:
    """Read a topology and check it whole.

    Args:
        text: YAML or JSON (which is YAML).
        where: the name of the source, for messages.

    Raises:
        TopologyError: with every finding of severity error, not only the first.
    """
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TopologyError(
            where, (("", f"expected YAML or JSON, found text that does not parse: {reason}"),)
        ) from error
    return parse_equipment(data, where)


def parse_equipment(data: object, where: str) -> Equipment:
    """Check an already parsed topology, as `read_equipment` does.

    Raises:
        TopologyError: with every finding of severity error.
    """
    if not isinstance(data, Mapping):
        found = type(data).__name__
        raise TopologyError(where, (("", f"expected a mapping with equipment_id, components ..., found {found}"),))
    try:
        equipment = Equipment.model_validate(data)
    except ValidationError as error:
        findings = tuple(
            (place_of(item["loc"]), f"{item['msg']}, found {_shown(item['input'])}") for item in error.errors()
        )
        raise TopologyError(where, findings) from error
    errors = tuple((finding.place, finding.message) for finding in lint(equipment) if finding.severity == "error")
    if errors:
        raise TopologyError(where, errors)
    return equipment


def place_of(loc: tuple[int | str, ...]) -> str:
    """Write a pydantic location as a path: `components[2].sensors[0].unit`."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            place += f".{part}" if place else part
    return place


def _shown(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def lint(equipment: Equipment) -> tuple[Finding, ...]:
    """Find what is wrong or doubtful in a topology whose types are right.

    Returns:
        All findings in the order of the file; errors make the topology unusable, warnings do not.
    """
    findings: list[Finding] = []
    findings += _lint_ids(equipment)
    findings += _lint_sensors(equipment)
    findings += _lint_components(equipment)
    findings += _lint_connections(equipment)
    findings += _lint_reach(equipment)
    findings += _lint_window(equipment)
    return tuple(findings)


def _lint_ids(equipment: Equipment) -> list[Finding]:
    findings = []
    component_counts = Counter(component.component_id for component in equipment.components)
    for index, component in enumerate(equipment.components):
        if component_counts[component.component_id] > 1:
            findings.append(
                Finding(
                    "error",
                    f"components[{index}].component_id",
                    f"expected ids to be unique, found '{component.component_id}' "
                    f"{component_counts[component.component_id]} times: rename all but one",
                )
            )
    sensor_counts = Counter(equipment.sensor_ids)
    for index, component in enumerate(equipment.components):
        for position, sensor in enumerate(component.sensors):
            if sensor_counts[sensor.sensor_id] > 1:
                findings.append(
                    Finding(
                        "error",
                        f"components[{index}].sensors[{position}].sensor_id",
                        f"expected ids to be unique in the equipment, found '{sensor.sensor_id}' "
                        f"{sensor_counts[sensor.sensor_id]} times: rename all but one",
                    )
                )
    if len(equipment.sensors) > MAX_SENSORS:
        findings.append(
            Finding(
                "error",
                "components",
                f"expected at most {MAX_SENSORS} sensors, found {len(equipment.sensors)}: split the equipment",
            )
        )
    return findings


def _lint_sensors(equipment: Equipment) -> list[Finding]:
    findings = []
    for index, component in enumerate(equipment.components):
        for position, sensor in enumerate(component.sensors):
            place = f"components[{index}].sensors[{position}]"
            units = QUANTITIES.get(sensor.quantity)
            if units is None:
                findings.append(
                    Finding(
                        "error",
                        f"{place}.quantity",
                        f"unknown quantity '{sensor.quantity}': use one of {', '.join(sorted(QUANTITIES))}",
                    )
                )
            elif sensor.unit not in units:
                findings.append(
                    Finding(
                        "error",
                        f"{place}.unit",
                        f"unknown unit '{sensor.unit}' of {sensor.quantity}: use one of {', '.join(units)}",
                    )
                )
            low, high = sensor.range
            if low >= high:
                findings.append(
                    Finding(
                        "error",
                        f"{place}.range",
                        f"expected [low, high] with low < high, found [{low:g}, {high:g}]: give what the instrument can read",
                    )
                )
            floor = {"K": 0.0, "degC": -273.15, "degF": -459.67}.get(sensor.unit)
            if sensor.quantity == "temperature" and floor is not None and low < floor:
                findings.append(
                    Finding(
                        "error",
                        f"{place}.range",
                        f"expected no temperature below absolute zero ({floor:g} {sensor.unit}), found {low:g}",
                    )
                )
    return findings


def _lint_components(equipment: Equipment) -> list[Finding]:
    findings = []
    for index, component in enumerate(equipment.components):
        if component.type not in COMPONENT_TYPES:
            findings.append(
                Finding(
                    "error",
                    f"components[{index}].type",
                    f"unknown component type '{component.type}': use one of {', '.join(COMPONENT_TYPES)}",
                )
            )
        names = [grade.name for grade in component.grades]
        healths = [grade.health for grade in component.grades]
        if len(set(names)) < len(names):
            findings.append(
                Finding("error", f"components[{index}].grades", f"expected grade names to be unique, found {names}")
            )
        if len(component.grades) == 1 or any(
            later >= earlier for earlier, later in zip(healths, healths[1:], strict=False)
        ):
            findings.append(
                Finding(
                    "error",
                    f"components[{index}].grades",
                    f"expected none, or at least two grades with falling health, found health {healths}: order them from "
                    "as new to failed",
                )
            )
    return findings


def _lint_connections(equipment: Equipment) -> list[Finding]:
    findings = []
    known = {component.component_id for component in equipment.components}
    seen: set[tuple[str, str, str]] = set()
    for index, connection in enumerate(equipment.connections):
        place = f"connections[{index}]"
        for end in ("source", "target"):
            component_id = getattr(connection, end)
            if component_id not in known:
                findings.append(
                    Finding(
                        "error",
                        f"{place}.{end}",
                        f"expected a component of this equipment, found '{component_id}': add it to components or correct "
                        f"the connection; there are {', '.join(sorted(known))}",
                    )
                )
        if connection.source == connection.target:
            findings.append(
                Finding(
                    "error",
                    place,
                    f"expected two different ends, found '{connection.source}' connected to itself: remove the connection",
                )
            )
        if connection.medium not in MEDIA:
            findings.append(
                Finding(
                    "error", f"{place}.medium", f"unknown medium '{connection.medium}': use one of {', '.join(MEDIA)}"
                )
            )
        key = (connection.source, connection.target, connection.medium)
        if key in seen:
            findings.append(
                Finding(
                    "error",
                    place,
                    f"expected each connection once, found {key[0]} to {key[1]} by {key[2]} again: remove one of them",
                )
            )
        seen.add(key)
    return findings


def _lint_reach(equipment: Equipment) -> list[Finding]:
    findings = []
    neighbours: dict[str, set[str]] = {component.component_id: set() for component in equipment.components}
    for connection in equipment.connections:
        if connection.source in neighbours and connection.target in neighbours:
            neighbours[connection.source].add(connection.target)
            neighbours[connection.target].add(connection.source)
    sensed = {component.component_id for component in equipment.components if component.sensors}
    for index, component in enumerate(equipment.components):
        others = neighbours[component.component_id] - {component.component_id}
        if not others and len(equipment.components) > 1:
            findings.append(
                Finding(
                    "error",
                    f"components[{index}]",
                    f"component '{component.component_id}' is isolated: connect it to another component or remove it",
                )
            )
        elif not component.sensors and not others & sensed:
            findings.append(
                Finding(
                    "error",
                    f"components[{index}]",
                    f"component '{component.component_id}' has no sensor and no neighbour that has one, so nothing can be "
                    "said of it: add a sensor, connect it to a component that has one, or remove it",
                )
            )
        elif not component.sensors:
            findings.append(
                Finding(
                    "warning",
                    f"components[{index}]",
                    f"component '{component.component_id}' has no sensor of its own: it is judged by its neighbours alone",
                )
            )
    return findings


def _lint_window(equipment: Equipment) -> list[Finding]:
    findings = []
    grid_us, window_us = equipment.grid_us, round(equipment.window_s * 1_000_000)
    if window_us % grid_us:
        findings.append(
            Finding(
                "error",
                "window_s",
                f"expected a whole multiple of grid_s {equipment.grid_s:g}, found {equipment.window_s:g}",
            )
        )
    elif equipment.bins % equipment.steps:
        findings.append(
            Finding(
                "error",
                "steps",
                f"expected a divisor of the window's {equipment.bins} bins, found {equipment.steps}",
            )
        )
    if equipment.bins > MAX_BINS:
        findings.append(
            Finding(
                "error",
                "window_s",
                f"expected at most {MAX_BINS} bins, found {equipment.bins}: raise grid_s or shorten window_s",
            )
        )
    if equipment.cycle_s is not None and round(equipment.cycle_s * 1_000_000) % grid_us:
        findings.append(
            Finding(
                "error",
                "cycle_s",
                f"expected a whole multiple of grid_s {equipment.grid_s:g}, found {equipment.cycle_s:g}",
            )
        )
    return findings
