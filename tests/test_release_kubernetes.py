"""Releases through a RayService on the running system under a constant load: no request may fail.

Simulated: the API server (`tests/kubernetes_api.py`) and KubeRay's operator (`tests/kuberay.py`).
Real: the commands in processes of their own, the system, its history, and the load. A restart of
the head is here what one machine allows: Serve's controller is killed, which runs on the head,
the operator finds the head not ready meanwhile, has forgotten what it sent, and gives Serve the
resource's text once Serve answers again. Neither the dashboard nor Ray's GCS is restarted: without
an external Redis this machine's only node would end with its GCS.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.release.clients.serve_api import ray_token
from app.store.embedded.server import ensure_embedded, release_embedded
from tests.app.release.kubernetes.conftest import PLACE, RELEASER, RIGHTS, stored
from tests.constant_load import answers_of, sending, wait_for_answers
from tests.kuberay import TOKEN, Operator, operating
from tests.kubernetes_api import ApiServer, api_server, ray_service
from tests.system import PROJECT_DIR, System
from tests.waiting import wait_until

pytestmark = pytest.mark.system
RATE = 20.0
CONTROLLER = "ray::ServeController"
DESIGN = "hydraulic-rig"

Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def server(system: System) -> Iterator[ApiServer]:
    """The API server with a RayService of the shipped configuration."""
    port = system.config()["http_options"]["port"]
    text = (PROJECT_DIR / "serve_config.yaml").read_text().replace("port: 8000", f"port: {port}")
    with api_server() as started:
        started.allow(RELEASER, **RIGHTS)
        started.allow(TOKEN, rayservices="get", rayservices_status="update")
        started.create("rayservices", "plant", ray_service(text), "kubectl")
        yield started


@pytest.fixture
def operator(system: System, server: ApiServer) -> Iterator[Operator]:
    token = ray_token(os.environ, Path.home())
    with operating(Operator(server.url, PLACE, system.dashboard_url, token)) as running:
        yield running


@pytest.fixture
def release(system: System, server: ApiServer, tmp_path: Path) -> Iterator[Command]:
    """Start `hydraulic release`, configured as in a pod that is not the head's."""
    token = tmp_path / "token"
    token.write_text(RELEASER)
    postgres = (system.var_dir / "postgres").resolve()
    variables = {
        "HYDRAULIC_DSN": ensure_embedded(postgres),
        "HYDRAULIC_VAR_DIR": str(system.var_dir),
        "HYDRAULIC_RAYSERVICE": PLACE,
        "HYDRAULIC_KUBERNETES_URL": server.url,
        "HYDRAULIC_KUBERNETES_TOKEN_FILE": str(token),
        "RAY_DASHBOARD_ADDRESS": system.dashboard_url,
        "PYTHONPATH": str(PROJECT_DIR),
    }

    url = ("--url", system.url)

    def start(command: str, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", "release", command, *arguments, *url],
            cwd=PROJECT_DIR,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    yield start
    release_embedded(postgres)


def done(process: "subprocess.Popen[str]") -> str:
    """Wait for the end of a command and return its output."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def is_controller(process: psutil.Process) -> bool:
    """Return whether a process is Serve's controller; one that has just ended is not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return "".join(process.cmdline()).startswith(CONTROLLER)
    return False


def restart_head(system: System, operator: Operator) -> None:
    """Kill Serve's controller; the operator sends the text again, see above."""
    operator.head_is_ready = False
    (controller,) = [each for each in system.processes() if is_controller(each)]
    controller.kill()
    controller.wait(30)
    operator.forget()
    sent = len(operator.sent)
    time.sleep(2)  # no condition to wait for: the head takes some time, and traffic goes on
    operator.head_is_ready = True
    wait_until(lambda: len(operator.sent) > sent, "the text sent again", 180)


def test_promotion_by_steps_goes_through_two_restarts_of_the_head(
    system: System, server: ApiServer, operator: Operator, release: Command, tmp_path: Path
):
    assert "applied: 1=100 2=0" in done(release("apply"))
    answers = tmp_path / "answers.jsonl"
    with sending(system.url, system.key, RATE, answers), system.client() as client:

        def shares() -> dict[str, Any]:
            found: dict[str, Any] = client.get("/v1/traffic").json()["designs"]
            return found.get(DESIGN, {})

        began = time.time()
        steps = ["--steps", "20,60,100", "--hold", "8s", "--guard", "errors<5%"]
        promoting = release("promote", "2", *steps, "--reason", "two restarts")
        for weight in (20, 60):
            wait_until(lambda weight=weight: shares().get("2") == weight, f"weight {weight}", 180)
            restart_head(system, operator)
        out = done(promoting)
        assert "version 2 was promoted" in out
        assert shares() == {"2": 100}

        restart_head(system, operator)  # it is given the last step again
        assert shares() == {"2": 100}
        time.sleep(1)
        after = time.time()
        found = wait_for_answers(answers, after, 40)
        assert {item["version"] for item in found if item["sent"] > after} == {"2"}

        status = done(release("status"))
        assert "spec.serveConfigV2 is managed by hydraulic-release" in status
        assert "promote 2 by " in status
        assert ": two restarts" in status
        done(release("rollback"))
        assert shares() in ({}, {"1": 100})
    failed = [item for item in answers_of(answers) if item["status"] != 200 or item["fallback"]]
    assert failed == []
    report = {"requests": len(answers_of(answers)), "seconds": round(time.time() - began)}
    print("promotion with restarts of the head:", json.dumps(report))


def test_version_that_does_not_start_is_removed_from_the_resource(
    server: ApiServer, operator: Operator, release: Command, system: System, tmp_path: Path
):
    done(release("apply"))
    before = stored(server)
    answers = tmp_path / "answers.jsonl"
    with sending(system.url, system.key, RATE, answers):
        checkpoint = tmp_path / "5"
        checkpoint.mkdir()
        for each in (PROJECT_DIR / "app" / "weights" / "2").iterdir():
            (checkpoint / each.name).write_bytes(each.read_bytes())
        manifest = json.loads((checkpoint / "checkpoint.json").read_text()) | {"version": "5"}
        (checkpoint / "checkpoint.json").write_text(json.dumps(manifest))
        refused = release("deploy", "5", "--checkpoint", str(checkpoint), "--device", "cuda")
        out, _ = refused.communicate(timeout=300)
        assert (refused.returncode, "refused and removed again" in out) == (1, True), out
        assert "CUDA" in out
        assert stored(server) == before
        done(release("deploy", "5", "--checkpoint", str(checkpoint)))
        done(release("retire", "5"))
        assert stored(server) == before
    assert [item for item in answers_of(answers) if item["status"] != 200] == []
