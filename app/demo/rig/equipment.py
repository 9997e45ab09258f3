"""The rig's topology as it is shipped.

Invariant: it has a sensor for every file of the published layout, and a component for every graded column.
"""

from pathlib import Path

from app.core.errors import TopologyError
from app.demo.rig.measurements import CYCLE_S, GRADED_COMPONENTS, SENSOR_IDS
from app.schemas.equipment import Equipment
from app.schemas.topology import parse_equipment, read_equipment

TOPOLOGY_FILE = Path(__file__).resolve().parent / "hydraulic_rig.yaml"


def rig_equipment(equipment_id: str | None = None) -> Equipment:
    """Read the shipped topology.

    Args:
        equipment_id: register the rig under this id instead of the file's; it stays of the same design.

    Raises:
        TopologyError: the id is not one, or the file does not fit the published layout.
    """
    equipment = read_equipment(TOPOLOGY_FILE.read_bytes(), TOPOLOGY_FILE.name)
    if equipment_id is not None:
        equipment = parse_equipment(
            {**equipment.model_dump(mode="json"), "equipment_id": equipment_id},
            f"equipment id '{equipment_id}'",
        )
    check_fits_layout(equipment)
    return equipment


def check_fits_layout(equipment: Equipment) -> None:
    """Check that the rig's files can be imported as this machine.

    Raises:
        TopologyError: a sensor or graded component is missing, or cycles are not of 60 s.
    """
    findings = [
        (
            "components",
            f"expected a sensor '{sensor_id}' as in the rig's files, found none: add it to its component",
        )
        for sensor_id in SENSOR_IDS
        if sensor_id not in equipment.sensor_ids
    ]
    graded = {component.component_id for component in equipment.components if component.grades}
    findings += [
        (
            "components",
            f"expected a component '{name}' with grades as in the rig's profile, found none: add it",
        )
        for name in GRADED_COMPONENTS
        if name not in graded
    ]
    if equipment.cycle_s != CYCLE_S:
        findings.append(
            (
                "cycle_s",
                f"expected {CYCLE_S}, the length of the rig's cycles, found {equipment.cycle_s}",
            )
        )
    if findings:
        raise TopologyError(equipment.equipment_id, tuple(findings))
