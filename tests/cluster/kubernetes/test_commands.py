"""Every container's command starts as written, with the variables and the rights of its manifest.

`container.py` says how far this is like a cluster. What runs here: Redis, the CronJob's two
containers on a small store and a stand-in for the API server, and the training's entrypoint, which
ends at once since the store has no labelled machine. The commands of Ray's pods are KubeRay's, and
`test_ray_pods.py` runs them. TimescaleDB has no command in its manifest: it is that of the image.
"""

import asyncio
import json
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app.demo.rig.equipment import rig_equipment
from app.store.store import Store
from tests.app.fleet.conftest import add_rig
from tests.certificates import Certificates
from tests.cluster.kubernetes.container import (
    Surroundings,
    named,
    network,
    require_namespaces,
    run,
    started,
    terminate,
)
from tests.cluster.kubernetes.manifests import OVERLAYS, Pod, of_kind, pods, render
from tests.cluster.monitoring.debian import installed
from tests.s3 import BUCKET, s3_server
from tests.waiting import wait_until

TOKEN = "token-of-the-account"
TESTED = {"redis", "releases", "score"}
"""Containers with a command that a test below starts."""
OF_THE_IMAGE = {"timescaledb"}
OF_KUBERAY = {"ray-head", "ray-worker"}


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    require_namespaces()


def pod_of(root: str, kind: str, name: str) -> Pod:
    (found,) = pods([of_kind(render(root), kind)[name]])
    return found


def test_every_container_with_a_command_has_a_test():
    for root in (*OVERLAYS, "training/cpu", "training/gpu"):
        for pod in pods(render(root)):
            for container in pod.containers:
                name = container["name"]
                has_command = bool({"command", "args"} & container.keys())
                assert has_command is (name in TESTED), name
                assert name in TESTED | OF_THE_IMAGE | OF_KUBERAY


_RELAY = """
import asyncio, contextlib, sys
async def copy(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
async def relay(reader, writer):
    far_reader, far_writer = await asyncio.open_unix_connection(sys.argv[2])
    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
async def main():
    server = await asyncio.start_server(relay, sys.argv[1], 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def relay(dsn: str, host: str = "127.0.0.1") -> Iterator[str]:
    """Yield the DSN of a TCP port that leads to the Unix socket of a DSN."""
    parts = urlsplit(dsn)
    query = {key: value[0] for key, value in parse_qs(parts.query).items()}
    target = f"{query['host']}/.s.PGSQL.{query['port']}"
    process = subprocess.Popen(
        [sys.executable, "-c", _RELAY, host, target], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        user = parts.netloc.rpartition("@")[0]
        try:
            yield f"postgresql://{user}@{host}:{port}{parts.path}"
        finally:
            process.kill()


@contextmanager
def api_server(certificates: Certificates, resource: dict[str, Any]) -> Iterator[int]:
    """Serve one RayService over TLS to those who have the token; yield the port."""
    path = "/apis/ray.io/v1/namespaces/hydraulic-diagnostics/rayservices/hydraulic-diagnostics"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.headers["authorization"] == f"Bearer {TOKEN}"
            status = 401 if not is_known else 200 if self.path == path else 404
            body = json.dumps(resource if status == 200 else {"code": status}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def account(directory: Path, certificates: Certificates) -> Path:
    """Write the files of a service account."""
    directory.mkdir()
    (directory / "token").write_text(TOKEN)
    shutil.copy(certificates.authority, directory / "ca.crt")
    directory.chmod(0o755)
    return directory


def spoken(address: tuple[str, int], *lines: str) -> str:
    """Return what Redis answers to lines of its protocol."""
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in lines).encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile().read()


def test_redis_asks_for_the_password_and_keeps_its_data(tmp_path: Path):
    installed("redis-server", "redis-server")
    pod = pod_of("overlays/cpu", "StatefulSet", "redis")
    container = named(pod.containers, "redis")
    with network(1) as made:
        address = (made.address(0), 6379)
        around = Surroundings(
            tmp_path, {("hydraulic-redis", "password"): "word"}, namespace=made.namespace(0)
        )
        for written, kept in (("1", "-1"), ("2", "1")):
            with started(pod, container, around) as process:
                wait_until(lambda: _answers(address), "Redis to answer")
                assert "NOAUTH" in spoken(address, "PING")
                log = spoken(address, "AUTH word", "GET kept", f"SET kept {written}")
                assert log.splitlines()[0] == "+OK"
                assert ("$-1" if kept == "-1" else kept) in log.splitlines()
                terminate(process)
                assert process.wait(30) == 0
        commands = " ".join(container["args"])
    assert "word" not in commands


def _answers(address: tuple[str, int]) -> bool:
    try:
        return bool(spoken(address, "PING"))
    except OSError:
        return False


async def test_fleet_is_scored_with_the_versions_of_the_rayservice(
    store: Store,
    database_dsn: str,
    certificates: Certificates,
    tmp_path: Path,
    without_ray: None,
):
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=2)
    for minute in range(12):  # the containers may start late on a busy machine
        await add_rig(store, rig_equipment("rig-1"), row=0, start=began + timedelta(minutes=minute))
    service = of_kind(render("overlays/dev"), "RayService")["hydraulic-diagnostics"]
    # the day's releases: version 2 has all traffic of the rig
    text = service["spec"]["serveConfigV2"]
    released = text.replace("weight: 100", "weight: 37").replace("weight: 0\n", "weight: 63\n")
    service["spec"]["serveConfigV2"] = released
    pod = pod_of("overlays/cpu", "CronJob", "fleet-scoring")
    assert "?host=" in database_dsn, "the relay leads to a Unix socket"
    with relay(database_dsn) as dsn, api_server(certificates, service) as port:
        around = Surroundings(
            tmp_path / "pod",
            {("hydraulic-database", "dsn"): dsn},
            {"metadata.labels['batch.kubernetes.io/job-name']": "fleet-scoring-29000001"},
            account=account(tmp_path / "account", certificates),
            variables={
                "KUBERNETES_SERVICE_HOST": "localhost",
                "KUBERNETES_SERVICE_PORT": str(port),
            },
        )
        around.directory.mkdir()
        status, text = await asyncio.to_thread(run, pod, named(pod.containers, "releases"), around)
        assert status == 0, text
        assert (around.directory / "volume-config/serve_config.yaml").read_text() == released
        status, text = await asyncio.to_thread(run, pod, named(pod.containers, "score"), around)
    assert status == 0, text
    assert "run fleet-scoring-29000001: 1 machines" in text
    assert "version 1 37 %, version 2 63 %" in text
    summary = json.loads(text.splitlines()[-1])
    assert (summary["machines"], summary["failed"]) == (1, 0)
    assert summary["versions"].keys() <= {"1", "2"}


def test_entrypoint_of_the_training_starts_and_reads_the_database(
    database_dsn: str, tmp_path: Path
):
    """It ends for want of machines: a training takes minutes, and other tests run them."""
    job = of_kind(render("training/cpu"), "RayJob")["training"]
    head = pods([job])[0]
    words = shlex.split(job["spec"]["entrypoint"])
    with relay(database_dsn) as dsn, s3_server(tmp_path / "s3.log") as variables:
        storage = variables | {"HYDRAULIC_STORAGE_URL": f"s3://{BUCKET}/hydraulic"}
        secrets = {("hydraulic-storage", name): value for name, value in storage.items()}
        around = Surroundings(tmp_path, secrets | {("hydraulic-database", "dsn"): dsn})
        status, text = run(head, named(head.containers, "ray-head"), around, words)
    assert status == 1, text
    assert "press-*" in text.splitlines()[-1]
    assert "Traceback" not in text
