import re
from datetime import timedelta
from pathlib import Path

import pytest

from app.checkpoint.manifest import WEIGHTS, read_manifest
from app.core.errors import CheckpointError, InputError, SettingsError, UnknownVersion
from app.core.settings import PROJECT_DIR
from app.fleet.plan import (
    Plan,
    RunRequest,
    check_options,
    like_pattern,
    make_plan,
    read_ids,
    read_released,
    run_name,
)
from app.store.fleet import Selection
from tests.app.fleet.conftest import AT, NOW, write_config


def test_shipped_configuration_is_read():
    released = read_released(PROJECT_DIR / "serve_config.yaml")

    assert set(released.directories) == {release.version for release in released.traffic.releases}
    assert all(
        (PROJECT_DIR / directory / WEIGHTS).is_file() for directory in released.directories.values()
    )


def test_plan_has_the_checkpoints_that_may_answer(config: Path, checkpoints: dict[str, Path]):
    write_config(config, checkpoints, {"1": 100, "2": 0})

    plan = make_plan(RunRequest(), AT, config, NOW)

    assert list(plan.checkpoints) == ["1"]
    assert plan.checkpoints["1"].weights_sha256 == read_manifest(checkpoints["1"]).sha256[WEIGHTS]
    assert plan.at == AT
    assert not plan.forced
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_version_and_checkpoint_can_be_forced(config: Path, checkpoints: dict[str, Path]):
    write_config(config, checkpoints, {"1": 100, "2": 0})

    version = make_plan(RunRequest(model_version="2"), None, config, NOW)
    checkpoint = make_plan(RunRequest(checkpoint=str(checkpoints["2"])), None, config, NOW)

    for plan in (version, checkpoint):
        assert [(release.version, release.weight) for release in plan.traffic.releases] == [
            ("2", 100.0)
        ]
        assert plan.forced
        assert plan.at == NOW


def test_wrong_options_are_named(config: Path, tmp_path: Path):
    with pytest.raises(UnknownVersion, match=r"found '9'.*has 1, 2"):
        make_plan(RunRequest(model_version="9"), AT, config, NOW)
    with pytest.raises(InputError, match="found both"):
        make_plan(RunRequest(model_version="1", checkpoint="x"), AT, config, NOW)
    with pytest.raises(InputError, match="leave --at out"):
        make_plan(RunRequest(), NOW + timedelta(minutes=1), config, NOW)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
        make_plan(RunRequest(checkpoint=str(tmp_path)), AT, config, NOW)


@pytest.mark.parametrize(
    "text", ["", "[", "applications: []", "applications: [{name: x}]", "applications: 1"]
)
def test_configuration_without_releases_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "other.yaml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=re.escape(str(path))):
        read_released(path)


def test_configuration_with_impossible_weights_is_refused(
    config: Path, checkpoints: dict[str, Path]
):
    write_config(config, checkpoints, {"1": 50, "2": 60})

    with pytest.raises(SettingsError, match="sum to 100"):
        read_released(config)


def test_missing_configuration_is_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        read_released(tmp_path / "nowhere.yaml")


def test_run_goes_on_only_with_what_it_began_with(plan: Plan):
    check_options("r", plan, RunRequest(), None)
    check_options("r", plan, RunRequest(), AT)
    with pytest.raises(InputError, match=r"expected --at as run 'r' began with"):
        check_options("r", plan, RunRequest(), AT + timedelta(seconds=1))
    with pytest.raises(InputError, match=r"expected --model-version as .* \(None\), found 2"):
        check_options("r", plan, RunRequest(model_version="2"), None)


def test_name_follows_from_time_and_options():
    assert run_name(None, RunRequest(), AT) == run_name(None, RunRequest(), AT)
    assert run_name(None, RunRequest(), AT).startswith("fleet-20250101T000117Z-")
    assert run_name(None, RunRequest(), AT) != run_name(None, RunRequest(design="x"), AT)
    assert run_name("nightly.1", RunRequest(), AT) == "nightly.1"
    for wrong in ("", "a/b", "-x", "x" * 65, "a b"):
        with pytest.raises(InputError, match="as --run"):
            run_name(wrong, RunRequest(), AT)


def test_glob_becomes_a_pattern_of_like(plan: Plan):
    assert like_pattern("rig_*-?") == r"rig\_%-_"
    with pytest.raises(InputError, match="which is neither"):
        like_pattern("nowhere/ids.txt")
    globbed = plan.model_copy(update={"request": RunRequest(equipment="a*", design="d")})
    assert globbed.selection == Selection("a%", "d")


def test_file_of_ids_is_read_without_comments_and_repeats(tmp_path: Path):
    path = tmp_path / "ids.txt"
    path.write_text("# press shop\nb\n\n a \nb\n")

    ids, sha256 = read_ids(path)

    assert ids == ("b", "a")
    assert len(sha256) == 64
    path.write_text("# none\n")
    with pytest.raises(InputError, match="at least one"):
        read_ids(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="text file"):
        read_ids(path)


def test_plan_of_an_earlier_version_is_read(plan: Plan):
    stored = plan.model_dump_json().replace('"request":', '"asked":')
    assert Plan.model_validate_json(stored) == plan
