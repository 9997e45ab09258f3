"""The HTTP proxy in front of the replicas: a dead one is replaced."""

import os
import signal
import time

import httpx
import psutil
import pytest

from tests.system import System
from tests.waiting import wait_until

pytestmark = pytest.mark.system


def proxies(system: System) -> set[int]:
    """Return the ids of the system's HAProxy processes."""
    found = set()
    for process in system.processes():
        try:
            if process.name() == "haproxy":
                found.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def answers(system: System) -> bool:
    try:
        return httpx.get(f"{system.url}/health/live", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_service_answers_soon_after_its_proxy_was_killed(system: System):
    """Serve's own settings need 20 to 35 s; those of `cluster/ray.env` 3 to 5 on idle cores."""
    wait_until(lambda: len(proxies(system)) == 1, "one proxy, none that still drains", limit_s=180)
    (killed,) = proxies(system)
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: not answers(system), "the proxy to be gone")
    wait_until(lambda: answers(system), "an answer", limit_s=15, pause_s=0.05)
    print(f"back after {time.monotonic() - began:.1f} s")
    assert killed not in proxies(system)
