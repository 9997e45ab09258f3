"""The shipped topology fits the published layout."""

from typing import Any

import pytest

from app.core.errors import TopologyError
from app.demo.rig.equipment import check_fits_layout, rig_equipment
from app.demo.rig.measurements import SENSOR_IDS
from app.schemas.equipment import Equipment
from app.schemas.topology import parse_equipment


def _changed(**changes: Any) -> Equipment:
    return parse_equipment({**rig_equipment().model_dump(mode="json"), **changes}, "x")


def test_shipped_topology_has_every_sensor_of_the_layout_once() -> None:
    equipment = rig_equipment()
    assert equipment.equipment_id == "hydraulic-rig"
    assert sorted(equipment.sensor_ids) == sorted(SENSOR_IDS)
    assert (equipment.grid_us, equipment.bins) == (1_000_000, 60)


def test_rig_under_another_id_stays_of_the_same_design() -> None:
    other = rig_equipment("rig-2")
    assert (other.equipment_id, other.design) == ("rig-2", "hydraulic-rig")
    assert other.revision != rig_equipment().revision
    assert other.components == rig_equipment().components


def test_invalid_id_is_refused() -> None:
    with pytest.raises(TopologyError, match="equipment id 'a b' has 1 error"):
        rig_equipment("a b")


def test_machine_that_does_not_fit_the_layout_is_refused_with_all_reasons() -> None:
    components = rig_equipment().model_dump(mode="json")["components"]
    for component in components:
        component["sensors"] = [
            sensor for sensor in component["sensors"] if sensor["sensor_id"] != "VS1"
        ]
        if component["component_id"] == "cooler":
            component["grades"] = []
    with pytest.raises(TopologyError) as caught:
        check_fits_layout(_changed(components=components, cycle_s=30.0))
    assert caught.value.findings == (
        (
            "components",
            "expected a sensor 'VS1' as in the rig's files, found none: add it to its component",
        ),
        (
            "components",
            "expected a component 'cooler' with grades as in the rig's profile, found none: add it",
        ),
        ("cycle_s", "expected 60, the length of the rig's cycles, found 30.0"),
    )
