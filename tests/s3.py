"""An S3 server, moto's, in a process of its own, with one bucket."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.system import free_port
from tests.waiting import wait_until

BUCKET = "plant"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextlib.contextmanager
def s3_server(log_path: Path, host: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Start a server and stop it.

    Args:
        log_path: file of its output.
        host: address that it listens on.

    Yields:
        The variables with which its bucket can be read and written.
    """
    port = free_port()
    url = f"http://{host}:{port}"
    program = Path(sys.executable).with_name("moto_server")
    with log_path.open("wb") as log:
        process = subprocess.Popen([program, "-H", host, "-p", str(port)], stdout=log, stderr=log)
    try:
        wait_until(lambda: _has_made_bucket(url), f"an S3 server at {url}", 120, 0.2)
        yield {**CREDENTIALS, "AWS_ENDPOINT_URL": url}
    finally:
        process.terminate()
        process.wait()


def _has_made_bucket(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        # moto does not check signatures
        return httpx.put(f"{url}/{BUCKET}", timeout=10).status_code == 200
    return False
