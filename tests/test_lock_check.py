"""The check of the lock names what does not resolve, and is not fooled by a lack of network."""

import re
import subprocess
import sys

import pytest

from tests.lock_check import (
    INSTALLS,
    NOT_CHECKED,
    UNRESOLVED,
    Case,
    Result,
    cases,
    compared,
    failed,
    index_options,
    judged,
    pip_settings,
)
from tests.system import PROJECT_DIR

_NO_WHEEL = """
  × No solution found when resolving dependencies:
  ╰─▶ Because only torch==2.13.0+cpu is available and torch==2.13.0+cpu has no wheels with a
      matching platform tag, we can conclude that torch cannot be used.
"""
_NO_NETWORK = """
error: Failed to fetch: `https://index.example/simple/ray/`
  Caused by: dns error: failed to lookup address
"""
CASE = Case("base", "3.13", "aarch64-manylinux_2_28")


def test_every_interpreter_processor_and_install_is_a_case():
    made = cases()
    assert len(made) == len(set(made)) == len(INSTALLS) * 3 * 2
    assert {each.version for each in made} == {"3.11", "3.12", "3.13"}
    assert {each.platform.partition("-")[0] for each in made} == {"x86_64", "aarch64"}


def test_packages_that_the_lock_lacks_are_listed():
    lock = "# a comment\nPyYAML==6.0.3\ntorch==2.13.0\n"
    found = compared("pyyaml==6.0.3\ntorch==2.13.0+cpu\ntriton==3.7.1 ; sys_platform\n", lock)
    assert found == Result(2, ("triton==3.7.1",))
    status, text = judged({CASE: found})
    assert status == 0
    assert "2 pinned packages, wheels only, not pinned: triton==3.7.1" in text


@pytest.mark.parametrize(
    ("message", "status", "word"),
    [(_NO_WHEEL, UNRESOLVED, "NOT RESOLVED"), (_NO_NETWORK, NOT_CHECKED, "NOT CHECKED")],
)
def test_failure_is_named_by_its_kind(message: str, status: int, word: str):
    found, text = judged({CASE: failed(message), CASE._replace(version="3.12"): Result(90)})
    assert found == status
    assert f"CPython 3.13, aarch64-manylinux_2_28, base: {word}: " in text
    assert "CPython 3.12, aarch64-manylinux_2_28, base: 90 pinned packages" in text


def test_lack_of_network_does_not_hide_a_missing_wheel():
    results = {CASE: failed(_NO_NETWORK), CASE._replace(version="3.11"): failed(_NO_WHEEL)}
    assert judged(results)[0] == UNRESOLVED


def test_indices_are_those_of_pip():
    settings = {
        "index-url": "https://index.example/simple",
        "extra-index-url": "file:///a/simple file:///b/simple",
        "find-links": "/wheels",
        "timeout": "180",
    }
    assert list(index_options(settings)) == [
        "--default-index", "https://index.example/simple", "--index", "file:///a/simple",
        "--index", "file:///b/simple", "--find-links", "/wheels",
    ]  # fmt: skip
    assert list(index_options({})) == []


def test_variables_win_over_files_of_pip(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/of/the/variable")
    assert pip_settings()["find-links"] == "/of/the/variable"


def test_a_lock_that_contradicts_the_project_does_not_resolve(tmp_path):
    """Run uv itself, without an index."""
    wrong = tmp_path / "constraints.txt"
    wrong.write_text("ray==1.0.0\n")
    done = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "--offline",
         "--no-config", "--no-index", "--constraint", str(wrong)],
        cwd=PROJECT_DIR, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    result = failed(done.stderr)
    assert done.returncode != 0
    assert result.failure != ""
    assert result.checked


def test_make_has_the_check():
    makefile = (PROJECT_DIR / "Makefile").read_text()
    assert re.search(r"^lockcheck:.*\n\t.*tests\.lock_check$", makefile, re.MULTILINE)
