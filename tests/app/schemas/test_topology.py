"""The topology linter: each test changes one thing of a valid machine."""

from typing import Any

import pytest

from app.core.errors import TopologyError
from app.schemas.equipment import COMPONENT_TYPES, MEDIA, QUANTITIES
from app.schemas.topology import Finding, lint, parse_equipment
from tests.app.schemas.press import Change, findings, press, sensor


def test_valid_machine_has_only_the_warning_of_its_valve_without_sensors() -> None:
    equipment = parse_equipment(press(), "press.yaml")
    assert lint(equipment) == (
        Finding(
            "warning",
            "components[1]",
            "'valve' has no sensor of its own and is diagnosed from its neighbours alone: "
            "add a sensor for a diagnosis of its own",
        ),
    )
    assert equipment.sensor_ids == ("PS1", "TS1", "L1")
    assert [placed.component_index for placed in equipment.sensors] == [0, 0, 2]
    assert (equipment.grid_us, equipment.bins) == (1_000_000, 60)
    assert equipment.design == "press-1"
    assert equipment.component_index("tank") == 2
    with pytest.raises(KeyError):
        equipment.component_index("motor")


SINGLE_FINDINGS: list[tuple[str, Change, str, str]] = [
    (
        "unknown quantity",
        lambda data: sensor(data).update(quantity="pressur"),
        "components[0].sensors[0].quantity",
        f"unknown quantity 'pressur': use one of {', '.join(sorted(QUANTITIES))}",
    ),
    (
        "unit of another quantity",
        lambda data: sensor(data).update(unit="degC"),
        "components[0].sensors[0].unit",
        "unknown unit 'degC' of pressure: use one of bar, kPa, MPa, psi",
    ),
    (
        "empty range",
        lambda data: sensor(data).update(range=[10.0, 10.0]),
        "components[0].sensors[0].range",
        "expected [low, high] with low < high, found [10, 10]: give what it can read",
    ),
    (
        "range upside down",
        lambda data: sensor(data).update(range=[10.0, -10.0]),
        "components[0].sensors[0].range",
        "expected [low, high] with low < high, found [10, -10]: give what it can read",
    ),
    (
        "temperature below absolute zero",
        lambda data: sensor(data, 1).update(range=[-300.0, 10.0]),
        "components[0].sensors[1].range",
        (
            "expected no temperature below absolute zero (-273.15 degC), found -300: "
            "give what the instrument can read"
        ),
    ),
    (
        "unknown component type",
        lambda data: data["components"][1].update(type="valv"),
        "components[1].type",
        f"unknown component type 'valv': use one of {', '.join(COMPONENT_TYPES)}",
    ),
    (
        "grades that rise",
        lambda data: data["components"][0]["grades"].reverse(),
        "components[0].grades",
        (
            "expected none, or at least two grades with falling health, found health [0.0, 1.0]: "
            "order them from as new to failed"
        ),
    ),
    (
        "one grade only",
        lambda data: data["components"][0]["grades"].pop(),
        "components[0].grades",
        (
            "expected none, or at least two grades with falling health, found health [1.0]: "
            "order them from as new to failed"
        ),
    ),
    (
        "grade names that repeat",
        lambda data: data["components"][0]["grades"][1].update(name="0"),
        "components[0].grades",
        'expected grade names to be unique, found ["0", "0"]: rename all but one',
    ),
    (
        "dangling source",
        lambda data: data["connections"].append(
            {"source": "moter", "target": "pump", "medium": "shaft"}
        ),
        "connections[3].source",
        (
            "expected a component of this equipment, found 'moter': "
            "add it to components or correct the connection; "
            "there are pump, tank, valve"
        ),
    ),
    (
        "dangling target",
        lambda data: data["connections"].append(
            {"source": "pump", "target": "moter", "medium": "shaft"}
        ),
        "connections[3].target",
        (
            "expected a component of this equipment, found 'moter': "
            "add it to components or correct the connection; "
            "there are pump, tank, valve"
        ),
    ),
    (
        "loop to itself",
        lambda data: data["connections"].append(
            {"source": "pump", "target": "pump", "medium": "leakage_line"}
        ),
        "connections[3]",
        "expected two different ends, found 'pump' connected to itself: remove the connection",
    ),
    (
        "unknown medium",
        lambda data: data["connections"][0].update(medium="hose"),
        "connections[0].medium",
        f"unknown medium 'hose': use one of {', '.join(MEDIA)}",
    ),
    (
        "connection twice",
        lambda data: data["connections"].append(data["connections"][0]),
        "connections[3]",
        (
            "expected each connection once, found tank to pump by suction_line again: "
            "remove one of them"
        ),
    ),
    (
        "isolated component",
        lambda data: data["components"].append({"component_id": "filter", "type": "filter"}),
        "components[3]",
        (
            "expected a connection to another component, found 'filter' isolated: "
            "connect it or remove it"
        ),
    ),
    (
        "window no multiple of the grid",
        lambda data: data.update(window_s=60.5),
        "window_s",
        "expected a whole multiple of grid_s 1, found 60.5: round it",
    ),
    (
        "window below a bin",
        lambda data: data.update(window_s=1e-7),
        "window_s",
        "expected a whole multiple of grid_s 1, found 1e-07: round it",
    ),
    (
        "steps no divisor of the bins",
        lambda data: data.update(steps=7),
        "steps",
        "expected a divisor of the window's 60 bins, found 7: change steps or window_s",
    ),
    (
        "cycle no multiple of the grid",
        lambda data: data.update(cycle_s=0.5),
        "cycle_s",
        "expected a whole multiple of grid_s 1, found 0.5: round it",
    ),
    (
        "cycle below a microsecond",
        lambda data: data.update(cycle_s=1e-9),
        "cycle_s",
        "expected a whole multiple of grid_s 1, found 1e-09: round it",
    ),
]


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [case[1:] for case in SINGLE_FINDINGS],
    ids=[case[0] for case in SINGLE_FINDINGS],
)
def test_one_error_gives_one_finding_with_place_and_remedy(
    change: Change, place: str, message: str
) -> None:
    assert findings(change) == ((place, message),)


def test_duplicate_component_is_reported_at_each_place() -> None:
    assert findings(lambda data: data["components"][1].update(component_id="tank"))[:2] == tuple(
        (
            f"components[{index}].component_id",
            "expected ids to be unique, found 'tank' 2 times: rename all but one",
        )
        for index in (1, 2)
    )


def test_duplicate_sensor_on_two_components_is_reported_at_both() -> None:
    assert findings(lambda data: sensor(data).update(sensor_id="L1")) == tuple(
        (
            place,
            "expected ids to be unique in the equipment, found 'L1' 2 times: rename all but one",
        )
        for place in ("components[0].sensors[0].sensor_id", "components[2].sensors[0].sensor_id")
    )


def test_component_without_sensor_and_without_sensed_neighbour_is_an_error() -> None:
    def change(data: dict[str, Any]) -> None:
        data["components"].append({"component_id": "cylinder", "type": "cylinder"})
        data["connections"].append(
            {"source": "valve", "target": "cylinder", "medium": "pressure_line"}
        )

    assert findings(change) == (
        (
            "components[3]",
            (
                "expected a sensor on 'cylinder' or on a neighbour, found none: "
                "add a sensor, connect it to a component that has one, or remove it"
            ),
        ),
    )


def test_too_many_sensors_is_an_error() -> None:
    sensors = [
        {"sensor_id": f"P{n}", "quantity": "pressure", "unit": "bar", "range": [0.0, 1.0]}
        for n in range(2_049)
    ]
    assert findings(lambda data: data["components"][0].update(sensors=sensors)) == (
        ("components", "expected at most 2048 sensors, found 2050: split the equipment"),
    )


def test_too_many_bins_is_an_error() -> None:
    assert findings(lambda data: data.update(window_s=120_000.0)) == (
        (
            "window_s",
            "expected at most 100000 bins, found 120000: raise grid_s or shorten window_s",
        ),
    )


def test_lone_component_needs_no_connection() -> None:
    data = press()
    data["components"], data["connections"] = data["components"][:1], []
    assert lint(parse_equipment(data, "x")) == ()


def test_lone_component_without_a_sensor_is_an_error() -> None:
    data = press()
    data["components"], data["connections"] = data["components"][1:2], []
    with pytest.raises(TopologyError, match="expected a sensor on 'valve'"):
        parse_equipment(data, "x")


def test_all_errors_are_reported_together_without_warnings() -> None:
    def change(data: dict[str, Any]) -> None:
        sensor(data).update(unit="furlong")
        data["components"][2].update(type="tanke")
        data.update(steps=7)

    assert [place for place, _ in findings(change)] == [
        "components[0].sensors[0].unit",
        "components[2].type",
        "steps",
    ]


def test_window_with_too_many_sensor_bins_or_sensor_steps_is_an_error() -> None:
    def change(data: dict[str, Any]) -> None:
        sensors = [
            {"sensor_id": f"P{n}", "quantity": "pressure", "unit": "bar", "range": [0, 1]}
            for n in range(1_000)
        ]
        data["components"][0].update(sensors=sensors)
        data.update(window_s=5_000.0, steps=200)

    assert findings(change) == (
        (
            "window_s",
            (
                "expected at most 5000000 sensors x bins, found 1001 x 5000: "
                "raise grid_s, shorten window_s or split the equipment"
            ),
        ),
        (
            "steps",
            (
                "expected at most 200000 sensors x steps, found 1001 x 200: "
                "take fewer steps or split the equipment"
            ),
        ),
    )


def test_finding_of_a_connection_lists_some_components_only() -> None:
    def change(data: dict[str, Any]) -> None:
        data["components"] += [{"component_id": f"c{n:03}", "type": "line"} for n in range(100)]
        data["connections"][0]["source"] = "nobody"

    message = dict(findings(change))["connections[0].source"]
    assert message.endswith(
        "there are " + ", ".join(f"c{n:03}" for n in range(20)) + " and 83 more"
    )
