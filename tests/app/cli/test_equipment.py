"""`hydraulic equipment`: registers, checks, lists and draws machines."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from app.cli.topology import layers, mermaid
from app.demo.rig.equipment import rig_equipment
from tests.command_line import hydraulic
from tests.small import press
from tests.system import PROJECT_DIR

RIG = rig_equipment(None)
RIG_FILE = str(PROJECT_DIR / "app/demo/rig/hydraulic_rig.yaml")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The small press as a file."""
    path = tmp_path / "press.yaml"
    path.write_text(yaml.safe_dump(press().model_dump(mode="json")))
    return path


def test_machines_are_registered_listed_and_shown(file: Path, database_dsn: str):
    dsn = ("--dsn", database_dsn)
    done = hydraulic("equipment", "register", str(file), RIG_FILE, *dsn)
    assert done.status == 0, done
    assert done.out.splitlines()[0] == "registered press-1: 3 components, 4 sensors"
    assert hydraulic("equipment", "register", str(file), *dsn).out.startswith("replaced press-1")
    listed = json.loads(hydraulic("equipment", "list", *dsn, "--json").out)
    assert [each["equipment_id"] for each in listed] == ["hydraulic-rig", "press-1"]
    of_design = hydraulic("equipment", "list", "--design", "press", *dsn).out
    assert "press-1" in of_design
    assert "hydraulic-rig" not in of_design
    shown = hydraulic("equipment", "show", "hydraulic-rig", *dsn).out
    assert "window 60 s, 12 steps, cycle 60 s" in shown
    as_json = hydraulic("equipment", "show", "press-1", *dsn, "--json").out
    assert json.loads(as_json) == press().model_dump(mode="json")
    status, out, err = hydraulic("equipment", "show", "mill", *dsn)
    assert (status, out, "found 'mill'" in err) == (1, "", True)
    assert "press-1" in hydraulic("equipment", "draw", "press-1", *dsn).out


def test_lint_names_every_error_and_registers_nothing(file: Path, database_dsn: str):
    wrong = yaml.safe_load(file.read_text())
    wrong["components"][0]["type"] = "spaceship"
    wrong["components"][1]["component_id"] = wrong["components"][0]["component_id"]
    bad = file.with_name("bad.yaml")
    bad.write_text(yaml.safe_dump(wrong))
    status, out, _ = hydraulic("equipment", "lint", str(file), str(bad))
    assert status == 1
    assert f"{file}: no errors" in out
    assert "unknown component type 'spaceship'" in out
    assert out.count(f"{bad}: ") >= 2
    dsn = ("--dsn", database_dsn)
    assert hydraulic("equipment", "register", str(file), str(bad), *dsn).status == 1
    assert json.loads(hydraulic("equipment", "list", *dsn, "--json").out) == []
    status, out, _ = hydraulic("equipment", "lint", str(file.with_name("none.yaml")))
    assert (status, "found none to read" in out) == (1, True)


def test_drawings_hold_every_component_and_connection(tmp_path: Path):
    text = hydraulic("equipment", "draw", RIG_FILE).out
    image, source = tmp_path / "rig.svg", tmp_path / "rig.mmd"
    for path in (image, source):
        assert hydraulic("equipment", "draw", RIG_FILE, "--out", str(path)).status == 0
    drawn = ET.parse(image).getroot()
    names = {node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert names == set(RIG.component_ids)
    assert all(name in text for name in RIG.component_ids)
    assert source.read_text().count("-->") == len(RIG.connections)
    status, _, err = hydraulic("equipment", "draw", RIG_FILE, "--out", str(tmp_path / "rig.png"))
    assert (status, "expected --out to end in .svg or .mmd" in err) == (1, True)


def test_sources_are_left_of_their_targets_but_where_the_circuit_closes():
    placed = layers(RIG)
    behind = [each for each in RIG.connections if placed[each.source] >= placed[each.target]]
    assert 0 < len(behind) < len(RIG.connections) / 2
    assert min(placed.values()) == 0


def test_states_colour_a_drawing():
    lines = mermaid(RIG, {"pump": "critical"}).splitlines()
    assert sum(line.strip().startswith("style ") for line in lines) == 1


def test_maintenance_is_recorded_and_listed(file: Path, database_dsn: str):
    dsn = ("--dsn", database_dsn)
    hydraulic("equipment", "register", str(file), *dsn)
    command = ("equipment", "maintenance", "press-1", *dsn)
    options = ("--kind", "replacement", "--component", "pump", "--at", "2025-01-02T00:00:00Z")
    done = hydraulic(*command, *options, "--note", "[new]")
    assert done.out.startswith("recorded maintenance "), done
    shown = hydraulic(*command).out
    assert "2025-01-02 00:00Z" in shown
    assert "[new]" in shown
    (record,) = json.loads(hydraulic(*command, "--json").out)
    assert (record["component_id"], record["kind"]) == ("pump", "replacement")
    wrong = hydraulic(*command, "--kind", "polish")
    assert wrong.status == 1
    assert "expected a valid kind, found" in wrong.err
    assert "expected a component" in hydraulic(*command, "--kind", "repair", "--component", "x").err


def test_baseline_is_recorded_shown_and_deleted(file: Path, database_dsn: str):
    dsn = ("--dsn", database_dsn)
    assert hydraulic("equipment", "register", str(file), *dsn).status == 0
    rows = ["equipment_id,sensor_id,time,value"]
    for second in range(26 * 12):
        time = f"2025-03-01T00:{second // 60:02d}:{second % 60:02d}Z"
        rows += [f"press-1,{name},{time},{100 + second * 7 % 11}" for name in ("P1", "Q1", "P2")]
    readings = file.with_suffix(".csv")
    readings.write_text("\n".join(rows))
    assert hydraulic("readings", "import", str(readings), *dsn).status == 0
    interval = ("--start", "2025-03-01T00:00Z", "--end", "2025-03-01T00:05:12Z")
    status, out, err = hydraulic("equipment", "baseline", "press-1", *interval, *dsn)
    assert (status, "26 windows in [2025-03-01T00:00:00+00:00" in out) == (0, True), err
    assert "too few readings of T1" in out
    shown = json.loads(hydraulic("equipment", "baseline", "press-1", *dsn, "--json").out)
    assert (shown["windows"], shown["missing_sensors"]) == (26, ["T1"])
    few = ("--start", "2025-03-01T00:00Z", "--end", "2025-03-01T00:02Z")
    status, _, err = hydraulic("equipment", "baseline", "press-1", *few, *dsn)
    assert (status, "at least 24 windows" in err) == (1, True)
    assert "deleted" in hydraulic("equipment", "baseline", "press-1", "--delete", *dsn).out
    status, _, err = hydraulic("equipment", "baseline", "press-1", *dsn)
    assert (status, "expected a baseline of 'press-1', found none" in err) == (1, True)
    for wrong in (("--delete", *interval), interval[:2]):
        assert hydraulic("equipment", "baseline", "press-1", *wrong, *dsn).status != 0
