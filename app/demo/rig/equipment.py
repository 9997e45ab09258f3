"""The shipped topology of the rig.

Invariant: it has a sensor for every published file, and a component for every graded column.
"""

from pathlib import Path

from app.core.errors import TopologyError
from app.demo.machine import missing_sensors, read_topology, renamed
from app.demo.rig.measurements import CYCLE_S, GRADED_COMPONENTS, SENSOR_IDS
from app.schemas.equipment import Equipment

TOPOLOGY_FILE = Path(__file__).resolve().parent / "hydraulic_rig.yaml"


def rig_equipment(equipment_id: str | None = None) -> Equipment:
    """Read the shipped topology.

    Args:
        equipment_id: instead of the file's; the design stays the same.

    Raises:
        TopologyError: the id is invalid, or the file does not fit the published layout.
    """
    equipment = read_topology(TOPOLOGY_FILE, (), "")
    if equipment_id is not None:
        equipment = renamed(equipment, equipment_id)
    check_fits_layout(equipment)
    return equipment


def check_fits_layout(equipment: Equipment) -> None:
    """Check that the rig's files can be imported as this machine.

    Raises:
        TopologyError: a sensor or graded component is missing, or cycles are not of 60 s.
    """
    findings = missing_sensors(equipment, SENSOR_IDS, "in the rig's files")
    graded = {component.component_id for component in equipment.components if component.grades}
    expected = "with grades as in the rig's profile, found none: add it"
    findings += [
        ("components", f"expected a component '{name}' {expected}")
        for name in GRADED_COMPONENTS
        if name not in graded
    ]
    if equipment.cycle_s != CYCLE_S:
        message = f"expected {CYCLE_S}, the length of the rig's cycles, found {equipment.cycle_s}"
        findings.append(("cycle_s", message))
    if findings:
        raise TopologyError(equipment.equipment_id, tuple(findings))
