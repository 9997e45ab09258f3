"""The command line: messages instead of traces, and exit statuses for scripts."""

from pathlib import Path

import pytest

from app.release.source import new_aliases
from tests.command_line import Done, hydraulic


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run(*arguments: str) -> Done:
    return hydraulic("release", *arguments)


def test_dry_run_needs_no_running_service_and_prints_the_difference(path: Path):
    status, out, err = run("split", "1=90", "2=10", "--dry-run", "--config", str(path))
    assert (status, err) == (0, "")
    assert "+                weight: 90" in out.splitlines()
    status, out, _ = run("promote", "2", "--steps", "25,100", "--dry-run", "--config", str(path))
    assert status == 0
    assert "+                weight: 25" in out.splitlines()
    guarded = ("--guard", "disagreement<5%", "--hold", "1s", "--dry-run", "--config", str(path))
    assert (
        '+            shadows: ["2", "1"]'
        in run("promote", "2", "--steps", "25", *guarded)[1].splitlines()
    )
    status, out, _ = run("shadow", "2", "--dry-run", "--config", str(path))
    assert status == 0
    assert '+            shadows: ["2"]' in out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["split", "1=90"], "sum to 100, found 90"),
        (["split", "1=x"], "VERSION=WEIGHT"),
        (["promote", "2", "--guard", "errors<1%"], "say how long each step holds"),
        (["promote", "2", "--guard", "colour<1%", "--hold", "1s"], "found 'colour'"),
        (["promote", "2", "--steps", "10,5"], "weights that rise"),
        (["promote", "9"], "expected a released version, found '9'"),
        (["deploy", "9"], "register it with"),
        (["deploy", "3", "--checkpoint", "app/weights/1"], "expected version 3"),
        (["retire", "1"], "without weight, found 100"),
        (["split", "9=100"], "found '9': the file has 1, 2"),
        (["shadow", "9"], "expected a released version, found '9'"),
    ],
)
def test_refused_command_is_an_error_of_one_line(path: Path, arguments: list[str], message: str):
    status, _, err = run(*arguments, "--dry-run", "--config", str(path))
    assert status == 1
    assert message in err
    assert err.startswith("error: expected")
    assert err.count("\n") == 1


def test_service_that_does_not_run_is_an_error(path: Path):
    status, _, err = run("split", "1=90", "2=10", "--config", str(path))
    assert (status, "expected an API key in" in err) == (1, True)


def test_configuration_is_printed_as_it_is(path: Path):
    status, out, _ = run("show", "--config", str(path))
    assert (status, out) == (0, path.read_text())


def test_empty_registry_is_reported():
    assert run("list") == (0, "nothing is registered yet\n", "")


def test_wrong_use_is_status_2():
    status, _, err = run("explode")
    assert (status, "No such command 'explode'" in err) == (2, True)


def test_check_prints_the_checkpoint_and_refuses_a_missing_version():
    assert run("check", "2") == (0, '["app/weights/2", ["hydraulic-rig"]]\n', "")
    status, out, err = run("check", "77")
    assert (status, out, "register it with" in err) == (1, "", True)


def test_alias_without_a_version_is_refused_with_an_example():
    status, out, err = run("alias", "champion=1", "challenger")
    assert (
        status,
        out,
        "expected ALIAS=VERSION such as champion=3, found 'challenger'" in err,
    ) == (1, "", True)


def test_replay_of_what_is_not_stored_is_an_error(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HYDRAULIC_DSN", database_dsn)
    status, out, err = run("replay", "0" * 32)
    assert (status, out, "expected the id of a stored diagnosis" in err) == (1, "", True)


def test_aliases_change_with_the_largest_weight_and_with_a_deployment():
    assert new_aliases({"1": 100, "2": 0}, {"1": 40, "2": 60}, None) == {"champion": "2"}
    assert new_aliases({"1": 100, "2": 0}, {"1": 100, "2": 0, "3": 0}, "3") == {"challenger": "3"}
    assert new_aliases({"1": 90, "2": 10}, {"1": 80, "2": 20}, None) == {}


def test_release_on_kubernetes_needs_the_database_of_its_history(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRAULIC_RAYSERVICE", "plant/diagnostics")
    monkeypatch.setenv("HYDRAULIC_API_KEY", "k" * 32)
    monkeypatch.delenv("HYDRAULIC_DSN", raising=False)
    status, _, err = run("status")
    assert status == 1
    assert "expected HYDRAULIC_DSN with HYDRAULIC_RAYSERVICE" in err
