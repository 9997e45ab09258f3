"""Builds the image without a container engine, and runs it as one would: buildah, as root.

The base is made of Debian packages by name. A container runs with chroot isolation in namespaces of
its own for network, processes and mounts, so that it meets no other service of this machine, and
nothing of it is left when it ends. Its root file system is read-only but for the volume and /tmp.
"""

import contextlib
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.cluster.monitoring.debian import installed
from tests.lock_check import pip_settings
from tests.system import PROJECT_DIR

BASE, IMAGE = "localhost/hydraulic-base", "localhost/hydraulic-diagnostics:serve"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates", "libstdc++6")
"""What an official image of Python has too."""
UID = 10001
FILES = min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
"""Most open files of a container: no more than this machine allows."""
CA_BUNDLE = "/run/ca_bundle.crt"
_CONFIGURED = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "timeout")
# buildah makes these when it starts a container, which a read-only root does not allow
_MOUNTPOINTS = ("run/.containerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf")


def local_directories(settings: Mapping[str, str]) -> list[Path]:
    """Return the directories of this machine that pip's settings name, with their packages."""
    found = []
    for name in ("index-url", "extra-index-url", "find-links"):
        for place in settings.get(name, "").split():
            parts = urlsplit(place)
            if parts.scheme not in ("", "file"):
                continue
            path = Path(parts.path)
            # an index's pages lead to files beside its directory
            found.append(path if name == "find-links" else path.parent)
    return [path for path in dict.fromkeys(found) if path.is_dir() and len(path.parts) > 2]


def pip_conf(settings: Mapping[str, str]) -> str:
    """Return the configuration of pip inside the build, with the authority's certificate there."""
    lines = [f"{name} = {settings[name]}" for name in _CONFIGURED if name in settings]
    if "cert" in settings:
        lines.append(f"cert = {CA_BUNDLE}")
    return "\n".join(("[global]", *lines, ""))


class Buildah:
    """Images and containers below a directory, away from those of the machine."""

    def __init__(self, directory: Path) -> None:
        program = installed("buildah", "buildah")
        self.directory = directory
        places = ["--root", str(directory / "root"), "--runroot", str(directory / "run")]
        # without overlays each layer is a whole copy
        for driver in ("overlay", "vfs"):
            self.command = [program, *places, "--storage-driver", driver]
            if subprocess.run([*self.command, "info"], capture_output=True, check=False).returncode:
                shutil.rmtree(directory / "root", ignore_errors=True)
            else:
                break
        self.driver = driver

    def __call__(self, *arguments: str, timeout_s: float = 900, **variables: str) -> str:
        """Run a command of buildah and return its output."""
        done = subprocess.run(
            [*self.command, *arguments],
            cwd=PROJECT_DIR,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        assert done.returncode == 0, (
            f"buildah {arguments[0]}:\n{(done.stdout + done.stderr)[-6000:]}"
        )
        return done.stdout

    def make_base(self) -> None:
        """Make the base of Debian packages, of this machine's release."""
        archive = self.directory / "base.tar"
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
        command = [installed("mmdebstrap", "mmdebstrap"), "--quiet", "--variant=essential"]
        command += ["--dpkgopt=force-unsafe-io"]  # nothing has to survive a power failure
        command += [f"--include={','.join(BASE_PACKAGES)}"]
        command += [
            f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")
        ]
        done = subprocess.run(
            [*command, release, str(archive)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        recipe = self.directory / "Dockerfile"
        recipe.write_text(f"FROM scratch\nADD {archive.name} /\n")
        self("bud", "--tag", BASE, "--file", str(recipe), str(self.directory))
        archive.unlink()

    def build(self, target: str, tag: str, **arguments: str) -> None:
        """Build a target of the project's Dockerfile on the base."""
        settings = pip_settings()
        secret = self.directory / "pip.conf"
        secret.write_text(pip_conf(settings))
        options = ["--isolation", "chroot", "--format", "docker"]
        options += ["--secret", f"id=pip_conf,src={secret}"]
        if "cert" in settings:
            options += ["--secret", f"id=ca_bundle,src={settings['cert']}"]
        for path in local_directories(settings):
            options += ["--volume", f"{path}:{path}:ro"]
        for name, value in ({"BASE": BASE} | arguments).items():
            options += ["--build-arg", f"{name}={value}"]
        file = ["--file", "cluster/Dockerfile", "--ignorefile", ".dockerignore"]
        self("bud", *options, *file, "--target", target, "--tag", tag, ".")

    def inspect(self, image: str) -> dict[str, Any]:
        """Return the configuration of an image."""
        found: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))["Docker"]
        return found

    def remove_all(self) -> None:
        """Remove containers and images, and what they have mounted."""
        self("rm", "--all")
        self("rmi", "--all", "--force")


@dataclass(frozen=True)
class Container:
    """A running container."""

    command: Sequence[str]
    environment: Sequence[str]
    process: "subprocess.Popen[bytes]"
    log_path: Path

    def _first(self) -> psutil.Process:
        """Return the process of the container's command.

        Raises:
            AssertionError: it does not run.
        """
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error, ValueError):
                program, *arguments = process.cmdline()
                # buildah resolves the program's name; its own helper has it as an argument
                same = Path(program).name == self.command[0]
                if same and arguments == list(self.command[1:]):
                    return process
        raise AssertionError(f"the container's command does not run:\n{self.log()}")

    def run(self, *command: str, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command in the container, as its user, with the image's environment.

        A second `buildah run` would do, but ends with a panic where the root is read-only.
        """
        user = [f"--setuid={UID}", f"--setgid={UID}", "--root", "--wd", "--mount"]
        environment = ["/usr/bin/env", "--ignore-environment", *self.environment]
        return self._entered([*user, "--", *environment, *command], timeout_s)

    def python(self, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python of this machine in the container's network."""
        return self._entered(["--", sys.executable, "-c", code, *arguments], 60)

    def _entered(self, arguments: Sequence[str], timeout_s: float) -> Any:
        enter = ["nsenter", f"--target={self._first().pid}", "--net", "--pid"]
        return subprocess.run(
            [*enter, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s
        )

    def wait_until(self, command: Sequence[str], limit_s: float) -> None:
        """Wait until a command in the container succeeds."""
        give_up = time.monotonic() + limit_s
        while True:
            assert self.process.poll() is None, self.log()
            reason = "the command has not been started"
            with contextlib.suppress(AssertionError):  # buildah has not started it yet
                done = self.run(*command)
                if done.returncode == 0:
                    return
                reason = done.stderr[-2000:]
            assert time.monotonic() < give_up, f"{reason}\n{self.log()}"
            time.sleep(1)

    def stop(self, limit_s: float) -> None:
        """Send SIGTERM to the container's command, as an engine does, and wait for the end."""
        self._first().send_signal(signal.SIGTERM)
        self.process.wait(limit_s)

    def log(self) -> str:
        """Return the end of what the container printed."""
        return self.log_path.read_text(errors="replace")[-6000:]


@contextlib.contextmanager
def started(buildah: Buildah, image: str, directory: Path) -> Iterator[Container]:
    """Start the command of an image, with /tmp below a directory; its volume is buildah's."""
    config = buildah.inspect(image)["config"]
    command = config["Cmd"]
    # buildah's limit of open files is 1024, engines' and the compose file's are higher
    name = buildah("from", "--pull-never", "--ulimit", f"nofile={FILES}:{FILES}", image).strip()
    root = Path(buildah("mount", name).strip())
    for place in _MOUNTPOINTS:
        (root / place).touch()
    tmp_dir, log_path = directory / "tmp", directory / "log"
    tmp_dir.mkdir()
    tmp_dir.chmod(0o1777)
    options = ["--isolation", "chroot", "--volume", f"{tmp_dir}:/tmp"]
    ip = installed("ip", "iproute2")
    script = f'{ip} link set lo up && mount -o remount,bind,ro "$0" && "$@"'
    namespaces = ["unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child"]
    run = [*buildah.command, "run", *options, name, "--", *command]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*namespaces, "bash", "-c", script, str(root), *run],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield Container(command, config["Env"], process, log_path)
    finally:
        with contextlib.suppress(psutil.Error):
            for each in psutil.Process(process.pid).children():
                each.kill()  # the first process of the namespace, and with it all others
        process.kill()
        process.wait()
        buildah("umount", name)
