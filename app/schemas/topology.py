"""Reads a topology from YAML or JSON and lints it: checks beyond the types of its fields.

A finding names the place in the file and what to do. Errors make a topology invalid, warnings do
not.
Invariant: an `Equipment` returned by `read_equipment` has no finding of severity error.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from pydantic import ValidationError

from app.core.errors import TopologyError
from app.schemas.document import read_document
from app.schemas.equipment import (
    COMPONENT_TYPES,
    MAX_BINS,
    MAX_SENSOR_BINS,
    MAX_SENSOR_STEPS,
    MAX_SENSORS,
    MEDIA,
    QUANTITIES,
    Equipment,
)
from app.schemas.explain import explain
from app.schemas.places import place_of, shown, some_of

MAX_TYPE_ERRORS = 1_000
"""Most type errors that are listed one by one; a hostile document has a million."""

_ABSOLUTE_ZERO: Mapping[str, float] = {"K": 0.0, "degC": -273.15, "degF": -459.67, "degR": 0.0}


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of the linter: severity, place, and what to do."""

    severity: Literal["error", "warning"]
    place: str
    message: str


def read_equipment(text: str | bytes, where: str) -> Equipment:
    """Read and check a topology.

    Args:
        text: YAML or JSON.
        where: the name of the source, for messages.

    Raises:
        TopologyError: with all findings of severity error.
    """
    return parse_equipment(read_document(text, where), where)


def parse_equipment(data: object, where: str) -> Equipment:
    """Check a parsed topology; `design` defaults to the equipment's id.

    Raises:
        TopologyError: with all findings of severity error.
    """
    if not isinstance(data, Mapping):
        message = (
            "expected an object with equipment_id, components and the other fields of a topology"
        )
        raise TopologyError(where, (("", f"{message}, found {shown(data)}: see /docs"),))
    with_design = {"design": data.get("equipment_id"), **data}
    try:
        equipment = Equipment.model_validate_json(
            json.dumps(with_design, default=_as_text), strict=True
        )
    except ValidationError as error:
        raise TopologyError(where, _findings_of(error, data)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise TopologyError(
            where,
            (("", "expected text, numbers, lists and objects, found another value: see /docs"),),
        ) from error
    check_equipment(equipment, where)
    return equipment


def _as_text(value: object) -> str:
    if isinstance(value, date):  # also a time; YAML reads them from plain text
        return value.isoformat()
    raise TypeError


def _findings_of(error: ValidationError, data: Mapping[Any, Any]) -> tuple[tuple[str, str], ...]:
    count = error.error_count()
    if count > MAX_TYPE_ERRORS:
        message = f"found {count} errors: correct its layout, see the Equipment schema"
        return (("", f"expected a topology, {message}"),)
    items = error.errors()
    inner = {item["loc"][:depth] for item in items for depth in range(len(item["loc"]))}
    found = []
    for item in items:
        # skip repetitions: a list with an invalid item is also too short, and an invalid id is
        # also the default of the design
        if (item["type"] == "too_short" and item["loc"] in inner) or (
            item["loc"] == ("design",) and "design" not in data
        ):
            continue
        found.append((place_of(item["loc"]), explain(item)))
    return tuple(found)


def check_equipment(equipment: Equipment, where: str) -> None:
    """Check a topology with the linter.

    Raises:
        TopologyError: with all findings of severity error.
    """
    findings = lint(equipment)
    errors = tuple((each.place, each.message) for each in findings if each.severity == "error")
    if errors:
        raise TopologyError(where, errors)


def lint(equipment: Equipment) -> tuple[Finding, ...]:
    """Find errors and doubtful values in a topology whose types are valid.

    Returns:
        All findings: of ids, sensors, components, connections, reach and window, in this order.
    """
    checks = (_ids, _sensors, _components, _connections, _reach, _window)
    return tuple(finding for check in checks for finding in check(equipment))


def _error(place: str, message: str) -> Finding:
    return Finding("error", place, message)


def _ids(equipment: Equipment) -> Iterator[Finding]:
    component_counts = Counter(component.component_id for component in equipment.components)
    sensor_counts = Counter(equipment.sensor_ids)
    for index, component in enumerate(equipment.components):
        count = component_counts[component.component_id]
        if count > 1:
            yield _error(
                f"components[{index}].component_id",
                f"expected ids to be unique, found '{component.component_id}' {count} times: "
                "rename all but one",
            )
        for position, sensor in enumerate(component.sensors):
            count = sensor_counts[sensor.sensor_id]
            if count > 1:
                yield _error(
                    f"components[{index}].sensors[{position}].sensor_id",
                    "expected ids to be unique in the equipment, found "
                    f"'{sensor.sensor_id}' {count} times: rename all but one",
                )
    if len(equipment.sensors) > MAX_SENSORS:
        yield _error(
            "components",
            f"expected at most {MAX_SENSORS} sensors, found {len(equipment.sensors)}: "
            "split the equipment",
        )


def _sensors(equipment: Equipment) -> Iterator[Finding]:
    for index, component in enumerate(equipment.components):
        for position, sensor in enumerate(component.sensors):
            place = f"components[{index}].sensors[{position}]"
            units = QUANTITIES.get(sensor.quantity)
            if units is None:
                known = ", ".join(sorted(QUANTITIES))
                yield _error(
                    f"{place}.quantity", f"unknown quantity '{sensor.quantity}': use one of {known}"
                )
            elif sensor.unit not in units:
                known = ", ".join(units)
                yield _error(
                    f"{place}.unit",
                    f"unknown unit '{sensor.unit}' of {sensor.quantity}: use one of {known}",
                )
            low, high = sensor.range
            if low >= high:
                yield _error(
                    f"{place}.range",
                    f"expected [low, high] with low < high, found [{low:g}, {high:g}]: "
                    "give what it can read",
                )
            floor = _ABSOLUTE_ZERO.get(sensor.unit)
            if sensor.quantity == "temperature" and floor is not None and low < floor:
                yield _error(
                    f"{place}.range",
                    f"expected no temperature below absolute zero ({floor:g} {sensor.unit}), "
                    f"found {low:g}: give what the instrument can read",
                )


def _components(equipment: Equipment) -> Iterator[Finding]:
    for index, component in enumerate(equipment.components):
        if component.type not in COMPONENT_TYPES:
            yield _error(
                f"components[{index}].type",
                f"unknown component type '{component.type}': "
                f"use one of {', '.join(COMPONENT_TYPES)}",
            )
        names = [grade.name for grade in component.grades]
        if len(set(names)) < len(names):
            yield _error(
                f"components[{index}].grades",
                f"expected grade names to be unique, found {shown(names, 200)}: rename all but one",
            )
        healths = [grade.health for grade in component.grades]
        if len(healths) == 1 or any(
            later >= earlier for earlier, later in itertools.pairwise(healths)
        ):
            yield _error(
                f"components[{index}].grades",
                "expected none, or at least two grades with falling health, found health "
                f"{shown(healths, 200)}: order them from as new to failed",
            )


def _connections(equipment: Equipment) -> Iterator[Finding]:
    known = {component.component_id for component in equipment.components}
    there = some_of(sorted(known))
    seen: set[tuple[str, str, str]] = set()
    for index, connection in enumerate(equipment.connections):
        place = f"connections[{index}]"
        for end, component_id in (("source", connection.source), ("target", connection.target)):
            if component_id not in known:
                yield _error(
                    f"{place}.{end}",
                    f"expected a component of this equipment, found '{component_id}': add it to "
                    f"components or correct the connection; there are {there}",
                )
        if connection.source == connection.target:
            yield _error(
                place,
                f"expected two different ends, found '{connection.source}' connected to itself: "
                "remove the connection",
            )
        if connection.medium not in MEDIA:
            yield _error(
                f"{place}.medium",
                f"unknown medium '{connection.medium}': use one of {', '.join(MEDIA)}",
            )
        key = (connection.source, connection.target, connection.medium)
        if key in seen:
            yield _error(
                place,
                f"expected each connection once, found {key[0]} to {key[1]} by {key[2]} again: "
                "remove one of them",
            )
        seen.add(key)


def _reach(equipment: Equipment) -> Iterator[Finding]:
    neighbours: dict[str, set[str]] = {
        component.component_id: set() for component in equipment.components
    }
    for connection in equipment.connections:
        if (
            connection.source != connection.target
            and {connection.source, connection.target} <= neighbours.keys()
        ):
            neighbours[connection.source].add(connection.target)
            neighbours[connection.target].add(connection.source)
    sensed = {component.component_id for component in equipment.components if component.sensors}
    for index, component in enumerate(equipment.components):
        place, others = f"components[{index}]", neighbours[component.component_id]
        if not others and len(equipment.components) > 1:
            yield _error(
                place,
                f"expected a connection to another component, found '{component.component_id}' "
                "isolated: connect it or remove it",
            )
        elif not component.sensors and not others & sensed:
            yield _error(
                place,
                f"expected a sensor on '{component.component_id}' or on a neighbour, found none: "
                "add a sensor, connect it to a component that has one, or remove it",
            )
        elif not component.sensors:
            yield Finding(
                "warning",
                place,
                f"'{component.component_id}' has no sensor of its own and is diagnosed from its "
                "neighbours alone: add a sensor for a diagnosis of its own",
            )


def _window(equipment: Equipment) -> Iterator[Finding]:
    grid_s, grid_us = equipment.grid_s, equipment.grid_us
    window_us = round(equipment.window_s * 1_000_000)
    if window_us < grid_us or window_us % grid_us:
        yield _error(
            "window_s",
            f"expected a whole multiple of grid_s {grid_s:g}, found {equipment.window_s:g}: "
            "round it",
        )
    elif equipment.bins % equipment.steps:
        yield _error(
            "steps",
            f"expected a divisor of the window's {equipment.bins} bins, found {equipment.steps}: "
            "change steps or window_s",
        )
    if equipment.bins > MAX_BINS:
        yield _error(
            "window_s",
            f"expected at most {MAX_BINS} bins, found {equipment.bins}: "
            "raise grid_s or shorten window_s",
        )
    sensors = len(equipment.sensors)
    if sensors * equipment.bins > MAX_SENSOR_BINS:
        yield _error(
            "window_s",
            f"expected at most {MAX_SENSOR_BINS} sensors x bins, found {sensors} x "
            f"{equipment.bins}: raise grid_s, shorten window_s or split the equipment",
        )
    if sensors * equipment.steps > MAX_SENSOR_STEPS:
        yield _error(
            "steps",
            f"expected at most {MAX_SENSOR_STEPS} sensors x steps, found {sensors} x "
            f"{equipment.steps}: take fewer steps or split the equipment",
        )
    cycle_s = grid_s if equipment.cycle_s is None else equipment.cycle_s
    cycle_us = round(cycle_s * 1_000_000)
    if cycle_us < grid_us or cycle_us % grid_us:
        yield _error(
            "cycle_s",
            f"expected a whole multiple of grid_s {grid_s:g}, found {cycle_s:g}: round it",
        )
