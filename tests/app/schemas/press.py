"""A valid machine that the tests of topologies change."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from app.core.errors import TopologyError
from app.schemas.topology import parse_equipment

Change = Callable[[dict[str, Any]], object]

PRESS = """
equipment_id: press-1
name: Press
grid_s: 1.0
window_s: 60.0
steps: 12
cycle_s: 60.0
components:
  - component_id: pump
    type: pump
    sensors:
      - {sensor_id: PS1, quantity: pressure, unit: bar, range: [0.0, 250.0]}
      - {sensor_id: TS1, quantity: temperature, unit: degC, range: [-40.0, 150.0]}
    grades:
      - {name: "0", health: 1.0}
      - {name: "2", health: 0.0}
  - {component_id: valve, type: valve}
  - component_id: tank
    type: tank
    sensors:
      - {sensor_id: L1, quantity: level, unit: "%", range: [0.0, 100.0]}
connections:
  - {source: tank, target: pump, medium: suction_line}
  - {source: pump, target: valve, medium: pressure_line, evidence: forward}
  - {source: valve, target: tank, medium: return_line, evidence: none}
"""


def press() -> dict[str, Any]:
    """Return the machine as a document."""
    found: dict[str, Any] = yaml.safe_load(PRESS)
    return found


def sensor(data: dict[str, Any], position: int = 0) -> dict[str, Any]:
    """Return a sensor of the pump."""
    found: dict[str, Any] = data["components"][0]["sensors"][position]
    return found


def findings(change: Change) -> tuple[tuple[str, str], ...]:
    """Return the findings of the machine after a change."""
    data = press()
    change(data)
    with pytest.raises(TopologyError) as caught:
        parse_equipment(data, "press.yaml")
    assert caught.value.where == "press.yaml"
    assert caught.value.field == caught.value.findings[0][0]
    return caught.value.findings
