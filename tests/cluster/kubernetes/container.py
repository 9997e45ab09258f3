"""Runs a container of a manifest as a kubelet would, without a container engine and its image.

What is as in a cluster: command, arguments, variables, user and group, no capabilities, a root file
system that is read-only but for the volumes, the process as number 1 of a process namespace, and a
network namespace with an address of its own where a test wants one. What is not: the files are
those of this machine with the project at /opt/hydraulic, limits of resources have no effect, and
names of services are in /etc/hosts.
"""

import contextlib
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.cluster.kubernetes.manifests import Manifest, Pod
from tests.system import PROJECT_DIR

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_FRESH = {"proc", "sys", "dev", "tmp", "var", "run", "opt", "config", "data"}
"""Directories of the root that are not those of this machine."""
_REFERENCE = re.compile(r"\$\((\w+)\)")


def require_namespaces() -> None:
    """Skip the test, or fail it in continuous integration, where there can be no namespaces."""
    programs = [name for name in ("ip", "unshare", "setpriv") if shutil.which(name) is None]
    reason = f"programs {', '.join(programs)} are missing" if programs else ""
    if not reason:
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--net", "--fork", "true"],
            capture_output=True,
            text=True,
            check=False,
        )
        reason = done.stderr.strip()
    if reason:
        message = f"expected root with the right to make namespaces, found: {reason}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


class Network(NamedTuple):
    """A bridge of this machine, with the addresses of namespaces on it."""

    name: str
    prefix: str

    @property
    def host(self) -> str:
        """Address of this machine."""
        return f"{self.prefix}.1"

    def address(self, number: int) -> str:
        """Address of a namespace."""
        return f"{self.prefix}.{10 + number}"

    def namespace(self, number: int) -> str:
        """Name of a namespace."""
        return f"{self.name}n{number}"


@contextlib.contextmanager
def network(namespaces: int) -> Iterator[Network]:
    """Make a bridge and namespaces on it; they end with the context."""
    made = Network(f"hk{secrets.token_hex(3)}", f"10.{214 + secrets.randbelow(30)}.{_octet()}")
    _ip(f"link add {made.name} type bridge")
    try:
        _ip(f"addr add {made.host}/24 dev {made.name}")
        _ip(f"link set {made.name} up")
        for number in range(namespaces):
            inside, outside, name = f"{made.name}i", f"{made.name}o{number}", made.namespace(number)
            _ip(f"netns add {name}")
            _ip(f"link add {outside} type veth peer name {inside} netns {name}")
            _ip(f"link set {outside} master {made.name}")
            _ip(f"link set {outside} up")
            _ip(f"-n {name} addr add {made.address(number)}/24 dev {inside}")
            _ip(f"-n {name} link set {inside} up")
            _ip(f"-n {name} link set lo up")
            # a process that looks for its own address asks for the way to another network
            _ip(f"-n {name} route add default via {made.host}")
        yield made
    finally:
        for number in range(namespaces):
            subprocess.run(["ip", "netns", "del", made.namespace(number)], check=False)
        subprocess.run(["ip", "link", "del", made.name], check=False)


def _octet() -> int:
    return 1 + secrets.randbelow(254)


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


class Surroundings(NamedTuple):
    """What a cluster gives to a container.

    Args:
        directory: for volumes and files of the root.
        secrets: values by name of the secret and key.
        fields: values of the downward interface by path.
        hosts: addresses of services by name.
        account: directory of a service account's files.
        namespace: of the network; None for that of this machine.
        variables: that Kubernetes or KubeRay adds.
    """

    directory: Path
    secrets: Mapping[tuple[str, str], str] = {}
    fields: Mapping[str, str] = {}
    hosts: Mapping[str, str] = {}
    account: Path | None = None
    namespace: str | None = None
    variables: Mapping[str, str] = {}


def environment(container: Manifest, around: Surroundings) -> dict[str, str]:
    """Return the variables of a container.

    PATH has the virtual environment first, as in the image.
    """
    found = {"PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    found |= around.variables
    for source in container.get("envFrom", ()):
        secret = source["secretRef"]["name"]
        values = {key: value for (name, key), value in around.secrets.items() if name == secret}
        assert values, f"expected values of the secret {secret}"
        found |= values
    for variable in container.get("env", ()):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
            continue
        ((kind, reference),) = variable["valueFrom"].items()
        if kind == "secretKeyRef":
            found[variable["name"]] = around.secrets[reference["name"], reference["key"]]
        else:
            assert kind == "fieldRef", "teach the test this reference"
            found[variable["name"]] = around.fields[reference["fieldPath"]]
    return found


def command(container: Manifest, variables: Mapping[str, str]) -> list[str]:
    """Return command and arguments, with `$(NAME)` replaced as Kubernetes does."""
    words = [*container.get("command", ()), *container.get("args", ())]
    return [_REFERENCE.sub(lambda found: variables[found[1]], word) for word in words]


def _volume(pod: Pod, name: str, around: Surroundings) -> Path:
    """Return the directory of a volume, which the containers of a pod share."""
    path = around.directory / f"volume-{name}"
    if not path.is_dir():
        path.mkdir(parents=True)
        context = pod.spec["securityContext"]
        os.chown(path, context["runAsUser"], context["fsGroup"])
        path.chmod(0o2770)
    return path


def _root(pod: Pod, container: Manifest, around: Surroundings) -> list[list[str]]:
    """Return the commands that make the root file system below `$ROOT`."""
    needed = [PROJECT_DIR, Path(sys.prefix), Path(sys.base_prefix)]
    fresh = _FRESH | {path.parts[1] for path in needed}
    steps: list[list[str]] = [["mount", "-t", "tmpfs", "tmpfs", "$ROOT"]]

    def bind(source: str | Path, place: str | Path, *, writable: bool = False) -> None:
        steps.append(["mkdir", "-p", f"$ROOT{place}"])
        steps.append(["mount", "--rbind", str(source), f"$ROOT{place}"])
        if not writable:
            steps.append(["mount", "-o", "remount,bind,ro", f"$ROOT{place}"])

    for entry in Path("/").iterdir():
        if entry.is_symlink():
            steps.append(["cp", "-P", str(entry), "$ROOT/"])
        elif entry.is_dir() and entry.name not in fresh:
            bind(entry, entry)
    for name in ("sys", "dev"):
        bind(f"/{name}", f"/{name}", writable=True)
    steps += [
        ["mkdir", "-p", "$ROOT/proc", "$ROOT/tmp", "$ROOT/run", "$ROOT/var"],
        ["mount", "-t", "proc", "proc", "$ROOT/proc"],
    ]
    for mount in container.get("volumeMounts", ()):
        if mount["mountPath"] == "/dev/shm":
            steps.append(["mount", "-t", "tmpfs", "-o", "mode=1777", "shm", "$ROOT/dev/shm"])
        else:
            source = _volume(pod, mount["name"], around)
            bind(source, mount["mountPath"], writable=not mount.get("readOnly", False))
    for path in needed:
        bind(path, path)
    bind(PROJECT_DIR, "/opt/hydraulic")
    if around.account is not None and pod.spec["automountServiceAccountToken"]:
        bind(around.account, ACCOUNT)
    for name, text in _etc(around.hosts).items():
        path = around.directory / f"etc-{name}"
        path.write_text(text)
        steps.append(["mount", "--bind", str(path), f"$ROOT/etc/{name}"])
    steps.append(["mount", "-o", "remount,ro", "$ROOT"])
    return steps


def _etc(hosts: Mapping[str, str]) -> dict[str, str]:
    known = {socket.gethostname(): "127.0.0.1", **hosts}
    names = "".join(f"{address} {name}\n" for name, address in known.items())
    return {
        "passwd": "root:x:0:0::/root:/bin/sh\nhydraulic:x:10001:10001::/tmp:/bin/sh\n",
        "hosts": f"127.0.0.1 localhost\n{names}",
    }


def _script(pod: Pod, container: Manifest, around: Surroundings, words: Sequence[str]) -> str:
    root = around.directory / f"root-{container['name']}"
    root.mkdir(exist_ok=True)
    steps = [
        " ".join(shlex.quote(word.replace("$ROOT", str(root))) for word in step)
        for step in _root(pod, container, around)
    ]
    context = pod.spec["securityContext"]
    run = [
        "setpriv", f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}",
        f"--groups={context['fsGroup']}", "--inh-caps=-all", "--bounding-set=-all",
        "--no-new-privs", "--", *words,
    ]  # fmt: skip
    variables = environment(container, around)
    inside = shlex.join(
        ["env", "-i", *(f"{key}={value}" for key, value in variables.items()), *run]
    )
    enter = shlex.join(["chroot", str(root), "/bin/sh", "-c", f"cd /opt/hydraulic; exec {inside}"])
    return "\n".join(["set -eu", *steps, f"exec {enter}"])


@contextlib.contextmanager
def started(
    pod: Pod, container: Manifest, around: Surroundings, words: Sequence[str] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Start a container; what it started is killed with it at the end of the context.

    Args:
        pod: that has the container.
        container: of the manifest.
        around: what the cluster gives.
        words: command of a container whose command KubeRay makes; None for that of the manifest.
    """
    if words is None:
        words = command(container, environment(container, around))
    script = _script(pod, container, around, words)
    enter = ["ip", "netns", "exec", around.namespace] if around.namespace else []
    unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "/bin/bash", "-c"]
    log = around.directory / f"{container['name']}.log"
    with log.open("w") as written:
        process = subprocess.Popen(
            [*enter, *unshare, script], stdin=subprocess.DEVNULL, stdout=written, stderr=written,
            text=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        # all others end with process 1; --kill-child is lost when the container changes its user
        with contextlib.suppress(psutil.NoSuchProcess):
            for first in psutil.Process(process.pid).children():
                first.kill()
        if process.poll() is None:
            process.kill()
        process.wait()


def terminate(process: "subprocess.Popen[str]") -> None:
    """Send SIGTERM to process 1 of a container, as a kubelet does."""
    (first,) = psutil.Process(process.pid).children()
    first.terminate()


def run(
    pod: Pod,
    container: Manifest,
    around: Surroundings,
    words: Sequence[str] | None = None,
    limit_s: float = 300,
) -> tuple[int, str]:
    """Run a container to its end; return its exit status and what it printed."""
    with started(pod, container, around, words) as process:
        status = process.wait(limit_s)
    return status, (around.directory / f"{container['name']}.log").read_text()


def named(containers: Sequence[Any], name: str) -> Manifest:
    """Return the container of a name."""
    found: Manifest = next(each for each in containers if each["name"] == name)
    return found
