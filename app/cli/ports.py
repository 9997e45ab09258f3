"""Checks before a start that the ports of the service are free: `python -m app.cli.ports CONFIG`.

Two HAProxy processes share a port without an error, and each then answers for the other's service.
"""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml


class Port(NamedTuple):
    """A port of the service, its purpose, and where it is set."""

    number: int
    purpose: str
    setting: str


RAY_PORTS = (
    Port(9101, "HAProxy's metrics", "RAY_SERVE_HAPROXY_METRICS_PORT"),
    Port(8404, "HAProxy's statistics", "RAY_SERVE_HAPROXY_STATS_PORT"),
    Port(8500, "Serve's fallback proxy", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"),
)


def ports_of(config: Path, environment: Mapping[str, str]) -> list[Port]:
    """Return the ports of a service with this configuration and environment."""
    http = yaml.safe_load(config.read_text(encoding="utf-8"))["http_options"]
    found = [Port(http["port"], "HTTP", f"http_options.port in {config.name}")]
    if environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        found += [
            port._replace(number=int(environment.get(port.setting, port.number)))
            for port in RAY_PORTS
        ]
    return found


def taken(port: Port) -> bool:
    """Return whether a process listens on a port of this machine."""
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port.number)) == 0


def main(config: Path) -> int:
    """Report each port that is taken; return the exit status, 1 when there is one."""
    found = [port for port in ports_of(config, os.environ) if taken(port)]
    for port in found:
        sys.stderr.write(
            f"error: expected port {port.number} to be free for {port.purpose}, found another "
            "process listening on it: stop that process (the service may be running already), or "
            f"set {port.setting}\n"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
