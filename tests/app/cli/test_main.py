"""`hydraulic` lists its commands without importing them, and reports errors in one line."""

import os
import subprocess
import sys

import pytest

from app.cli import main
from app.cli.main import COMMANDS
from app.core.errors import ReadingError
from tests.command_line import hydraulic
from tests.system import PROJECT_DIR

HEAVY = ("ray", "torch", "pandas", "pyarrow", "numpy", "asyncpg", "fastapi", "onnxruntime")


def test_help_and_completion_import_no_large_library():
    code = (
        "import sys\nfrom app.cli.main import main\nstatus = main(['--help'])\n"
        f"print(status, [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_DIR, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"
    for command in COMMANDS:
        assert command in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str):
    status, out, _ = hydraulic(command, "--help")
    assert status == 0
    assert "Usage: hydraulic" in out


def test_unknown_command_is_wrong_use():
    status, out, err = hydraulic("explode")
    assert (status, out) == (2, "")
    assert "No such command 'explode'" in err


def test_missing_extra_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    def import_module(name: str) -> None:
        raise ModuleNotFoundError(name="torch.nn")

    monkeypatch.setattr(main, "import_module", import_module)
    status, _, err = hydraulic("train", "start")
    assert status == 1
    assert "expected the package torch, which `hydraulic train` needs, found none" in err
    assert "--editable '.[train]'" in err


def test_expected_error_is_one_line_and_interruption_has_its_status(
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*_: object) -> None:
        raise ReadingError("expected readings, found none: send some")

    monkeypatch.setattr("app.release.commands.list_versions", fail)
    assert hydraulic("release", "list") == (
        1,
        "",
        "error: expected readings, found none: send some\n",
    )

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.release.commands.list_versions", interrupt)
    assert hydraulic("release", "list") == (130, "", "interrupted\n")


def test_version_is_printed():
    assert hydraulic("--version").out.strip().count(".") == 2


def test_shell_completes_commands_and_options():
    def completed(*words: str) -> list[str]:
        environment = os.environ | {
            "_HYDRAULIC_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["hydraulic", *words]),
            "COMP_CWORD": str(len(words)),
        }
        done = subprocess.run(
            [sys.executable, "-m", "app.cli.main"],
            capture_output=True,
            text=True,
            cwd=PROJECT_DIR,
            env=environment,
            check=True,
        )
        return done.stdout.split()

    assert completed("re") == ["readings", "release"]
    assert completed("release", "promote", "--st") == ["--steps"]
