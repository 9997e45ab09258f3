"""Edits of `serve_config.yaml` change what was requested and nothing else."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import SettingsError
from app.release.config.edits import (
    Placement,
    with_shadows,
    with_version,
    with_weights,
    without_version,
)
from tests.system import PROJECT_DIR

TEXT = (PROJECT_DIR / "serve_config.yaml").read_text()
DESIGNS = yaml.safe_load(TEXT)["applications"][0]["deployments"][0]["user_config"]["traffic"][
    "releases"
][0]["designs"]
FILES = PROJECT_DIR / "tests" / "app" / "release" / "files"
THREE = Placement("3", "registry:3")


def changed_lines(before: str, after: str) -> list[tuple[str, str]]:
    pairs = zip(before.splitlines(), after.splitlines(), strict=True)
    return [(old.strip(), new.strip()) for old, new in pairs if old != new]


def releases(text: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = yaml.safe_load(text)["applications"][0]["deployments"][0][
        "user_config"
    ]["traffic"]["releases"]
    return found


def test_weights_change_two_lines_and_nothing_else():
    after = with_weights(TEXT, {"1": 87.5, "2": 12.5})
    assert changed_lines(TEXT, after) == [
        ("weight: 100", "weight: 87.5"),
        ("weight: 0", "weight: 12.5"),
    ]


@pytest.mark.parametrize("name", ["before.yaml", "after.yaml"])
def test_edit_without_a_change_keeps_every_character(name: str):
    for text in (TEXT, (FILES / name).read_text()):
        weights = {str(item["version"]): float(str(item["weight"])) for item in releases(text)}
        assert with_weights(text, weights) == text


def test_value_with_an_anchor_in_a_removed_application_moves_to_its_alias():
    text = TEXT.replace("num_gpus: 0\n", "num_gpus: 0\n        logging_config: *log\n")
    text = text.replace("*log", "&log {log_level: INFO}", 1)
    after = without_version(with_weights(text, {"2": 100}), "1")
    assert after.count("{log_level: INFO}") == 1
    assert "*log" not in after


def test_comments_behind_an_alias_and_its_anchor_stay_where_they_are():
    alias = "        autoscaling_config: *queue_depth\n"
    text = TEXT.replace("delay_s: 300\n", "delay_s: 300\n        # about the queue\n")
    model = text[text.index("  - name: model-2") : text.index("\n  # The demonstration")]
    text = text.replace(model, model.replace(alias, "") + alias)
    after = with_version(text, THREE, "1")
    assert "delay_s: 300\n        # about the queue\n" in after
    assert "*queue_depth\n\n  - name: model-3\n" in after
    assert "0\n\n  # The demonstration" in after
    assert without_version(after, "3") == text


def test_comment_that_would_be_lost_is_refused():
    text = TEXT.replace(
        "        - app/demo/rig/hydraulic_rig.yaml\n",
        "        - x: [1, 2]\n\n        # the second rig\n        - {y: 1}  # old\n",
    )
    with pytest.raises(SettingsError, match="comment that would be lost: '# the second rig'"):
        with_weights(text, {"2": 100})


def test_very_small_weight_is_written_as_a_number():
    after = with_weights(TEXT, {"1": 99.99999, "2": 0.00001})
    assert changed_lines(TEXT, after) == [
        ("weight: 100", "weight: 99.99999"),
        ("weight: 0", "weight: 0.00001"),
    ]
    assert [item["weight"] for item in releases(after)] == [99.99999, 1e-05]


def test_versions_that_are_not_named_get_no_weight():
    assert changed_lines(TEXT, with_weights(TEXT, {"2": 100})) == [
        ("weight: 100", "weight: 0"),
        ("weight: 0", "weight: 100"),
    ]


def test_unknown_version_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match="found '7': the file has 1, 2"):
        with_weights(TEXT, {"7": 100})


def test_added_version_is_a_copy_of_its_neighbour_with_weight_0():
    after = with_version(TEXT, THREE, "1")
    assert releases(after)[-1] == {"version": "3", "application": "model-3", "weight": 0}
    names = [item["name"] for item in yaml.safe_load(after)["applications"]]
    assert names == ["diagnostics", "model-1", "model-2", "model-3", "live-demo"]
    added = [line for line in after.splitlines() if line not in TEXT.splitlines()]
    assert [line.strip() for line in added] == [
        '- version: "3"',
        "application: model-3",
        "- name: model-3",
        "checkpoint: registry:3",
    ]
    assert after.count("*queue_depth") == TEXT.count("*queue_depth") + 1
    assert "0\n\n  - name: model-3\n" in after
    assert "0\n\n  # The demonstration" in after


def test_version_can_be_placed_on_another_device():
    after = with_version(TEXT, THREE._replace(device="cuda:1"), "1")
    assert yaml.safe_load(after)["applications"][3]["args"]["device"] == "cuda:1"


def test_removing_what_was_added_gives_the_same_text():
    assert without_version(with_version(TEXT, THREE, "2"), "3") == TEXT


def test_file_after_several_releases_differs_in_the_versions_alone():
    text = TEXT
    champion = "1"
    for number in range(3, 6):
        placement = Placement(str(number), f"registry:{number}", designs=DESIGNS)
        text = with_version(text, placement, champion)
        text = with_weights(text, {champion: 90, str(number): 10})
        text = with_weights(text, {str(number): 100})
        text = without_version(text, champion)
        champion = str(number)
    assert changed_lines(without_version(TEXT, "2"), without_version(text, "2")) == [
        ('- version: "1"', '- version: "5"'),
        ("application: model-1", "application: model-5"),
        ("- name: model-1", "- name: model-5"),
        ("checkpoint: app/weights/1", "checkpoint: registry:5"),
    ]
    comments = [line for line in TEXT.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in text.splitlines() if line.lstrip().startswith("#")] == comments


@pytest.mark.parametrize("version", ["1", "9"])
def test_version_with_weight_or_unknown_is_not_removed(version: str):
    with pytest.raises(SettingsError, match=f"version.*{version}"):
        without_version(TEXT, version)


def test_released_version_is_not_added_again():
    with pytest.raises(SettingsError, match="not released, found 2, which is"):
        with_version(TEXT, Placement("2", "x"), "1")


def test_layout_written_by_a_program_can_be_edited_too():
    text = yaml.safe_dump(yaml.safe_load(TEXT))
    assert without_version(with_version(text, THREE, "1"), "3") == text
    assert releases(with_weights(text, {"1": 50, "2": 50}))[0]["weight"] == 50


def test_comment_on_the_copied_application_is_not_copied():
    text = TEXT.replace(
        "      checkpoint: app/weights/1\n",
        "      # trained by Ann\n      checkpoint: app/weights/1\n",
    )
    after = with_version(text, THREE, "1")
    assert after.count("trained by Ann") == 1


def test_anchor_in_the_copied_application_is_not_defined_twice():
    text = TEXT.replace(
        "        ray_actor_options:\n          num_cpus: 0.3",
        "        ray_actor_options: &small\n          num_cpus: 0.3",
        1,
    )
    after = with_version(text, THREE, "1")
    assert after.count("&small") == 1


def test_list_in_brackets_is_edited_too():
    data = yaml.safe_load(TEXT)
    start, end = TEXT.index("              - version:"), TEXT.index("          thresholds:")
    text = (
        TEXT[:start].rstrip()
        + f" {yaml.safe_dump(releases(TEXT), default_flow_style=True).strip()}\n"
        + TEXT[end:]
    )
    assert yaml.safe_load(text) == data
    assert len(releases(with_version(text, THREE, "1"))) == 3
    assert releases(with_weights(text, {"1": 100})) == releases(TEXT)


@settings(deadline=None, max_examples=20)  # each example parses the file several times
@given(st.floats(0, 100, allow_nan=False))
def test_any_weight_is_read_as_it_was_written(weight: float):
    weight = round(weight, 4)
    after = with_weights(TEXT, {"1": weight, "2": round(100 - weight, 4)})
    assert [item["weight"] for item in releases(after)] == pytest.approx(
        [weight, 100 - weight], abs=1e-4
    )


def shadows(text: str) -> list[str] | None:
    traffic = yaml.safe_load(text)["applications"][0]["deployments"][0]["user_config"]["traffic"]
    found: list[str] | None = traffic.get("shadows")
    return found


def test_shadows_are_one_line_behind_the_releases_and_go_with_the_last():
    after = with_shadows(TEXT, ["2"])
    added = [line for line in after.splitlines() if line not in TEXT.splitlines()]
    assert added == ['            shadows: ["2"]']
    assert after.index("shadows:") < after.index("          thresholds:")
    both = with_shadows(after, ["1", "2"])
    assert '            shadows: ["2", "1"]\n' in both
    assert with_shadows(both, ["1"]).count('shadows: ["1"]') == 1
    assert with_shadows(both, []) == with_shadows(TEXT, []) == TEXT


@pytest.mark.parametrize(
    "written",
    [
        "            # watches\n            shadows: []\n",
        "            shadows: []  # watches\n",
    ],
)
def test_key_with_a_comment_stays(written: str):
    text = TEXT.replace("          thresholds:\n", written + "          thresholds:\n")
    after = with_shadows(text, ["2", "1"])
    assert after.split() == text.replace("[]", '["2", "1"]').split()
    assert with_shadows(after, []).split() == text.split()


def test_shadows_a_line_each_keep_their_comments():
    lines = [
        "            shadows:",
        '              - "1"  # the champion',
        "              # the challenger",
        '              - "2"',
    ]
    text = TEXT.replace("          thresholds:\n", "\n".join([*lines, "          thresholds:\n"]))
    one = with_shadows(text, ["2"])
    assert shadows(one) == ["2"]
    assert one == text.replace(lines[1] + "\n", "")
    assert with_shadows(one, ["2", "1"]) == one.replace(
        lines[3], lines[3] + '\n              - "1"'
    )
    assert with_shadows(text, []) == TEXT


def test_shadows_go_into_a_layout_written_by_a_program():
    text = yaml.safe_dump(yaml.safe_load(TEXT))
    after = with_shadows(text, ["2"])
    assert shadows(after) == ["2"]
    assert with_shadows(after, []) == text
    assert shadows(with_shadows(yaml.safe_dump(yaml.safe_load(after)), ["2", "1"])) == ["2", "1"]


def test_shadow_is_not_removed():
    with pytest.raises(SettingsError, match="not to be a shadow, found that it is: end that"):
        without_version(with_shadows(TEXT, ["2"]), "2")
    assert shadows(without_version(with_shadows(TEXT, ["1"]), "2")) == ["1"]


OWN = {"hydraulic-rig": {"1": 90.0, "2": 10.0}, "press": {"1": 100.0}}


def traffic(text: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(text)["applications"][0]["deployments"][0][
        "user_config"
    ]["traffic"]
    return found


@pytest.mark.parametrize("text", [TEXT, with_shadows(TEXT, ["2"])])
def test_weights_of_designs_are_added_changed_and_removed_and_nothing_else(text: str):
    after = with_weights(text, {"1": 100}, OWN)
    assert traffic(after)["designs"] == OWN
    assert {"releases", "designs"} <= traffic(after).keys()
    assert len(after.splitlines()) == len(text.splitlines()) + 3
    assert with_weights(after, {"1": 100}) == after
    changed = with_weights(after, {"1": 100}, OWN | {"press": {"2": 100.0}})
    assert changed_lines(after, changed) == [('press: {"1": 100}', 'press: {"2": 100}')]
    one = with_weights(changed, {"1": 100}, {"press": {"2": 100.0}})
    assert traffic(one)["designs"] == {"press": {"2": 100}}
    assert with_weights(one, {"1": 100}, {}) == text


def test_version_with_weight_for_a_design_is_not_removed():
    text = with_weights(TEXT, {"1": 100}, {"press": {"2": 100}})
    with pytest.raises(SettingsError, match="found that design press gives it some"):
        without_version(text, "2")


def test_designs_of_an_added_version_are_written_and_not_those_of_its_neighbour():
    after = with_version(TEXT, THREE._replace(designs=("press", "crane")), "1")
    assert releases(after)[-1]["designs"] == ["press", "crane"]
    assert "designs: [press, crane]\n" in after
    assert "designs" not in releases(with_version(TEXT, THREE, "1"))[-1]
