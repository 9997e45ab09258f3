"""Machines from YAML: the shipped ones, a further one, and findings of wrong ones."""

import shutil

import pytest

from app.core.errors import ReadingError, TopologyError
from app.demo.simulation.drawing import as_mermaid, as_text
from app.demo.simulation.machine import machine_files, read_machine
from tests.app.demo.simulation.circuits import DRIVE, DRIVE_SENSORS, PUMP, machine

SHIPPED = ("cnc", "excavator", "injection_moulding", "robot")
NAMED = {
    "pump leakage", "valve stiction", "valve wear", "cylinder seal_leakage", "filter clogging",
    "accumulator gas_loss", "cooler fouling", "drive bearing_wear", "tank aeration",
    "relief drift",
}  # fmt: skip


def test_four_machines_are_shipped():
    assert tuple(sorted(machine_files())) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_machine_has_the_size_of_a_real_one_and_says_that_it_is_simulated(name):
    equipment = read_machine(name).equipment(f"{name}-7")
    assert 8 <= len(equipment.components) <= 20
    assert 15 <= len(equipment.sensors) <= 40
    assert "(simulated)" in equipment.name
    assert equipment.design == f"sim-{name.replace('_', '-')}"
    reached = equipment.reached_from([equipment.component_index("pump")])
    assert len(reached) >= len(equipment.components) - 1


def test_every_named_fault_occurs_in_a_shipped_machine():
    found = {
        f"{component.kind} {fault}"
        for name in SHIPPED
        for component in read_machine(name).components
        for fault in component.faults
    }
    assert found >= NAMED


def test_a_further_machine_is_a_folder_with_yaml_alone(tmp_path):
    folder = tmp_path / "crane"
    folder.mkdir()
    shutil.copy(machine_files()["robot"], folder / "machine.yaml")
    text = (folder / "machine.yaml").read_text().replace("machine: robot", "machine: crane")
    (folder / "machine.yaml").write_text(text)
    assert read_machine(str(folder)).machine == "crane"


def test_an_unknown_machine_names_the_known_ones():
    with pytest.raises(ReadingError, match="one of cnc, excavator, injection_moulding, robot"):
        read_machine("dredger")


@pytest.mark.parametrize(
    ("component", "error", "message"),
    [
        ({"id": "y", "kind": "turbine"}, TopologyError, "as 'kind', found 'turbine': correct it"),
        ({"id": "y"}, TopologyError, "expected a field 'kind', found none: add it"),
        ({**PUMP, "id": ["y"]}, TopologyError, r'expected text, found \["y"\]: correct it'),
        ({**PUMP, "colour": "red"}, TopologyError, "expected no such field, found 'red'"),
        ({**PUMP, "id": "second", "outlet": "q"}, ReadingError, "expected a line for 'second'"),
        ({**PUMP, "id": "second", "drive": "x"}, TopologyError, "expected a component of this"),
        (
            {"id": "y", "kind": "tank", "faults": {"rust": {"life_h": 3}}},
            TopologyError,
            "aeration",
        ),
        (
            {"id": "y", "kind": "tank", "sensors": [{**DRIVE_SENSORS[0], "measures": "smell"}]},
            TopologyError,
            "expected one of pressure",
        ),
    ],
)
def test_a_wrong_machine_is_refused_with_what_to_do(component, error, message):
    with pytest.raises(error, match=message):
        machine(component)


def test_a_signal_of_the_wrong_length_is_found():
    programs = {"work": {"seconds": [0, 10], "signals": {"command": [0, 0, 0]}}}
    with pytest.raises(TopologyError, match="expected 2 values of 'command'"):
        machine(duty={"rest": {"command": 0.0}, "programs": programs})


def test_the_drawing_has_every_component_and_connection():
    design = read_machine("cnc")
    text, mermaid = as_text(design), as_mermaid(design)
    for component in design.components:
        assert component.component_id in text
        assert f'{component.component_id}["' in mermaid
    assert "motor ==> pump" in mermaid
    assert DRIVE["kind"] in text
