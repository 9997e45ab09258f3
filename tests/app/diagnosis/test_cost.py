"""What a diagnosis costs follows the forward passes of the network."""

from pathlib import Path

import numpy as np
import pytest

from app.core.errors import LimitExceeded
from app.core.settings import PROJECT_DIR
from app.demo.rig.equipment import rig_equipment
from app.diagnosis.cost import (
    MAX_EXPLAINED_CELLS,
    MAX_PASS_CELLS,
    check_explainable,
    check_pass,
    diagnosis_cells,
    pass_cells,
)
from app.features.spec import FeatureSpec
from app.model.graph import GraphGroup, build_topology
from app.schemas.equipment import Equipment
from app.schemas.topology import parse_equipment

SPEC = Path(PROJECT_DIR / "app/weights/1/feature_spec.json")


def hub(components: int, sensors: int, connections: int) -> Equipment:
    """Return a machine whose sensors are all on one component, which the others surround."""
    names = [f"c{number}" for number in range(components)]
    pairs = [(a, b) for b in range(1, components) for a in range(b)][:connections]
    pairs = sorted({*pairs, *((0, each) for each in range(1, components))})
    instrument = {"quantity": "pressure", "unit": "bar", "range": [0, 400]}
    return parse_equipment(
        {
            "equipment_id": "hub",
            "design": "hydraulic-rig",
            "components": [
                {
                    "component_id": name,
                    "type": "valve",
                    "sensors": [
                        {"sensor_id": f"s{number}", **instrument}
                        for number in range(sensors * (name == "c0"))
                    ],
                }
                for name in names
            ],
            "connections": [
                {"source": names[a], "target": names[b], "medium": "pressure_line"}
                for a, b in pairs
            ],
            "grid_s": 1,
            "window_s": 60,
            "steps": 12,
        },
        "test",
    )


@pytest.mark.parametrize("equipment", [rig_equipment(), hub(20, 3, 60)])
def test_cells_are_those_of_the_graph_that_is_built(equipment: Equipment):
    topology = build_topology(equipment, FeatureSpec.model_validate_json(SPEC.read_bytes()))
    shape = (1, len(equipment.sensors), equipment.steps)
    group = GraphGroup(topology, np.zeros((*shape, 7), np.float32), np.ones(shape, np.bool_))
    assert pass_cells(equipment) == group.cells == group.window_cells
    assert group.take([0, 0]).cells == 2 * group.cells


def test_explanation_costs_a_pass_more_for_each_sensor():
    rig = rig_equipment()
    assert diagnosis_cells(rig, explain=False) == pass_cells(rig)
    assert diagnosis_cells(rig, explain=True) == (1 + len(rig.sensors)) * pass_cells(rig)


def test_explanation_of_many_components_and_connections_is_refused_with_few_sensors():
    check_explainable(diagnosis_cells(rig_equipment(), explain=True))
    cells = diagnosis_cells(hub(505, 17, 3_500), explain=True)
    assert cells > MAX_EXPLAINED_CELLS
    with pytest.raises(LimitExceeded, match=f"found {cells}: leave `explain` out") as caught:
        check_explainable(cells)
    assert caught.value.field == "explain"


def test_window_that_takes_seconds_of_one_pass_is_refused():
    check_pass(MAX_PASS_CELLS)
    with pytest.raises(LimitExceeded, match="give its topology fewer `steps`"):
        check_pass(MAX_PASS_CELLS + 1)
