"""An equipment's topology: components, the sensors on them and the connections between them.

Quantities, component types and media are general; everything about a machine is in its topology
file, which `app.schemas.topology` reads and lints.
Invariant: an `Equipment` never changes; equal topologies have the same `revision`.
"""

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import date, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.schemas.times import StrictTime

QUANTITIES: Mapping[str, tuple[str, ...]] = {
    "pressure": ("bar", "kPa", "MPa", "psi"),
    "differential_pressure": ("bar", "kPa", "MPa", "psi"),
    "temperature": ("degC", "K", "degF", "degR"),
    "flow": ("l/min", "m3/h", "gpm", "kg/s", "lb/s"),
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
"""Quantities that a sensor may measure, with their allowed units."""

COMPONENT_TYPES: tuple[str, ...] = (
    "accumulator", "bearing", "combustor", "compressor", "controller", "cooler", "cylinder", "fan",
    "filter", "gearbox", "heater", "line", "motor", "nozzle", "pump", "robot_joint", "spindle",
    "tank", "tool", "turbine", "valve", "other",
)  # fmt: skip
"""Types of component; the network has an embedding for each."""

MEDIA: tuple[str, ...] = (
    "pressure_line", "return_line", "suction_line", "leakage_line", "shaft", "signal", "thermal",
    "gas_path",
)  # fmt: skip
"""Types of connection."""

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_PRINTABLE)]
Evidence = Literal["forward", "both", "none"]
T = TypeVar("T")

MAX_COMPONENTS = 512
MAX_SENSORS = 2048
MAX_CONNECTIONS = 4096
MAX_BINS = 100_000
MAX_SENSOR_BINS = 5_000_000
"""Most sensors x bins of a window: memory of one diagnosis, 20 MB."""
MAX_SENSOR_STEPS = 200_000
"""Most sensors x steps of a window: work of the network."""

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Sensor(BaseModel):
    """An instrument on a component."""

    model_config = _STRICT

    sensor_id: Annotated[Identifier, Field(description="unique in the machine")]
    quantity: Annotated[
        str, Field(description="what it measures", json_schema_extra={"enum": [*QUANTITIES]})
    ]
    unit: Annotated[
        str,
        Field(
            description="one of the quantity's",
            json_schema_extra={"enum": sorted({unit for of in QUANTITIES.values() for unit in of})},
        ),
    ]
    range: Annotated[
        tuple[
            Annotated[float, Field(allow_inf_nan=False)],
            Annotated[float, Field(allow_inf_nan=False)],
        ],
        Field(
            description="[low, high] that it can physically read, in `unit`; a value beyond is a "
            "sensor fault"
        ),
    ]


class Grade(BaseModel):
    """A named condition of a component, and its health in [0, 1]."""

    model_config = _STRICT

    name: Annotated[
        str,
        StringConstraints(min_length=1, max_length=64, pattern=_PRINTABLE),
        Field(description="as in labels and in `condition`"),
    ]
    health: Annotated[float, Field(ge=0.0, le=1.0, description="1 as new, 0 at the threshold")]


class Component(BaseModel):
    """A part of the machine: a node of its graph."""

    model_config = _STRICT

    component_id: Annotated[Identifier, Field(description="unique in the machine")]
    type: Annotated[
        str, Field(description="of component", json_schema_extra={"enum": [*COMPONENT_TYPES]})
    ]
    sensors: Annotated[tuple[Sensor, ...], Field(description="its instruments")] = ()
    grades: Annotated[
        tuple[Grade, ...], Field(description="its conditions, from as new to failed; or none")
    ] = ()


class Connection(BaseModel):
    """A line, shaft or other link from `source` to `target`, in the direction of flow or drive."""

    model_config = _STRICT

    source: Annotated[Identifier, Field(description="component where it begins")]
    target: Annotated[Identifier, Field(description="component where it ends")]
    medium: Annotated[str, Field(description="its type", json_schema_extra={"enum": [*MEDIA]})]
    evidence: Annotated[
        Evidence,
        Field(
            description="in which direction readings of one end are evidence for the other: along "
            "the connection, in both directions, or in none"
        ),
    ] = "both"


class OperatingHours(BaseModel):
    """What a machine's counter of operating hours showed at a time."""

    model_config = _STRICT

    value_h: Annotated[float, Field(ge=0.0, le=1e7, allow_inf_nan=False)]
    as_of: StrictTime


class Metadata(BaseModel):
    """What is known of a machine beside its topology; all of it is optional.

    A change of it is no change of the topology: the revision stays, and so do cached responses.
    """

    model_config = _STRICT

    manufacturer: Name | None = None
    model: Name | None = None
    serial_number: Name | None = None
    site: Name | None = None
    commissioned: date | None = None
    operating_hours: OperatingHours | None = None


METADATA = tuple(Metadata.model_fields)


class PlacedSensor(NamedTuple):
    """A sensor and the position of its component in `Equipment.components`."""

    component_index: int
    sensor: Sensor


class _Topology(BaseModel):
    model_config = _STRICT

    equipment_id: Identifier
    name: Annotated[str, StringConstraints(max_length=200, pattern=_PRINTABLE)] = ""
    design: Identifier
    components: Annotated[tuple[Component, ...], Field(min_length=1, max_length=MAX_COMPONENTS)]
    connections: Annotated[tuple[Connection, ...], Field(max_length=MAX_CONNECTIONS)] = ()
    grid_s: Annotated[float, Field(ge=0.001, le=86_400)]
    window_s: Annotated[float, Field(gt=0, le=31_536_000)]
    steps: Annotated[int, Field(ge=2, le=1_000)]
    cycle_s: Annotated[float, Field(gt=0, le=86_400)] | None = None


class Equipment(Metadata, _Topology):  # in this order metadata comes last
    """One machine: its graph, its sensors, the window of a diagnosis, and metadata.

    Machines of one `design` share a checkpoint's sensor references and grades. `cycle_s` is the
    period of a machine that repeats a cycle; cycles start at whole multiples of it since
    1970-01-01T00:00Z, and a diagnosis of "now" uses the last complete one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))

    @property
    def metadata(self) -> Metadata:
        """What is known of the machine beside its topology."""
        return Metadata.model_construct(**{name: getattr(self, name) for name in METADATA})

    @cached_property
    def sensors(self) -> tuple[PlacedSensor, ...]:
        """All sensors by component, in file order: the order of every array over S."""
        return tuple(
            PlacedSensor(index, sensor)
            for index, component in enumerate(self.components)
            for sensor in component.sensors
        )

    @cached_property
    def component_ids(self) -> tuple[str, ...]:
        """Ids of all components, in file order: the order of every array over V."""
        return tuple(component.component_id for component in self.components)

    @cached_property
    def sensor_ids(self) -> tuple[str, ...]:
        """Ids of all sensors, in the order of `sensors`."""
        return tuple(placed.sensor.sensor_id for placed in self.sensors)

    @cached_property
    def grid_us(self) -> int:
        """Width of a bin in microseconds."""
        return round(self.grid_s * 1_000_000)

    @cached_property
    def bins(self) -> int:
        """Number of bins of a window."""
        return round(self.window_s * 1_000_000) // self.grid_us

    @cached_property
    def revision(self) -> str:
        """SHA-256 of the canonical JSON without metadata: equal for equal topologies."""
        topology = self.model_dump(mode="json", exclude=set(METADATA))
        canonical = json.dumps(topology, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def structure(self) -> bytes:
        """Return the topology as JSON without the id, name and metadata of the machine."""
        return self.model_dump_json(exclude={"equipment_id", "name", *METADATA}).encode()

    @cached_property
    def structure_digest(self) -> str:
        """SHA-256 of `structure`."""
        return hashlib.sha256(self.structure()).hexdigest()

    def component_index(self, component_id: str) -> int:
        """Return the position of a component.

        Raises:
            KeyError: there is no such component.
        """
        for index, component in enumerate(self.components):
            if component.component_id == component_id:
                return index
        raise KeyError(component_id)

    def reached_from(self, components: Iterable[int]) -> set[int]:
        """Return the components that evidence of these reaches by connections, these included."""
        reached = set(components)
        new = set(reached)
        targets = self._evidence_targets
        while new := {target for each in new for target in targets[each]} - reached:
            reached |= new
        return reached

    def sensors_in_reach(self, component: int) -> list[int]:
        """Return the indices of the sensors whose evidence reaches a component, with its own."""
        sources = [
            index
            for index in range(len(self.components))
            if component in self.reached_from([index])
        ]
        return [
            place for place, placed in enumerate(self.sensors) if placed.component_index in sources
        ]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what is derived from this topology under a key, made the first time.

        Args:
            key: what `make` depends on beside the topology, and what it makes.
            make: makes it.
        """
        if key not in self._derived:
            self._derived[key] = make()
        found: T = self._derived[key]
        return found

    @cached_property
    def _derived(self) -> dict[Hashable, Any]:
        return {}

    @cached_property
    def evidence_sources(self) -> tuple[frozenset[int], ...]:
        """By component, the components from which its connections bring evidence directly."""
        sources: list[set[int]] = [set() for _ in self.components]
        for source, targets in enumerate(self._evidence_targets):
            for target in targets:
                sources[target].add(source)
        return tuple(map(frozenset, sources))

    @cached_property
    def _evidence_targets(self) -> tuple[frozenset[int], ...]:
        """For each component, those to which its connections carry evidence directly."""
        targets: list[set[int]] = [set() for _ in self.components]
        position = {
            component.component_id: index for index, component in enumerate(self.components)
        }
        for connection in self.connections:
            source, target = position[connection.source], position[connection.target]
            if connection.evidence != "none":
                targets[source].add(target)
            if connection.evidence == "both":
                targets[target].add(source)
        return tuple(map(frozenset, targets))


class _Registered(BaseModel):
    equipment_id: str
    name: str
    design: str
    components: int
    sensors: int
    revision: str
    registered_at: datetime
    updated_at: datetime


class EquipmentSummary(Metadata, _Registered):
    """One registered equipment in a list: its metadata, and the size of its topology."""
