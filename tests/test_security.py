"""The whole system against others on its machine and its network: sockets, tokens, secrets."""

import os
import re
import secrets
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.system import System

pytestmark = pytest.mark.system

LOOPBACK = ("127.", "::1", "::ffff:127.")
CONNECT = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print("nodes", len(ray.nodes()))
"""
CALL = """
import sys, grpc
from ray.core.generated import gcs_service_pb2 as messages, gcs_service_pb2_grpc as services
channel = grpc.insecure_channel(sys.argv[1])
stub = services.NodeInfoGcsServiceStub(channel)
metadata = [("authorization", f"Bearer {sys.argv[2]}")] if len(sys.argv) > 2 else []
answer = stub.GetAllNodeInfo(messages.GetAllNodeInfoRequest(), metadata=metadata, timeout=30)
print("nodes", len(answer.node_info_list))
"""


def gcs_address(system: System) -> str:
    """Return the address of the control service, which takes pickled functions over gRPC."""
    for process in system.processes():
        found = re.search(r"--gcs-address=(\S+)", " ".join(process.cmdline()))
        if found:
            return found[1]
    raise AssertionError("expected a raylet, found none")


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def token() -> str:
    return (Path.home() / ".ray" / "auth_token").read_text().strip()


def test_rpc_without_the_token_is_refused(system: System):
    """What reaches these ports runs code, since functions travel pickled: the token guards them."""
    address = gcs_address(system)
    allowed = run(CALL, address, token())
    assert allowed.stdout.startswith("nodes 1"), allowed.stderr[-2000:]
    for wrong in ((), (secrets.token_hex(32),)):
        refused = run(CALL, address, *wrong)
        assert refused.returncode != 0
        assert "UNAUTHENTICATED" in refused.stderr, refused.stderr[-2000:]


def test_driver_without_the_token_can_not_join(system: System):
    address = gcs_address(system)
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for environment in (wrong, {"RAY_AUTH_MODE": "disabled"}):
        refused = run(CONNECT, address, **environment)
        assert refused.returncode != 0
        assert "nodes" not in refused.stdout


@pytest.mark.parametrize(
    "path", ["/api/jobs/", "/api/serve/applications/", "/nodes?view=summary", "/api/v0/actors"]
)
def test_dashboard_without_the_token_is_refused(system: System, path: str):
    url = system.dashboard_url
    assert httpx.get(url + path).status_code in (401, 403)
    wrong = {"authorization": f"Bearer {secrets.token_hex(32)}"}
    assert httpx.get(url + path, headers=wrong).status_code in (401, 403)
    right = {"authorization": f"Bearer {token()}"}
    assert httpx.get(url + path, headers=right, timeout=60).status_code == 200


def test_job_without_the_token_is_refused(system: System):
    order = {"entrypoint": "id"}
    answer = httpx.post(f"{system.dashboard_url}/api/jobs/", json=order)
    assert answer.status_code in (401, 403)


def haproxy(system: System) -> psutil.Process:
    return next(each for each in system.processes() if each.name() == "haproxy")


def test_haproxy_of_the_system_is_closed_to_others(system: System):
    process = haproxy(system)
    arguments = process.cmdline()
    config = Path(arguments[arguments.index("-f") + 1])
    found = re.search(r"stats socket (\S+)", config.read_text())
    assert found is not None
    assert stat.S_IMODE(Path(found[1]).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(found[1]).parent.stat().st_mode) == 0o700
    listening = {
        each.laddr.ip
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_neither_the_proxy_nor_the_database_nor_the_dashboard_listens_on_other_interfaces(
    system: System,
):
    """Ray's gRPC and the replicas' HTTP do: the token and the API keys guard them."""
    open_to_others: dict[str, set[int]] = {}
    for process in system.processes():
        for each in process.net_connections("inet"):
            if each.status == psutil.CONN_LISTEN and not each.laddr.ip.startswith(LOOPBACK):
                open_to_others.setdefault(process.name(), set()).add(each.laddr.port)
    assert not {"haproxy", "postgres"} & open_to_others.keys()
    dashboard = int(system.dashboard_url.rsplit(":", 1)[1])
    assert dashboard not in set().union(*open_to_others.values())


def test_secrets_are_in_no_log_process_list_or_error(system: System):
    """Keys that are right, wrong, created and rotated, in headers and in a body."""
    with system.client() as client:
        created = client.post("/v1/keys", json={"name": "grep", "scopes": ["read"]}).json()
        rotated = client.post("/v1/keys/grep/rotate").json()
        wrong = f"hd_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
        answers = [
            client.get("/v1/equipment", headers={"authorization": f"Bearer {wrong}"}),
            client.get("/v1/equipment", headers={"x-api-key": created["secret"]}),
            client.post("/v1/diagnoses", json={"equipment_id": wrong, "x": 1}),
            client.get("/v1/keys"),
            client.get("/v1/audit"),
        ]
        for answer in answers[:2]:
            assert wrong not in answer.text
            assert created["secret"] not in answer.text
        kept = [system.key, created["secret"], rotated["secret"], wrong]
        kept.append(token())
        for answer in answers[3:]:
            assert not [secret for secret in kept if secret in answer.text]
        client.delete("/v1/keys/grep")

    lists = ["\0".join(process.cmdline()) for process in psutil.process_iter() if _alive(process)]
    assert not [secret for secret in kept for text in lists if secret in text]

    files = [system.log_path, *_logs(system)]
    assert len(files) > 10
    leaks = [
        (str(path), kept.index(secret))
        for path in files
        for secret in kept
        if secret.encode() in path.read_bytes()
    ]
    assert leaks == []


def _alive(process: psutil.Process) -> bool:
    try:
        process.cmdline()
    except psutil.Error:
        return False
    return True


def _logs(system: System) -> list[Path]:
    """Return the log files of the Ray session and of the local database."""
    for process in system.processes():
        found = re.search(r"--session-dir=(\S+)|--session_dir=(\S+)", " ".join(process.cmdline()))
        if found:
            session = Path(found[1] or found[2])
            logs = [path for path in (session / "logs").rglob("*") if path.is_file()]
            return logs + list(system.var_dir.rglob("*.log"))
    raise AssertionError("expected the directory of the Ray session, found none")
