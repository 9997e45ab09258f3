"""Starts and stops the systems under test, and sends single requests to them.

A system is stopped by the ids of its own processes, and has ended before the next one starts.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from tests.bench.peers.common import ROUTE
from tests.scrape import samples
from tests.system import PROJECT_DIR, free_port, own_ports, processes_of

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 40.0
OURS = "ours"
PLAIN = "ours-plain"
"""The service without metrics and access lines, see `variants`."""
TRACED = "ours-traced"
"""The service with spans of one request in a hundred, which is Serve's default."""


@dataclass(frozen=True)
class Peer:
    """A baseline system that serves the same diagnoses with another serving stack.

    Args:
        title: in tables.
        module: in `tests.bench.peers`.
        arguments: command line, with the tuned settings.
        tuned: description of the tuned settings.
        ready: path that answers 200 once the system accepts requests.
        own_environment: whether it runs in the peers' environment.
        as_list: whether a request body is a list of one item.
    """

    title: str
    module: str
    arguments: tuple[str, ...]
    tuned: str
    ready: str = "/ready"
    own_environment: bool = False
    as_list: bool = False


PEERS: dict[str, Peer] = {
    "fastapi": Peer(
        "(a) FastAPI, micro-batching, 1 process",
        "fastapi_peer",
        ("--batching", "--in-flight", "2"),
        "uvloop, httptools, no access log; batches of at most 32, two in flight so that one reads "
        "while the other computes",
    ),
    "fastapi-2": Peer(
        "(a) FastAPI, micro-batching, 2 workers",
        "fastapi_peer",
        ("--batching", "--in-flight", "2", "--workers", "2"),
        "as with one process, two uvicorn workers on one socket",
    ),
    "fastapi-single": Peer(
        "(b) FastAPI, no batching",
        "fastapi_peer",
        (),
        "as (a), one thread computes one request at a time",
    ),
    "litserve": Peer(
        "(c) LitServe, batching",
        "litserve_peer",
        ("--max-batch", "16"),
        "batches of at most 16 gathered for 2 ms, fast queue, one worker, one HTTP process, "
        "no access log",
        own_environment=True,
    ),
    "bentoml": Peer(
        "(d) BentoML, adaptive batching",
        "bentoml_peer",
        (),
        "batchable API without a hop between services, plain dictionaries as responses, batches of "
        "at most 32, two workers, no metrics, no access log",
        ready="/readyz",
        own_environment=True,
        as_list=True,
    ),
    "naive": Peer(
        "(f) naive: rows to pandas, PyG, no batching",
        "naive",
        (),
        "uvicorn's defaults; narrow rows, pandas pivot, PyG batch, FastAPI's serialisation, "
        "threads of asyncio.to_thread",
    ),
}


@dataclass
class Running:
    """A started system.

    Args:
        name: of `PEERS`, or `OURS`.
        port: of its HTTP server.
        headers: required by its requests.
        directory: of its files; the command lines or environments of its processes contain it.
        process: the started process.
        as_list: whether a request body is a list of one item.
        started_at: `time.time` of the start.
        ready_s: seconds from the start until ready.
    """

    name: str
    port: int
    headers: dict[str, str]
    directory: Path
    process: "subprocess.Popen[bytes]"
    as_list: bool
    started_at: float
    ready_s: float = 0.0
    _read: dict[Path, int] = field(default_factory=dict)

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the system."""
        if self.name in (OURS, PLAIN, TRACED):
            return processes_of(self.directory)
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET request; status 0 when there is no response."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers=self.headers
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def batch_sizes(self) -> Counter[int]:
        """Return the sizes of a peer's batches since the previous call."""
        found: Counter[int] = Counter()
        for path in (self.directory / "sizes").glob("*.sizes"):
            content = path.read_bytes()
            found.update(map(int, content[self._read.get(path, 0) :].split()))
            self._read[path] = len(content)
        return found


@contextlib.contextmanager
def running(
    name: str,
    dsn: str,
    directory: Path,
    peers_python: Path,
    *,
    user_config: Mapping[str, object] | None = None,
    **variables: str,
) -> Iterator[Running]:
    """Start a system on a database, wait until it is ready, and stop it afterwards.

    Args:
        name: of `PEERS`, or `OURS`, `PLAIN` or `TRACED`.
        dsn: of the database.
        directory: a new one, for the system's files.
        peers_python: interpreter of the peers' environment.
        user_config: of the service's ingress, in place of the shipped keys; peers ignore it.
        variables: added to the service's environment; peers ignore them.
    """
    own = name in (OURS, PLAIN, TRACED)
    system = (
        _start_ours(name, dsn, directory, variables, user_config or {})
        if own
        else _start_peer(name, dsn, directory, peers_python)
    )
    try:
        _wait_until_ready(system, "/health/ready" if own else PEERS[name].ready)
        yield system
    finally:
        _stop(system)


def _start_peer(name: str, dsn: str, directory: Path, peers_python: Path) -> Running:
    peer = PEERS[name]
    port = free_port()
    (directory / "sizes").mkdir(parents=True)
    python = str(peers_python) if peer.own_environment else sys.executable
    command = [python, "-m", f"tests.bench.peers.{peer.module}", "--dsn", dsn, "--port", str(port)]
    command += ["--sizes", str(directory / "sizes"), *peer.arguments]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_DIR)}
    return Running(
        name,
        port,
        {},
        directory,
        _spawn(command, environment, directory),
        peer.as_list,
        time.time(),
    )


def _start_ours(
    name: str,
    dsn: str,
    directory: Path,
    variables: Mapping[str, str],
    user_config: Mapping[str, object],
) -> Running:
    port, key = free_port(), secrets.token_urlsafe(32)
    directory.mkdir(parents=True)
    config = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"] = [
        item for item in config["applications"] if item["name"] != "live-demo"
    ]
    config["applications"][0]["deployments"][0]["user_config"] |= user_config
    if name == PLAIN:
        config["applications"][0]["import_path"] = "tests.bench.variants:diagnostics"
    (directory / "serve_config.yaml").write_text(yaml.safe_dump(config))
    # RAY_ADDRESS would name a running cluster, as would without `--address local` the file of the
    # machine's last one; Ray's defaults come with the environment's interpreter, see Makefile
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HYDRAULIC_") and name != "RAY_ADDRESS"
    }
    environment |= {
        "HYDRAULIC_VAR_DIR": str(directory),
        "HYDRAULIC_DSN": dsn,
        "HYDRAULIC_API_KEY": key,
        "PYTHONPATH": str(PROJECT_DIR),
        **own_ports(),
        **variables,
    }
    command = [
        str(Path(sys.executable).with_name("serve")),
        *("run", "--address", "local"),
        str(directory / "serve_config.yaml"),
    ]
    headers = {"authorization": f"Bearer {key}"}
    return Running(
        name, port, headers, directory, _spawn(command, environment, directory), False, time.time()
    )


def _spawn(
    command: list[str], environment: dict[str, str], directory: Path
) -> "subprocess.Popen[bytes]":
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=PROJECT_DIR,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_ready(system: Running, path: str) -> None:
    give_up = time.time() + START_TIMEOUT_S
    body = b""
    while time.time() < give_up and system.process.poll() is None:
        status, body = system.get(path)
        if status == 200:
            system.ready_s = time.time() - system.started_at
            return
        time.sleep(0.05)
    log = (system.directory / "log").read_text(errors="replace")
    raise RuntimeError(
        f"'{system.name}' did not become ready: {body.decode(errors='replace')}\n{log[-3000:]}"
    )


def _stop(system: Running) -> None:
    before = system.processes()
    if system.process.poll() is None:
        os.killpg(system.process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            system.process.wait(STOP_TIMEOUT_S)
    for process in {*before, *system.processes()}:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if system.process.poll() is None:
        system.process.kill()
    system.process.wait()


def metrics_of(system: Running) -> dict[str, float]:
    """Return the service's Prometheus samples by name and labels, over all replicas."""
    status, body = system.get("/metrics")
    return samples(body.decode()) if status == 200 else {}


def request_diagnosis(system: Running, body: dict[str, str]) -> bytes:
    """Request one diagnosis and return the response body.

    Raises:
        RuntimeError: the status is not 200.
    """
    data = json.dumps([body] if system.as_list else body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{system.port}{ROUTE}",
        data=data,
        headers={"content-type": "application/json", **system.headers},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        if response.status != 200:
            raise RuntimeError(
                f"expected a diagnosis from '{system.name}', found status {response.status}"
            )
        content: bytes = response.read()
        return content
