"""The pods of the trial's RayService start as KubeRay would start them, and drain.

Each pod is a container of `container.py` with an address of its own, a read-only root, no rights;
the command is the one that KubeRay 1.7 makes of `rayStartParams`. The test does what the kubelet
does: it looks at the probes of the manifest and ends a pod by SIGTERM. Redis keeps the state of the
head. Not here: the Serve applications, which start in other tests without pods, the autoscaler, the
operator, services and their names.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.kubernetes.container import (
    Network,
    Surroundings,
    named,
    network,
    require_namespaces,
    started,
    terminate,
)
from tests.cluster.kubernetes.manifests import Manifest, Pod, of_kind, pods, ray_cluster, render
from tests.cluster.kubernetes.test_commands import pod_of, relay
from tests.cluster.monitoring.debian import installed
from tests.waiting import wait_until

HEAD, WORKER, REDIS = range(3)
TOKEN = "a-token-of-ray"
KEY = "key-of-the-administrator-of-a-test"
SECRETS = {
    ("hydraulic-redis", "password"): "word",
    ("hydraulic-api-key", "api-key"): KEY,
}
START_S = 300.0
UNITS = {"Mi": 2**20, "Gi": 2**30}


def ray_start(params: dict[str, str], container: Manifest, **others: str) -> list[str]:
    """Return the command that KubeRay makes (`generateRayStartCommand`, `BuildPod`)."""
    limits = container["resources"]["limits"]
    whole = {
        "block": "true",
        "dashboard-agent-listen-port": "52365",
        "num-cpus": limits["cpu"],
        "memory": str(int(limits["memory"][:-2]) * UNITS[limits["memory"][-2:]]),
        **params,
        **others,
    }
    options = " ".join(
        f"--{name}" if value == "true" else f"--{name}={value}"
        for name, value in sorted(whole.items())
    )
    kind = " --head" if "address" not in whole else ""
    return ["/bin/bash", "-c", "--", f"ulimit -n 65536; ray start{kind} {options}"]


def of_kuberay(address: str) -> dict[str, str]:
    """Return the variables that KubeRay adds to the containers of a RayService."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_ADDRESS": address,
        "RAY_PORT": "6379",
        "RAY_CLUSTER_NAME": "hydraulic-diagnostics-abcde",
        "RAY_CLUSTER_NAMESPACE": "hydraulic-diagnostics",
        "RAY_TIMEOUT_MS_TASK_WAIT_FOR_DEATH_INFO": "0",
        "RAY_GCS_SERVER_REQUEST_TIMEOUT_SECONDS": "5",
        "RAY_SERVE_KV_TIMEOUT_S": "5",
        # cores are shared with other tests, and HAProxy starts late
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    }


def succeeds(container: Manifest, kind: str, address: str) -> bool:
    """Look at a probe of a container as a kubelet does, at the address of its pod."""
    action = container[kind]["httpGet"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    port = ports.get(action["port"], action["port"])
    try:
        answer = httpx.get(
            f"http://{address}:{port}{action['path']}",
            timeout=container[kind]["timeoutSeconds"],
        )
    except httpx.HTTPError:
        return False
    return 200 <= answer.status_code < 400


class Cluster:
    """The pods of a RayService on a network.

    Args:
        service: the RayService.
        made: the network.
        directory: for their volumes and logs.
    """

    def __init__(self, service: Manifest, made: Network, directory: Path) -> None:
        self.made = made
        self.directory = directory
        self.spec = ray_cluster(service)
        self.head, self.worker = pods([service])
        self.dashboard = httpx.Client(
            base_url=f"http://{made.address(HEAD)}:8265",
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=120,
        )

    @contextlib.contextmanager
    def pod(
        self, number: int, pod: Pod, name: str, dsn: str = "", words: list[str] | None = None
    ) -> Iterator[Any]:
        """Start a container of a pod."""
        directory = self.directory / str(number)
        directory.mkdir()
        hosts = {
            "redis": self.made.address(REDIS),
            socket.gethostname(): self.made.address(number),
        }
        values = {**SECRETS, ("hydraulic-database", "dsn"): dsn}
        # KubeRay gives the name of a service here; Ray's resolver asks a DNS server, not /etc/hosts
        variables = of_kuberay(f"{self.made.address(HEAD)}:6379")
        if number == HEAD:
            variables |= {
                "RAY_ADDRESS": "127.0.0.1:6379",
                "RAY_REDIS_ADDRESS": self.spec["gcsFaultToleranceOptions"]["redisAddress"],
                "REDIS_PASSWORD": values["hydraulic-redis", "password"],
                "RAY_external_storage_namespace": "a-cluster",
            }
        around = Surroundings(
            directory, values, hosts=hosts, namespace=self.made.namespace(number),
            variables={} if number == REDIS else variables,
        )  # fmt: skip
        with started(pod, named(pod.containers, name), around, words) as process:
            yield process

    def log(self, number: int) -> str:
        """Return the end of a container's log."""
        (path,) = (self.directory / str(number)).glob("*.log")
        return path.read_text()[-3000:]

    @contextlib.contextmanager
    def head_with_redis(self) -> Iterator[None]:
        """Start Redis and the head, and wait until the head's probes succeed."""
        container = self.head.spec["containers"][0]
        words = ray_start(
            self.spec["headGroupSpec"]["rayStartParams"],
            container,
            **{"no-monitor": "true", "redis-password": "$REDIS_PASSWORD"},
        )
        redis = pod_of("overlays/dev", "StatefulSet", "redis")
        with (
            self.pod(REDIS, redis, "redis"),
            self.pod(HEAD, self.head, "ray-head", words=words),
        ):
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                self.wait_for(container, kind, HEAD)
            yield

    @contextlib.contextmanager
    def worker_pod(self, dsn: str) -> Iterator[Any]:
        """Start a worker and wait until it has started."""
        group = self.spec["workerGroupSpecs"][0]
        container = self.worker.spec["containers"][0]
        address = f"{self.made.address(HEAD)}:6379"
        words = ray_start(group["rayStartParams"], container, address=address)
        with self.pod(WORKER, self.worker, "ray-worker", dsn, words) as process:
            self.wait_for(container, "startupProbe", WORKER)
            yield process

    def wait_for(self, container: Manifest, kind: str, number: int) -> None:
        """Wait until a probe of a pod succeeds."""
        address = self.made.address(number)
        wait_until(
            lambda: succeeds(container, kind, address), f"{kind} of {container['name']}", START_S
        )

    def states(self) -> dict[str, str]:
        """Return the states of the applications, as KubeRay's status has them."""
        answer = self.dashboard.get("/api/serve/applications/").raise_for_status().json()
        return {name: each["status"] for name, each in answer["applications"].items()}


def test_pods_of_the_rayservice_start_and_drain(
    database_dsn: str, tmp_path: Path, without_ray: None
):
    require_namespaces()
    installed("redis-server", "redis-server")
    service = of_kind(render("overlays/dev"), "RayService")["hydraulic-diagnostics"]
    with network(3) as made, relay(database_dsn, made.host) as dsn:
        cluster = Cluster(service, made, tmp_path)
        with cluster.head_with_redis(), cluster.worker_pod(dsn) as process:
            head, worker = made.address(HEAD), made.address(WORKER)
            refused = httpx.get(f"http://{head}:8265/api/serve/applications/")
            assert refused.status_code == 401, "Ray's token guards the dashboard"
            assert cluster.states() == {}
            # without a replica the pod gets no requests
            assert not succeeds(cluster.worker.spec["containers"][0], "readinessProbe", worker)
            # the targets of the PodMonitor `ray`
            for address in (head, worker):
                assert "ray_" in httpx.get(f"http://{address}:8080/metrics", timeout=10).text
            terminate(process)
            process.wait(cluster.worker.spec["terminationGracePeriodSeconds"])
            assert "Draining for up to 60" in cluster.log(WORKER)
        cluster.dashboard.close()
