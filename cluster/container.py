"""What the containers of the images start and check: `python -m cluster.container`.

`head` starts Ray's head node and Serve's applications. The configuration of Serve is a copy on the
volume, since releases edit it; it is made at the first start, and listens on all addresses of the
container. When the container is stopped, Serve ends first, so that what its replicas still have to
write is written. Other nodes are started with `ray start` itself; `check` is for health checks.
"""

import argparse
import asyncio
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cluster.ray_token import close_token

CHECKS = {
    "service": "http://127.0.0.1:8000/health/ready",
    "node": "http://127.0.0.1:52365/api/local_raylet_healthz",
}
"""What each check reads: the service through HAProxy, and the agent of this node's raylet."""
CHECK_TIMEOUT_S = 4.0
DASHBOARD = "http://127.0.0.1:8265"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
HEAD = ("ray", "start", "--head", "--block", "--disable-usage-stats")
OPEN_FILES = 10_276
"""Which Serve's HAProxy needs; it ends at once where it may have fewer."""
ADDRESSES = "0.0.0.0"  # noqa: S104 - of the container, of which only published ports are reachable


def prepare_config(shipped: Path, config: Path) -> bool:
    """Make the configuration that releases may edit from the shipped one, unless it is there.

    Returns:
        Whether it was made.
    """
    if config.exists():
        return False
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # do not break lines
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(shipped.read_text(encoding="utf-8"))
    content["http_options"]["host"] = ADDRESSES
    partial = config.with_name(f".{config.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)
    partial.replace(config)
    return True


def prepare_token(home: Path) -> None:
    """Make the token of Ray's cluster, unless the environment or the home directory has one."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    close_token(home, make=True)
    path = home / ".ray" / "auth_token"
    with suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def raise_open_files() -> None:
    """Let this process and those it starts open as many files as the container allows.

    Raises:
        SystemExit: they are too few for HAProxy.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < OPEN_FILES:
        raise SystemExit(
            f"expected a limit of at least {OPEN_FILES} open files, found {most}: raise it, such "
            "as with `ulimits` of the compose file or `--ulimit nofile=65536:65536`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def check(url: str) -> str:
    """Return why a check fails; an empty text when it does not."""
    try:
        with urllib.request.urlopen(url, timeout=CHECK_TIMEOUT_S):  # noqa: S310 - of CHECKS
            return ""
    except urllib.error.HTTPError as error:
        return f"expected status 200 of {url}, found {error.code}: {error.read(500).decode()}"
    except OSError as error:
        return f"expected an answer of {url}, found {error}: see the container's log"


def head(options: Sequence[str]) -> int:
    """Start a head node with Serve's applications; return the status of `ray start` at its end.

    Args:
        options: further ones of `ray start`.
    """
    from app.core.settings import PROJECT_DIR, Settings

    raise_open_files()
    config = Settings().serve_config
    made = prepare_config(PROJECT_DIR / "serve_config.yaml", config)
    print(f"{config}: {'made from the shipped one' if made else 'kept as it was'}", flush=True)
    prepare_token(Path.home())
    ray = subprocess.Popen(
        [*HEAD, *options],
        # a signal for this process's group must not end Ray before Serve
        start_new_session=True,
    )

    def stop(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        asyncio.run(_deploy(config, ray))
        print("Serve has the configuration; the applications start", flush=True)
        return ray.wait()
    finally:
        # a second signal must not interrupt what follows
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _stop(ray)


async def _deploy(config: Path, ray: "subprocess.Popen[bytes]") -> None:
    """Give Serve the configuration as soon as the dashboard answers."""
    import yaml

    from app.core.errors import ReleaseError
    from app.release.clients.serve_api import ServeApi, ray_token

    give_up = time.monotonic() + START_TIMEOUT_S
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    async with ServeApi(DASHBOARD, ray_token(os.environ, Path.home())) as serve:
        while True:
            if (status := ray.poll()) is not None:
                raise SystemExit(f"expected Ray to run, found that it ended with status {status}")
            try:
                await serve.apply(content)
            except ReleaseError as error:
                if time.monotonic() > give_up:
                    raise SystemExit(error.message) from error
                await asyncio.sleep(0.5)
            else:
                return


def _stop(ray: "subprocess.Popen[bytes]") -> None:
    """End Serve, then Ray."""
    if ray.poll() is not None:
        return
    from app.release.clients.serve_api import APPLICATIONS, ray_token

    token = ray_token(os.environ, Path.home())
    request = urllib.request.Request(DASHBOARD + APPLICATIONS, method="DELETE")  # noqa: S310
    request.add_header("authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=STOP_TIMEOUT_S):  # noqa: S310 - this machine
            print("Serve has ended", flush=True)
    except OSError as error:
        print(f"expected Serve to end in {STOP_TIMEOUT_S:g} s, found {error}", file=sys.stderr)
    ray.terminate()
    with suppress(subprocess.TimeoutExpired):
        ray.wait(STOP_TIMEOUT_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster.container")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser(
        "head", help="start Ray's head node and the applications; takes options of `ray start` too"
    )
    of_check = commands.add_parser("check", help="exit with 1 where the check fails")
    of_check.add_argument("what", choices=sorted(CHECKS))
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    parser = _parser()
    given, options = parser.parse_known_args(arguments)
    if given.command == "head":
        return head(options)
    if options:
        parser.error(f"expected no further arguments of check, found {' '.join(options)}")
    failure = check(CHECKS[given.what])
    if failure:
        print(failure, file=sys.stderr)
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
