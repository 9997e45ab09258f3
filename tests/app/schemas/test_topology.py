"""The topology linter: one test a finding, each from a sound machine with one thing changed."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import TopologyError
from app.schemas.equipment import COMPONENT_TYPES, MEDIA, QUANTITIES, Equipment
from app.schemas.topology import Finding, check_equipment, lint, parse_equipment, read_equipment

Change = Callable[[dict[str, Any]], object]


def _machine() -> dict[str, Any]:
    return {
        "equipment_id": "press-1",
        "name": "Press",
        "grid_s": 1.0,
        "window_s": 60.0,
        "steps": 12,
        "cycle_s": 60.0,
        "components": [
            {
                "component_id": "pump",
                "type": "pump",
                "sensors": [
                    {
                        "sensor_id": "PS1",
                        "quantity": "pressure",
                        "unit": "bar",
                        "range": [0.0, 250.0],
                    },
                    {
                        "sensor_id": "TS1",
                        "quantity": "temperature",
                        "unit": "degC",
                        "range": [-40.0, 150.0],
                    },
                ],
                "grades": [{"name": "0", "health": 1.0}, {"name": "2", "health": 0.0}],
            },
            {"component_id": "valve", "type": "valve"},
            {
                "component_id": "tank",
                "type": "tank",
                "sensors": [
                    {"sensor_id": "L1", "quantity": "level", "unit": "%", "range": [0.0, 100.0]}
                ],
            },
        ],
        "connections": [
            {"source": "tank", "target": "pump", "medium": "suction_line"},
            {"source": "pump", "target": "valve", "medium": "pressure_line", "evidence": "forward"},
            {"source": "valve", "target": "tank", "medium": "return_line", "evidence": "none"},
        ],
    }


def _findings(change: Change) -> tuple[tuple[str, str], ...]:
    data = _machine()
    change(data)
    with pytest.raises(TopologyError) as caught:
        parse_equipment(data, "press.yaml")
    assert caught.value.where == "press.yaml"
    assert caught.value.field == caught.value.findings[0][0]
    return caught.value.findings


def _sensor(data: dict[str, Any], position: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = data["components"][0]["sensors"][position]
    return found


def test_sound_machine_has_only_the_warning_of_its_sensorless_valve() -> None:
    equipment = parse_equipment(_machine(), "press.yaml")
    assert lint(equipment) == (
        Finding(
            "warning",
            "components[1]",
            "'valve' has no sensor of its own and is judged by its neighbours alone",
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
        lambda data: _sensor(data).update(quantity="pressur"),
        "components[0].sensors[0].quantity",
        f"unknown quantity 'pressur': use one of {', '.join(sorted(QUANTITIES))}",
    ),
    (
        "unit of another quantity",
        lambda data: _sensor(data).update(unit="degC"),
        "components[0].sensors[0].unit",
        "unknown unit 'degC' of pressure: use one of bar, kPa, MPa, psi",
    ),
    (
        "empty range",
        lambda data: _sensor(data).update(range=[10.0, 10.0]),
        "components[0].sensors[0].range",
        "expected [low, high] with low < high, found [10, 10]: give what it can read",
    ),
    (
        "range upside down",
        lambda data: _sensor(data).update(range=[10.0, -10.0]),
        "components[0].sensors[0].range",
        "expected [low, high] with low < high, found [10, -10]: give what it can read",
    ),
    (
        "temperature below absolute zero",
        lambda data: _sensor(data, 1).update(range=[-300.0, 10.0]),
        "components[0].sensors[1].range",
        "expected no temperature below absolute zero (-273.15 degC), found -300: give what the instrument can read",
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
        "expected grade names to be unique, found ['0', '0']: rename all but one",
    ),
    (
        "dangling source",
        lambda data: data["connections"].append(
            {"source": "moter", "target": "pump", "medium": "shaft"}
        ),
        "connections[3].source",
        (
            "expected a component of this equipment, found 'moter': add it to components or correct the connection; "
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
            "expected a component of this equipment, found 'moter': add it to components or correct the connection; "
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
        "expected each connection once, found tank to pump by suction_line again: remove one of them",
    ),
    (
        "isolated component",
        lambda data: data["components"].append({"component_id": "filter", "type": "filter"}),
        "components[3]",
        "expected a connection to another component, found 'filter' isolated: connect it or remove it",
    ),
    (
        "window no multiple of the grid",
        lambda data: data.update(window_s=60.5),
        "window_s",
        "expected a whole multiple of grid_s 1, found 60.5",
    ),
    (
        "window below a bin",
        lambda data: data.update(window_s=1e-7),
        "window_s",
        "expected a whole multiple of grid_s 1, found 1e-07",
    ),
    (
        "steps no divisor of the bins",
        lambda data: data.update(steps=7),
        "steps",
        "expected a divisor of the window's 60 bins, found 7",
    ),
    (
        "cycle no multiple of the grid",
        lambda data: data.update(cycle_s=0.5),
        "cycle_s",
        "expected a whole multiple of grid_s 1, found 0.5",
    ),
    (
        "cycle below a microsecond",
        lambda data: data.update(cycle_s=1e-9),
        "cycle_s",
        "expected a whole multiple of grid_s 1, found 1e-09",
    ),
]


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [case[1:] for case in SINGLE_FINDINGS],
    ids=[case[0] for case in SINGLE_FINDINGS],
)
def test_one_fault_gives_one_finding_that_names_the_place_and_what_to_do(
    change: Change, place: str, message: str
) -> None:
    assert _findings(change) == ((place, message),)


def test_duplicate_component_is_named_at_each_of_its_places() -> None:
    assert _findings(lambda data: data["components"][1].update(component_id="tank"))[:2] == tuple(
        (
            f"components[{index}].component_id",
            "expected ids to be unique, found 'tank' 2 times: rename all but one",
        )
        for index in (1, 2)
    )


def test_duplicate_sensor_on_two_components_is_named_at_both() -> None:
    assert _findings(lambda data: _sensor(data).update(sensor_id="L1")) == tuple(
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

    assert _findings(change) == (
        (
            "components[3]",
            (
                "expected a sensor on 'cylinder' or on a neighbour, found none, so nothing can be said of it: add a sensor, "
                "connect it to a component that has one, or remove it"
            ),
        ),
    )


def test_too_many_sensors_is_an_error() -> None:
    sensors = [
        {"sensor_id": f"P{n}", "quantity": "pressure", "unit": "bar", "range": [0.0, 1.0]}
        for n in range(2_049)
    ]
    assert _findings(lambda data: data["components"][0].update(sensors=sensors)) == (
        ("components", "expected at most 2048 sensors, found 2050: split the equipment"),
    )


def test_too_many_bins_is_an_error() -> None:
    assert _findings(lambda data: data.update(window_s=120_000.0)) == (
        (
            "window_s",
            "expected at most 100000 bins, found 120000: raise grid_s or shorten window_s",
        ),
    )


def test_lone_component_needs_no_connection() -> None:
    data = _machine()
    data["components"], data["connections"] = data["components"][:1], []
    assert lint(parse_equipment(data, "x")) == ()


def test_lone_component_without_a_sensor_is_an_error() -> None:
    data = _machine()
    data["components"], data["connections"] = data["components"][1:2], []
    with pytest.raises(TopologyError, match="expected a sensor on 'valve'"):
        parse_equipment(data, "x")


def test_all_errors_are_reported_at_once_and_warnings_are_not_among_them() -> None:
    def change(data: dict[str, Any]) -> None:
        _sensor(data).update(unit="furlong")
        data["components"][2].update(type="tanke")
        data.update(steps=7)

    assert [place for place, _ in _findings(change)] == [
        "components[0].sensors[0].unit",
        "components[2].type",
        "steps",
    ]


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (lambda data: data.pop("grid_s"), "grid_s", "Field required"),
        (lambda data: data.update(stepps=1), "stepps", "Extra inputs are not permitted, found 1"),
        (
            lambda data: data.update(steps="12"),
            "steps",
            "Input should be a valid integer, found '12'",
        ),
        (
            lambda data: data.update(steps=True),
            "steps",
            "Input should be a valid integer, found True",
        ),
        (lambda data: data.update(grid_s=float("nan")), "grid_s", "found nan"),
        (lambda data: data.update(window_s=float("inf")), "window_s", "found inf"),
        (lambda data: data.update(components=[]), "components", "at least 1 item"),
        (lambda data: data.update(name="\x00"), "name", "String should match pattern"),
        (
            lambda data: data.update(equipment_id="a b"),
            "equipment_id",
            "String should match pattern",
        ),
        (
            lambda data: data.update(equipment_id="x\n"),
            "equipment_id",
            "String should match pattern",
        ),
        (
            lambda data: _sensor(data).update(range=[0.0, float("inf")]),
            "components[0].sensors[0].range[1]",
            "Input should be a finite number, found inf",
        ),
        (
            lambda data: _sensor(data).update(range=[0.0]),
            "components[0].sensors[0].range[1]",
            "Field required",
        ),
        (
            lambda data: data["components"][0]["grades"][0].update(health=1.5),
            "components[0].grades[0].health",
            "Input should be less than or equal to 1, found 1.5",
        ),
        (
            lambda data: data["connections"][1].update(evidence="backward"),
            "connections[1].evidence",
            "Input should be 'forward', 'both' or 'none', found 'backward'",
        ),
    ],
)
def test_fault_of_type_is_one_finding_at_its_place(
    change: Change, place: str, message: str
) -> None:
    ((found_place, found_message),) = _findings(change)
    assert found_place == place
    assert message in found_message


@pytest.mark.parametrize(
    ("data", "found"), [(None, "NoneType"), ([1], "list"), ("text", "str"), (3.0, "float")]
)
def test_document_that_is_no_mapping_is_refused(data: object, found: str) -> None:
    with pytest.raises(
        TopologyError, match=f"expected a mapping with equipment_id, components ..., found {found}"
    ):
        parse_equipment(data, "x")


def test_message_names_the_source_and_every_finding() -> None:
    data = _machine()
    data["steps"] = 7
    data["components"][1]["type"] = "valv"
    with pytest.raises(TopologyError) as caught:
        read_equipment(yaml.safe_dump(data), "press.yaml")
    assert caught.value.message.startswith(
        "press.yaml has 2 error(s): components[1].type: unknown component type 'valv'"
    )
    assert caught.value.message.endswith(
        "; steps: expected a divisor of the window's 60 bins, found 7"
    )


def test_equipment_built_by_hand_is_checked_too() -> None:
    sound = parse_equipment(_machine(), "x")
    check_equipment(sound, "x")
    with pytest.raises(TopologyError, match="steps"):
        check_equipment(sound.model_copy(update={"steps": 7}), "x")


def test_yaml_and_json_give_equal_equipment_of_the_same_revision() -> None:
    data = _machine()
    from_yaml = read_equipment(yaml.safe_dump(data), "press.yaml")
    from_json = read_equipment(json.dumps(data, indent="\t").encode(), "press.json")
    assert from_yaml == from_json
    assert from_yaml.revision == from_json.revision


def test_revision_is_pinned_so_that_stored_diagnoses_keep_their_meaning() -> None:
    assert (
        parse_equipment(_machine(), "x").revision
        == "ed96b95b23bd1a0eedbe1e3570e9081cc63ceec4f5a96709a7642cfef2c80d34"
    )


def test_defaults_written_out_and_whole_numbers_do_not_change_the_revision() -> None:
    data = _machine()
    revision = parse_equipment(data, "x").revision
    data.update(design="press-1", grid_s=1, window_s=60)
    data["connections"][0]["evidence"] = "both"
    data["components"][1].update(sensors=[], grades=[])
    assert parse_equipment(dict(reversed(data.items())), "x").revision == revision


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(name="Other"),
        lambda data: data.update(steps=6),
        lambda data: data.update(cycle_s=None),
        lambda data: _sensor(data).update(range=[0.0, 251.0]),
        lambda data: data["connections"][0].update(evidence="none"),
        lambda data: data["components"].reverse(),
    ],
)
def test_any_change_of_meaning_changes_the_revision(change: Change) -> None:
    data = _machine()
    change(data)
    assert parse_equipment(data, "x").revision != parse_equipment(_machine(), "x").revision


_SENSED = st.lists(
    st.tuples(st.sampled_from(sorted(QUANTITIES)), st.floats(0.0, 1e6), st.floats(1e-3, 1e6)),
    min_size=1,
    max_size=3,
)


@st.composite
def _machines(draw: st.DrawFn) -> dict[str, Any]:
    parts = draw(
        st.lists(st.tuples(st.sampled_from(COMPONENT_TYPES), _SENSED), min_size=1, max_size=5)
    )
    components = [
        {
            "component_id": f"c{index}",
            "type": kind,
            "sensors": [
                {
                    "sensor_id": f"s{index}.{position}",
                    "quantity": quantity,
                    "unit": draw(st.sampled_from(QUANTITIES[quantity])),
                    "range": [low, low + width],
                }
                for position, (quantity, low, width) in enumerate(sensors)
            ],
            "grades": draw(
                st.sampled_from(
                    [[], [{"name": "good", "health": 1.0}, {"name": "bad", "health": 0.25}]]
                )
            ),
        }
        for index, (kind, sensors) in enumerate(parts)
    ]
    chain = [
        {
            "source": f"c{index}",
            "target": f"c{index + 1}",
            "medium": draw(st.sampled_from(MEDIA)),
            "evidence": draw(st.sampled_from(["forward", "both", "none"])),
        }
        for index in range(len(parts) - 1)
    ]
    steps = draw(st.integers(2, 20))
    grid_s = draw(st.sampled_from([0.01, 0.1, 1.0, 10.0]))
    return {
        "equipment_id": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,20}", fullmatch=True)),
        "name": draw(st.text(st.characters(exclude_categories=["C"]), max_size=20)),
        "grid_s": grid_s,
        "window_s": round(grid_s * steps * draw(st.integers(1, 50)), 6),
        "steps": steps,
        "components": components,
        "connections": chain,
    }


@given(data=_machines())
def test_sound_machines_pass_and_survive_yaml_and_json(data: dict[str, Any]) -> None:
    equipment = parse_equipment(data, "x")
    for text in (
        equipment.model_dump_json(),
        json.dumps(data),
        yaml.safe_dump(data, allow_unicode=True),
    ):
        again = read_equipment(text, "x")
        assert again == equipment
        assert again.revision == equipment.revision
    assert Equipment.model_validate_json(equipment.model_dump_json(), strict=True) == equipment
    assert equipment.bins % equipment.steps == 0
    assert len(equipment.sensors) == sum(
        len(component["sensors"]) for component in data["components"]
    )


def test_window_with_too_many_sensor_bins_or_sensor_steps_is_an_error() -> None:
    def change(data: dict[str, Any]) -> None:
        sensors = [
            {"sensor_id": f"P{n}", "quantity": "pressure", "unit": "bar", "range": [0, 1]}
            for n in range(1_000)
        ]
        data["components"][0].update(sensors=sensors)
        data.update(window_s=5_000.0, steps=200)

    assert _findings(change) == (
        (
            "window_s",
            "expected at most 5000000 sensors x bins, found 1001 x 5000: raise grid_s, shorten window_s or split the equipment",
        ),
        (
            "steps",
            "expected at most 200000 sensors x steps, found 1001 x 200: take fewer steps or split the equipment",
        ),
    )


def test_finding_of_a_connection_lists_some_components_only() -> None:
    def change(data: dict[str, Any]) -> None:
        data["components"] += [{"component_id": f"c{n:03}", "type": "line"} for n in range(100)]
        data["connections"][0]["source"] = "nobody"

    message = dict(_findings(change))["connections[0].source"]
    assert message.endswith(
        "there are " + ", ".join(f"c{n:03}" for n in range(20)) + " and 83 more"
    )


def test_message_tells_the_first_five_findings() -> None:
    findings = tuple((f"components[{n}]", "unknown") for n in range(7))
    message = TopologyError("body", findings).message
    assert message.startswith("body has 7 error(s): components[0]: unknown; ")
    assert message.endswith("components[4]: unknown; and 2 more")


def test_document_of_nothing_but_faults_is_one_finding() -> None:
    data = _machine() | {f"extra{n}": n for n in range(5_000)}
    with pytest.raises(TopologyError) as caught:
        parse_equipment(data, "x")
    assert caught.value.findings == (
        (
            "",
            "expected a topology, found 5000 faults: correct its layout, see the Equipment schema",
        ),
    )


@pytest.mark.parametrize("value", [10**5_000, "\ud800"], ids=["huge", "surrogate"])
def test_value_that_json_cant_say_is_a_topology_error(value: object) -> None:
    with pytest.raises(TopologyError):
        parse_equipment(_machine() | {"name": value}, "x")


def test_value_that_holds_itself_is_a_topology_error() -> None:
    data = _machine()
    data["connections"].append(data["connections"])
    with pytest.raises(TopologyError, match="expected plain JSON values"):
        parse_equipment(data, "x")
