"""A cluster of several Ray nodes on one machine, each in a network namespace with its own address.

The nodes are joined by a bridge, at whose address the database and the model registry listen. Each
node has data and Ray's files of its own, as machines have; they share the file system otherwise.
Needs to be root.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import yaml

from app.checkpoint.manifest import WEIGHTS
from tests.chaos.database import Server, installed
from tests.system import PROJECT_DIR, own_ports
from tests.waiting import wait_until

BRIDGE = "hydbr"
PREFIX = "hydn"
NETWORK = "10.91.0"
GCS_PORT, DASHBOARD_PORT, HTTP_PORT, REGISTRY_PORT = 6379, 8265, 8000, 5000
BRIDGE_ADDRESS = f"{NETWORK}.254"
"""Address of the bridge, at which the database and the model registry listen."""
START_S = 420.0
STARTS = 4
DETECTION = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 5,
}
"""A node that does not answer for five seconds is dead; by default Ray waits for half a minute."""


@dataclass
class Node:
    """One node of the cluster."""

    number: int
    directory: Path
    environment: dict[str, str]

    @property
    def address(self) -> str:
        """Address of the node."""
        return f"{NETWORK}.{self.number}"

    @property
    def url(self) -> str:
        """URL of the service on the node."""
        return f"http://{self.address}:{HTTP_PORT}"

    @property
    def namespace(self) -> str:
        """Name of its network namespace."""
        return f"{PREFIX}{self.number}"

    def run(self, *command: str, limit_s: float = 180.0) -> str:
        """Run a command on the node and return what it printed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            env=self.environment,
            cwd=PROJECT_DIR,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def start(self, *arguments: str) -> None:
        """Start Ray on the node; again where Ray gave up, as it does after 30 s on a busy machine.

        Raises:
            AssertionError: Ray gave up `STARTS` times.
        """
        own = self.directory / "ray"
        own.mkdir(exist_ok=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        command = [
            # Ray's files are the node's own; the mount namespace ends with its processes
            *("ip", "netns", "exec", self.namespace, "sh", "-c"),
            *(f'mount --bind {own} /tmp/ray && exec "$0" "$@"', _program("ray"), "start"),
            *("--num-cpus=1", f"--node-ip-address={self.address}", "--disable-usage-stats"),
            *("--object-store-memory=100000000", *arguments),
        ]
        log_path = self.directory / "ray.log"
        for _ in range(STARTS):
            with log_path.open("ab") as log:
                # Ray's processes keep the files of this one open
                done = subprocess.run(
                    command,
                    env=self.environment,
                    cwd=PROJECT_DIR,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    check=False,
                    timeout=START_S,
                )
            if done.returncode == 0:
                return
            self.kill()
        raise AssertionError(
            f"Ray did not start on {self.address}:\n{log_path.read_text()[-4000:]}"
        )

    def pids(self) -> list[int]:
        """Return the processes of the node."""
        done = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in done.stdout.split()]

    def kill(self) -> int:
        """Kill all processes of the node, as a power failure does; return how many."""
        count = 0
        while pids := self.pids():
            count += len(pids)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        return count

    def set_link(self, state: str) -> None:
        """Set the node's connection to the bridge `up` or `down`."""
        _ip(f"link set {self.namespace}o {state}")


@dataclass
class Cluster:
    """Three nodes; the first is the head."""

    nodes: tuple[Node, ...]
    database: Server
    key: str
    config_path: Path

    @property
    def registry_log(self) -> Path:
        """File with the requests that the model registry answered."""
        return self.config_path.parent / "mlflow.log"

    @property
    def head(self) -> Node:
        """The node with Ray's GCS and Serve's controller."""
        return self.nodes[0]

    @property
    def dashboard_url(self) -> str:
        """URL of Ray's dashboard."""
        return f"http://{self.head.address}:{DASHBOARD_PORT}"

    def join(self, node: Node) -> None:
        """Start a worker node."""
        node.start(f"--address={self.head.address}:{GCS_PORT}")

    def node_id(self, node: Node) -> str:
        """Return Ray's id of a node that is alive."""
        found: dict[str, Any] = self._dashboard("/nodes?view=summary")
        for each in found["data"]["summary"]:
            raylet = each["raylet"]
            if each["ip"] == node.address and raylet.get("state") == "ALIVE":
                return str(raylet["nodeId"])
        raise AssertionError(f"expected node {node.address} alive, found {found}")

    def drain(self, node: Node) -> None:
        """Have Ray drain a node, as an autoscaler does before it takes the machine away."""
        self.head.run(
            *(_program("ray"), "drain-node", f"--address={self.head.address}:{GCS_PORT}"),
            *("--node-id", self.node_id(node), "--deadline-remaining-seconds", "600"),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"),
        )

    def applications(self) -> dict[str, Any]:
        """Return Serve's applications with their replicas."""
        found: dict[str, Any] = self._dashboard("/api/serve/applications/")["applications"]
        return found

    def _dashboard(self, path: str) -> dict[str, Any]:
        token = (Path.home() / ".ray" / "auth_token").read_text().strip()
        answer = httpx.get(
            f"{self.dashboard_url}{path}",
            headers={"authorization": f"Bearer {token}"},
            timeout=30,
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def places(self, application: str, deployment: str) -> set[str]:
        """Return the addresses of the nodes with a running replica of a deployment."""
        with contextlib.suppress(httpx.HTTPError, KeyError):
            replicas = self.applications()[application]["deployments"][deployment]["replicas"]
            return {each["node_ip"] for each in replicas if each["state"] == "RUNNING"}
        return set()

    def client(self, node: Node) -> httpx.Client:
        """Return a client of the service on one node."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=node.url, headers=headers, timeout=30)

    def is_ready(self, node: Node) -> bool:
        """Return whether the service answers on a node."""
        return _answers(f"{node.url}/health/ready")

    def downloads(self) -> dict[str, int]:
        """Return how often each address has fetched the weights from the model registry."""
        fetched = re.findall(
            rf"({re.escape(NETWORK)}\.\d+):\d+ - \"GET \S+/{re.escape(WEIGHTS)} HTTP/\S+\" 200",
            self.registry_log.read_text(),
        )
        return dict(Counter(fetched))

    def wait_whole(self) -> None:
        """Wait until every node has an ingress and a model replica, and answers."""
        everywhere = {node.address for node in self.nodes}
        for application, deployment in (("diagnostics", "Ingress"), ("model-1", "Model")):
            wait_until(
                lambda name=(application, deployment): self.places(*name) == everywhere,
                f"a replica of {deployment} on each node",
                START_S,
                1.0,
            )
        for node in self.nodes:
            wait_until(lambda node=node: self.is_ready(node), f"an answer of {node.url}", 120, 0.5)


def cluster_config() -> dict[str, Any]:
    """Return the shipped configuration with a replica of each deployment on each node.

    The version comes from the model registry, as a trained version does.
    """
    config: dict[str, Any] = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
    config["http_options"] |= {"host": "0.0.0.0", "port": HTTP_PORT}
    config["applications"] = [
        each for each in config["applications"] if each["name"] in ("diagnostics", "model-1")
    ]
    diagnostics, model = config["applications"]
    model["args"]["checkpoint"] = "registry:1"
    releases = diagnostics["deployments"][0]["user_config"]["traffic"]["releases"]
    del releases[1]
    for deployment in (*diagnostics["deployments"], *model["deployments"]):
        del deployment["autoscaling_config"]
        deployment |= {"num_replicas": 3, "max_replicas_per_node": 1}
    return config


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start three nodes with the service and a model registry; stop all of them."""
    with (
        ray_nodes({"MLFLOW_TRACKING_URI": f"http://{BRIDGE_ADDRESS}:{REGISTRY_PORT}"}) as made,
        _registry(made),
    ):
        made.head.run(
            *(_program("serve"), "deploy", str(made.config_path)),
            *("--address", made.dashboard_url),
        )
        made.wait_whole()
        yield made


@contextlib.contextmanager
def ray_nodes(environment: Mapping[str, str] = MappingProxyType({})) -> Iterator[Cluster]:
    """Start three nodes and a database, without the service; stop all of them.

    Args:
        environment: further variables of the nodes.
    """
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True)
            )
        )
        directory.chmod(0o711)  # the database's account enters it
        stack.enter_context(_network(3))
        database = Server(
            installed(directory / "install"), directory / "data", directory / "database.log"
        )
        database.host = BRIDGE_ADDRESS
        database.create()
        stack.callback(database.stop, "immediate")
        config_path = directory / "serve_config.yaml"
        config_path.write_text(yaml.safe_dump(cluster_config()))
        key = "hd_test_key_of_a_cluster_with_three_nodes"
        ports = own_ports()
        nodes = tuple(
            Node(
                number,
                directory / f"node{number}",
                _environment(directory / f"node{number}", database, config_path, key, ports)
                | environment,
            )
            for number in (1, 2, 3)
        )
        for node in nodes:
            node.directory.mkdir()
            stack.callback(node.kill)
        made = Cluster(nodes, database, key, config_path)
        made.head.start(
            "--head",
            f"--port={GCS_PORT}",
            f"--dashboard-host={made.head.address}",
            f"--dashboard-port={DASHBOARD_PORT}",
            f"--system-config={json.dumps(DETECTION)}",
        )
        wait_until(lambda: _has_dashboard(made), "Ray's dashboard", START_S, 0.5)
        for node in nodes[1:]:
            made.join(node)
        yield made


@contextlib.contextmanager
def _registry(made: Cluster) -> Iterator[None]:
    """Start the model registry and register the shipped version 1; stop it."""
    directory = made.config_path.parent
    command = (
        *(_program("mlflow"), "server", "--workers", "1"),
        *("--host", BRIDGE_ADDRESS, "--port", str(REGISTRY_PORT)),
        *("--allowed-hosts", f"{BRIDGE_ADDRESS}:{REGISTRY_PORT}"),
        *("--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"),
        *("--artifacts-destination", str(directory / "artifacts")),
    )
    with made.registry_log.open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def ready() -> bool:
        assert server.poll() is None, f"MLflow ended:\n{made.registry_log.read_text()[-4000:]}"
        return _answers(f"http://{BRIDGE_ADDRESS}:{REGISTRY_PORT}/health")

    try:
        wait_until(ready, "MLflow", START_S, 0.5)
        made.head.run(_program("hydraulic"), "release", "register", "app/weights/1")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=5).status_code == 200
    return False


def _environment(
    directory: Path, database: Server, config: Path, key: str, ports: dict[str, str]
) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HYDRAULIC_", "RAY_"))
    }
    return (
        kept
        | ports
        | {
            "HYDRAULIC_VAR_DIR": str(directory / "var"),
            "HYDRAULIC_DSN": database.dsn,
            "HYDRAULIC_API_KEY": key,
            "HYDRAULIC_SERVE_CONFIG": str(config),
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            "PYTHONUNBUFFERED": "1",
            # the name of this machine leads to loopback, in each network namespace
            "GLOO_SOCKET_IFNAME": "eth0",
            # the program of jobs is the nodes' own `python`
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
    )


def _has_dashboard(made: Cluster) -> bool:
    with contextlib.suppress(httpx.HTTPError, OSError):
        made.applications()
        return True
    return False


@contextlib.contextmanager
def _network(count: int) -> Iterator[None]:
    """Make namespaces joined by a bridge, and remove them."""
    with ExitStack() as stack:
        _ip(f"link add {BRIDGE} type bridge")
        stack.callback(_ip, f"link del {BRIDGE}")
        _ip(f"addr add {BRIDGE_ADDRESS}/24 dev {BRIDGE}")
        _ip(f"link set {BRIDGE} up")
        for number in range(1, count + 1):
            name = f"{PREFIX}{number}"
            _ip(f"netns add {name}")
            stack.callback(_ip, f"netns del {name}")
            _ip(f"link add {name}o type veth peer name eth0 netns {name}")
            _ip(f"link set {name}o master {BRIDGE} up")
            _ip(f"-n {name} addr add {NETWORK}.{number}/24 dev eth0")
            _ip(f"-n {name} link set eth0 up")
            _ip(f"-n {name} link set lo up")
        yield


def _ip(arguments: str) -> None:
    done = subprocess.run(
        ["ip", *arguments.split()], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, (arguments, done.stderr)


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
