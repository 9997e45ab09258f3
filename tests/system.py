"""Starts the whole system as a user does: `serve run`, on a free port and data of its own."""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

PROJECT_DIR = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 420.0
STOP_TIMEOUT_S = 120.0
STARTS = 3
RAY_GAVE_UP = "The current node timed out during startup"


@dataclass(frozen=True)
class System:
    """A running system: its URL, its first API key, and the files it was started from."""

    url: str
    key: str
    config_path: Path
    var_dir: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes]"
    log_path: Path

    def client(self, **headers: str) -> httpx.Client:
        """Return a client that sends the first key."""
        return httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {self.key}"} | headers, timeout=30
        )

    def processes(self) -> list[psutil.Process]:
        """Return every process of this system, wherever it is in the process tree."""
        return processes_of(self.var_dir)

    def deploy(self, config: dict[str, Any]) -> None:
        """Apply a changed configuration with `serve deploy`."""
        self.config_path.write_text(yaml.safe_dump(config))
        self.serve("deploy", str(self.config_path))

    def serve(self, command: str, *arguments: str) -> str:
        """Run one of Serve's commands against this system and return its output."""
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("serve")),
                command,
                *arguments,
                "--address",
                self.dashboard_url,
            ],
            cwd=PROJECT_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def dashboard_url(self) -> str:
        """URL of Ray's dashboard; its usual port may have been in use."""
        found = re.search(
            r"http://127\.0\.0\.1:\d+", self.log_path.read_text().split("View the dashboard at")[1]
        )
        assert found is not None
        return found[0]

    @property
    def session_dir(self) -> Path:
        """Directory of the Ray session, with the log files of all its processes."""
        named = (
            part.partition("=")[2]
            for process in self.processes()
            for part in process.cmdline()
            if part.startswith(("--session-dir=", "--session_dir="))
        )
        return Path(next(named))

    def config(self) -> dict[str, Any]:
        """Return the running configuration."""
        loaded: dict[str, Any] = yaml.safe_load(self.config_path.read_text())
        return loaded


def processes_of(var_dir: Path) -> list[psutil.Process]:
    """Return the processes started for a data directory or running in it, and their children."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            named = process.environ().get("HYDRAULIC_VAR_DIR") == str(var_dir) or any(
                str(var_dir) in part for part in [*process.cmdline(), process.cwd()]
            )
            if named:
                found |= {item.pid: item for item in (process, *process.children(recursive=True))}
    return list(found.values())


_given: set[int] = set()


def free_port() -> int:
    """Return a port that is free now and was not returned before.

    It is below the ports that Linux gives to outgoing connections and those that Serve chooses.
    """
    while True:
        port = 28_000 + secrets.randbelow(2_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("0.0.0.0", port))
            if port not in _given:
                _given.add(port)
                return port


def own_ports() -> dict[str, str]:
    """Return settings that give a system other ports than another one on this machine has.

    Two clusters can listen on one port without an error, and each one's proxy then reaches the
    other's replicas.
    """
    first = 20_000 + 40 * secrets.randbelow(200)
    return {
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 19),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + 20),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 39),
    }


@contextlib.contextmanager
def running(
    directory: Path, config: dict[str, Any] | None = None, **variables: str
) -> Iterator[System]:
    """Start the system with additional variables, wait until it is ready, stop it with Ctrl-C.

    Args:
        directory: for its files.
        config: its configuration; None for the shipped one.
        variables: of its environment.
    """
    port = free_port()
    config = config or yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    config_path = directory / "serve_config.yaml"
    config_path.write_text(yaml.safe_dump(config))
    var_dir = directory / "var"
    var_dir.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HYDRAULIC_", "RAY_"))
    }
    environment |= {"HYDRAULIC_VAR_DIR": str(var_dir), "HYDRAULIC_SERVE_CONFIG": str(config_path)}
    # on a machine that runs tests HAProxy starts late, and Serve would give up
    environment |= {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
    environment |= {"PYTHONUNBUFFERED": "1"} | own_ports() | variables
    log_path = directory / "serve.log"
    # without the address Serve would join the cluster that the machine started last, also one of
    # other tests, or one that is gone
    command = [sys.executable, "-m", "tests.serve_patiently", "run", "--address", "local"]
    url = f"http://127.0.0.1:{port}"
    process = _started([*command, str(config_path)], environment, log_path)
    try:
        for left in reversed(range(STARTS)):
            try:
                _wait_until_ready(url, process, log_path)
                break
            except AssertionError:
                # Ray waits half a minute for its own node, which a busy machine may exceed
                if not left or RAY_GAVE_UP not in log_path.read_text():
                    raise
                _kill_all(var_dir)
                process = _started([*command, str(config_path)], environment, log_path)
        key = (var_dir / "api_key").read_text().strip()
        yield System(url, key, config_path, var_dir, environment, process, log_path)
    finally:
        try:
            stop(process)
        finally:
            _kill_all(var_dir)


def _started(
    command: list[str], environment: dict[str, str], log_path: Path
) -> "subprocess.Popen[bytes]":
    with log_path.open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=PROJECT_DIR,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _kill_all(var_dir: Path) -> None:
    for left in processes_of(var_dir):
        with contextlib.suppress(psutil.Error):
            left.kill()


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Send Ctrl-C to the process group and wait for its end."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    give_up = time.monotonic() + START_TIMEOUT_S
    last = "no answer"
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise AssertionError(
                f"serve run ended with {process.returncode}:\n{log_path.read_text()[-4000:]}"
            )
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{url}/health/ready", timeout=5)
            last = answer.text
            if answer.status_code == 200:
                return
        time.sleep(0.25)
    raise AssertionError(
        f"not ready after {START_TIMEOUT_S} s: {last}\n{log_path.read_text()[-4000:]}"
    )
