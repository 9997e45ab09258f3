"""`hydraulic` against the running system, and the Python examples of the documents."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.bench.readings_file import topology, write
from tests.system import PROJECT_DIR, System

pytestmark = pytest.mark.system
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(system: System) -> Run:
    """The installed command, for the running system."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = system.environment | {"RAY_DASHBOARD_ADDRESS": system.dashboard_url}
        command = [str(Path(sys.executable).with_name("hydraulic")), *arguments]
        return subprocess.run(
            command,
            cwd=PROJECT_DIR,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,  # the first simulation compiles its solver
        )

    return run


def test_doctor_finds_nothing_broken(run: Run):
    done = run("doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {each["check"]: each["message"] for each in json.loads(done.stdout)}
    assert "is ready" in found["ports"]
    assert {"schema", "clock", "key", "weights"} <= found.keys()


def test_rig_is_diagnosed_as_a_table_and_as_json(run: Run):
    done = run("diagnose", "hydraulic-rig", "--explain")
    assert done.returncode == 0, done.stderr
    assert "accumulator" in done.stdout
    assert "pressure line" in done.stdout
    answer = json.loads(run("diagnose", "hydraulic-rig", "--json").stdout)
    assert answer["equipment_id"] == "hydraulic-rig"


def test_machine_is_registered_imported_twice_and_listed(run: Run, system: System, tmp_path: Path):
    machine, readings = tmp_path / "press.yaml", tmp_path / "readings.csv"
    machine.write_text(yaml.safe_dump(topology("press-cli")))
    write(readings, 1_600, equipment_id="press-cli")
    assert run("equipment", "register", str(machine)).returncode == 0
    listed = json.loads(run("equipment", "list", "--json").stdout)
    assert "press-cli" in [each["equipment_id"] for each in listed]
    counts = json.loads(run("readings", "import", str(readings), "--json").stdout)
    assert (counts["accepted"], counts["rejected"]) == (1_600, 0)
    posted = run("readings", "import", str(readings), "--url", system.url, "--json")
    assert json.loads(posted.stdout)["duplicates"] == 1_600, posted.stderr


def test_tutorial_of_four_machines_finds_the_fault_that_each_was_given(run: Run):
    text = (PROJECT_DIR / "docs/tutorials/four-machines.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    commands = [line.split()[1:] for line in blocks.splitlines() if line.startswith("hydraulic ")]
    assert len(commands) == 8
    for generate, diagnose in zip(commands[::2], commands[1::2], strict=True):
        done = run(*generate)
        assert done.returncode == 0, done.stderr
        component = generate[generate.index("--fault") + 1].split(".")[0]
        shown = run(*diagnose)
        assert shown.returncode == 0, shown.stderr
        answer = json.loads(run(*diagnose, "--json").stdout)
        assert (answer["status"], answer["verdict"]) == ("ok", "machine")
        assert answer["baseline"] is not None
        assert answer["root_cause"][0]["component_id"] == component
        health = {each["component_id"]: each["health"] for each in answer["components"]}
        assert min(health, key=lambda name: health[name]) == component


def test_keys_releases_and_help_answer(run: Run):
    keys = json.loads(run("keys", "list", "--json").stdout)
    assert "admin" in keys[0]["scopes"]
    status = run("release", "status")
    assert status.returncode == 0, status.stderr
    assert "1" in status.stdout
    assert run("train", "prune", "--dry-run").returncode == 0
    assert run("demo", "--help").returncode == 0
    assert run("fleet", "score", "--at", "never").returncode == 2


def test_python_examples_of_the_documents_run(system: System):
    page = (PROJECT_DIR / "docs" / "how-to" / "use-from-python.md").read_text(encoding="utf-8")
    program = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    program = program.replace("http://127.0.0.1:8000", system.url)
    program = program.replace("var/api_key", str(system.var_dir / "api_key"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "accumulator" in done.stdout
