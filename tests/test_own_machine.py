"""The tutorial of an own machine, from its YAML to a released version, command by command."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import made_press
from tests.docs.test_documents import shells
from tests.system import PROJECT_DIR, System

pytestmark = pytest.mark.system
TUTORIAL = PROJECT_DIR / "docs" / "tutorials" / "own-machine.md"
MOST_COMMANDS = 12
LIMIT_S = 600.0


def test_made_press_goes_from_yaml_to_an_answer_of_its_released_version(system: System):
    page, _, live = TUTORIAL.read_text(encoding="utf-8").partition("## Live readings")
    commands = list(filter(None, shells(page)))
    assert len(commands) <= MOST_COMMANDS
    outputs: list[str] = []
    version = "3"
    start = time.monotonic()
    try:
        for command in commands:
            text = re.sub(r"(?<=release deploy )3", version, command)
            outputs.append(run(system, text))
            if registered := re.search(r"registered as version (\d+)", outputs[-1]):
                version = registered[1]
        assert time.monotonic() - start < LIMIT_S
        table, answer = outputs[-2:]
        assert f"version {version}" in table
        diagnosis = json.loads(answer)
        assert (diagnosis["status"], diagnosis["model_version"]) == ("ok", version)
        assert diagnosis["fallback"] is False
        found = {item["component_id"]: item["health"] for item in diagnosis["components"]}
        for component_id in made_press.PERIODS:
            label = made_press.health(component_id)[-1]
            assert found[component_id] == pytest.approx(label, abs=0.2), component_id
        (live_command,) = shells(live)
        counts = json.loads(run(system, live_command))
        assert counts["duplicates"] == made_press.READINGS_S * len(made_press.readings())
    finally:
        run(system, f"hydraulic release retire {version}", check=False)


def run(system: System, command: str, *, check: bool = True) -> str:
    """Run a command of the page where the system's `var` is, and return its output."""
    bin_dir = Path(sys.executable).parent
    environment = system.environment | {
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT_DIR),
        "RAY_DASHBOARD_ADDRESS": system.dashboard_url,
    }
    done = subprocess.run(
        ["bash", "-c", command.replace("http://127.0.0.1:8000", system.url)],
        cwd=system.var_dir.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
