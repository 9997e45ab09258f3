"""Reading a topology: type errors, messages and revisions."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import TopologyError
from app.schemas.equipment import COMPONENT_TYPES, MEDIA, QUANTITIES, Equipment
from app.schemas.topology import check_equipment, parse_equipment, read_equipment
from tests.app.schemas.press import Change, findings, press, sensor


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (lambda data: data.pop("grid_s"), "grid_s", "expected this field, found none: add it"),
        (lambda data: data.update(stepps=1), "stepps", "expected no such field, found 1: check"),
        (
            lambda data: data.update(steps="12"),
            "steps",
            "expected a whole number, found '12'",
        ),
        (
            lambda data: data.update(steps=True),
            "steps",
            "expected a whole number, found true",
        ),
        (lambda data: data.update(grid_s=float("nan")), "grid_s", "found NaN"),
        (lambda data: data.update(window_s=float("inf")), "window_s", "found Infinity"),
        (lambda data: data.update(components=[]), "components", "at least 1 item"),
        (lambda data: data.update(name="\x00"), "name", "expected text without control characters"),
        (
            lambda data: data.update(equipment_id="a b"),
            "equipment_id",
            "expected an id of 1 to 64 letters, digits",
        ),
        (
            lambda data: data.update(equipment_id="x\n"),
            "equipment_id",
            "expected an id of 1 to 64 letters, digits",
        ),
        (
            lambda data: sensor(data).update(range=[0.0, float("inf")]),
            "components[0].sensors[0].range[1]",
            "expected a finite number, found Infinity",
        ),
        (
            lambda data: sensor(data).update(range=[0.0]),
            "components[0].sensors[0].range[1]",
            "expected this field, found none: add it",
        ),
        (
            lambda data: data["components"][0]["grades"][0].update(health=1.5),
            "components[0].grades[0].health",
            "expected a number of at most 1, found 1.5",
        ),
        (
            lambda data: data["connections"][1].update(evidence="backward"),
            "connections[1].evidence",
            "expected 'forward', 'both' or 'none', found 'backward'",
        ),
    ],
)
def test_type_error_is_one_finding_at_its_place(change: Change, place: str, message: str) -> None:
    ((found_place, found_message),) = findings(change)
    assert found_place == place
    assert message in found_message


@pytest.mark.parametrize(
    ("data", "found"), [(None, "null"), ([1], r"\[1\]"), ("text", "'text'"), (3.0, "3.0")]
)
def test_document_that_is_no_mapping_is_refused(data: object, found: str) -> None:
    with pytest.raises(
        TopologyError, match=f"expected an object with equipment_id, .*, found {found}: see /docs"
    ):
        parse_equipment(data, "x")


def test_message_names_the_source_and_every_finding() -> None:
    data = press()
    data["steps"] = 7
    data["components"][1]["type"] = "valv"
    with pytest.raises(TopologyError) as caught:
        read_equipment(yaml.safe_dump(data), "press.yaml")
    assert caught.value.message.startswith(
        "press.yaml has 2 error(s): components[1].type: unknown component type 'valv'"
    )
    assert caught.value.message.endswith(
        "; steps: expected a divisor of the window's 60 bins, found 7: change steps or window_s"
    )


def test_equipment_made_in_python_is_checked() -> None:
    sound = parse_equipment(press(), "x")
    check_equipment(sound, "x")
    with pytest.raises(TopologyError, match="steps"):
        check_equipment(sound.model_copy(update={"steps": 7}), "x")


def test_yaml_and_json_give_equal_equipment_of_the_same_revision() -> None:
    data = press()
    from_yaml = read_equipment(yaml.safe_dump(data), "press.yaml")
    from_json = read_equipment(json.dumps(data, indent="\t").encode(), "press.json")
    assert from_yaml == from_json
    assert from_yaml.revision == from_json.revision


def test_revision_of_a_topology_never_changes() -> None:
    assert (
        parse_equipment(press(), "x").revision
        == "ed96b95b23bd1a0eedbe1e3570e9081cc63ceec4f5a96709a7642cfef2c80d34"
    )


def test_explicit_defaults_and_integers_do_not_change_the_revision() -> None:
    data = press()
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
        lambda data: sensor(data).update(range=[0.0, 251.0]),
        lambda data: data["connections"][0].update(evidence="none"),
        lambda data: data["components"].reverse(),
    ],
)
def test_every_change_of_content_changes_the_revision(change: Change) -> None:
    data = press()
    change(data)
    assert parse_equipment(data, "x").revision != parse_equipment(press(), "x").revision


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
def test_valid_machines_survive_yaml_and_json(data: dict[str, Any]) -> None:
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


def test_message_lists_the_first_five_findings() -> None:
    findings = tuple((f"components[{n}]", "unknown") for n in range(7))
    message = TopologyError("body", findings).message
    assert message.startswith("body has 7 error(s): components[0]: unknown; ")
    assert message.endswith("components[4]: unknown; and 2 more")


def test_document_with_too_many_type_errors_is_one_finding() -> None:
    data = press() | {f"extra{n}": n for n in range(5_000)}
    with pytest.raises(TopologyError) as caught:
        parse_equipment(data, "x")
    assert caught.value.findings == (
        (
            "",
            "expected a topology, found 5000 errors: correct its layout, see the Equipment schema",
        ),
    )


@pytest.mark.parametrize("value", [10**5_000, "\ud800"], ids=["huge", "surrogate"])
def test_value_without_a_json_form_is_a_topology_error(value: object) -> None:
    with pytest.raises(TopologyError):
        parse_equipment(press() | {"name": value}, "x")


def test_cyclic_value_is_a_topology_error() -> None:
    data = press()
    data["connections"].append(data["connections"])
    with pytest.raises(TopologyError, match="expected text, numbers, lists and objects"):
        parse_equipment(data, "x")
