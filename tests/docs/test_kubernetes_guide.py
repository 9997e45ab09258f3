"""The guide to Kubernetes names commands, files, resources and policies that exist.

kubectl parses each of its commands, without a cluster, and resources are looked up in the rendered
manifests. What the commands do in a cluster is not tested.
"""

import re
import shlex
import subprocess
from functools import cache
from itertools import pairwise

import pytest

from tests.cluster.kubernetes.manifests import KUBECTL, ROOTS, kustomize, render
from tests.cluster.kubernetes.test_policies import SECRETS
from tests.docs.test_documents import PAGES, codes, missing, shells
from tests.system import PROJECT_DIR

GUIDE = PAGES["docs/how-to/deploy-on-kubernetes.md"]
BY_KUBERAY = {("service", "hydraulic-diagnostics-serve-svc")}
"""KubeRay makes it; the name is that of the RayService with an ending."""


def lines() -> list[str]:
    """Return the commands of the guide that are kubectl's, without pipes and redirections."""
    found = []
    for line in (*shells(GUIDE), *codes(GUIDE)):
        for part in re.split(r"\||>", line):
            command = part.strip().removeprefix("key=$(").rstrip(")")
            if command.startswith("kubectl "):
                found.append(re.sub(r"\$\(openssl[^)]*\)?", "secret", command))
    return found


LINES = sorted(set(lines()))


@cache
def resources() -> frozenset[tuple[str, str]]:
    return frozenset(
        (each["kind"].lower(), each["metadata"]["name"]) for root in ROOTS for each in render(root)
    )


def test_commands_were_found():
    assert len(LINES) > 20


@pytest.mark.parametrize("line", LINES)
def test_kubectl_knows_the_command_and_its_options(line: str):
    words = shlex.split(line)[1:]
    if "--" in words:
        words = words[: words.index("--")]  # what follows is a command in the pod
    if words == [words[0]]:
        words.append("--help")
    done = subprocess.run(
        [str(KUBECTL), *words, "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


def test_an_option_that_kubectl_does_not_have_is_refused():
    done = subprocess.run(
        [str(KUBECTL), "apply", "--server-sid", "--help"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1


def test_directories_and_files_of_commands_are_there():
    named = {
        word
        for line in LINES
        for option, word in pairwise(shlex.split(line))
        if option in {"-k", "-f"} and word != "-"
    }
    assert len(named) > 3
    for name in named:
        path = PROJECT_DIR / name
        assert path.exists(), name
        if path.is_dir():
            assert kustomize(path).returncode == 0


def test_resources_are_in_the_manifests():
    named = set()
    for line in LINES:
        words = [word for word in shlex.split(line)[1:] if not word.startswith("-")]
        named |= {
            tuple(word.split("/", 1)) for word in words if re.fullmatch(r"[a-z]+/[a-z-]+", word)
        }
        named |= {
            (kind, name)
            for kind, name in pairwise(words)
            if kind in {"rayservice", "rayjob", "statefulset", "cronjob"}
        }
        named |= {
            tuple(word.removeprefix("--from=").split("/"))
            for word in shlex.split(line)
            if word.startswith("--from=")
        }
    assert len(named) > 3
    assert named - resources() - BY_KUBERAY == set()


def test_secrets_are_those_that_the_manifests_refer_to():
    made: dict[str, set[str]] = {}
    for line in LINES:
        if found := re.match(r"kubectl create secret generic ([\w-]+)", line):
            keys = re.findall(r"--from-(?:literal=([\w-]+)=|file=([\w.]+))", line)
            made.setdefault(found[1], set()).update(literal or file for literal, file in keys)
    assert made == SECRETS


def test_table_has_every_policy():
    table = GUIDE[GUIDE.index("## Network policies") :]
    rows = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(name for kind, name in resources() if kind == "networkpolicy")


def test_directories_of_the_table_are_all_that_can_be_applied():
    first = GUIDE[: GUIDE.index("## Before you begin")]
    named = {code.removeprefix("cluster/kubernetes/") for code in codes(first)}
    assert missing(ROOTS, named) == []


def test_named_files_of_manifests_are_there():
    named = re.findall(r"`([\w./-]+\.yaml)`", GUIDE)
    kubernetes = PROJECT_DIR / "cluster/kubernetes"
    places = (PROJECT_DIR, kubernetes / "base", kubernetes / "overlays/cpu")
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_figures_are_those_of_the_manifests():
    (service,) = (each for each in render("overlays/cpu") if each["kind"] == "RayService")
    spec = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    (container,) = spec["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = {each["name"]: each.get("value") for each in container["env"]}[
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    ]
    words = " ".join(GUIDE.split())
    assert f"waits {pause} s, so" in words
    assert f"at most {drain} s, and has {spec['terminationGracePeriodSeconds']} s in all" in words
    (job,) = (each for each in render("overlays/cpu") if each["kind"] == "CronJob")
    minute, hour, *_ = job["spec"]["schedule"].split()
    assert f"{int(hour):02}:{int(minute):02} UTC" in words
