"""Closes what the configuration that Serve writes for HAProxy leaves open to others.

- The admin socket has mode 666 and level admin: any user of the machine could send requests, with
  their keys, to another server. It gets mode 600, in a directory of mode 700 of this user.
- The ports of metrics and statistics listen on all interfaces: they get the loopback one.
- With HYDRAULIC_TLS_CERTIFICATE, HAProxy also answers HTTPS, on HYDRAULIC_TLS_BIND.
"""

import os
import re
import stat
from pathlib import Path

_BIND = re.compile(r"^(\s*bind) (?:\*|0\.0\.0\.0)?:(\d+)$", re.MULTILINE)
_FRONTEND = re.compile(r"^frontend http_frontend\n( *)bind .*\n", re.MULTILINE)
_HEADER = "http-after-response set-header x-content-type-options nosniff"


def with_guards(config: str, certificate: str = "", tls_bind: str = "") -> str:
    """Return Serve's configuration of HAProxy, closed.

    Args:
        config: as Serve wrote it; one that is closed already stays as it is.
        certificate: file with the certificate, its chain and its key (PEM); empty for no HTTPS.
        tls_bind: `address:port` of HTTPS.
    """
    config = config.replace(" mode 666 level admin", " mode 600 level admin")
    parts = re.split(r"^(?=frontend |listen |backend )", config, flags=re.MULTILINE)
    config = "".join(
        _BIND.sub(r"\1 127.0.0.1:\2", part)
        if part.startswith(("frontend prometheus", "listen stats"))
        else part
        for part in parts
    )
    if _HEADER in config:
        return config

    def extended(found: re.Match[str]) -> str:
        lines = [_HEADER]
        if certificate:
            lines.insert(0, f"bind {tls_bind} ssl crt {certificate} ssl-min-ver TLSv1.2")
        return found[0] + "".join(f"{found[1]}{line}\n" for line in lines)

    return _FRONTEND.sub(extended, config)


def close_directories(config: str) -> None:
    """Let nobody but this user enter the directories of HAProxy's sockets.

    Raises:
        SystemExit: such a directory belongs to another user, who could read all requests.
    """
    for name in re.findall(r"^\s*stats socket (\S+)", config, re.MULTILINE):
        directory = Path(name).parent
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise SystemExit(
                f"expected {directory} to be a directory of user {os.geteuid()}, found one of user "
                f"{found.st_uid}: remove it, or set RAY_SERVE_HAPROXY_SOCKET_PATH"
            )
        directory.chmod(0o700)
