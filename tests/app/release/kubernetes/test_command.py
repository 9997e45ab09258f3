"""`hydraulic release` as processes: what a signal or SIGKILL leaves in the RayService."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from app.core.settings import Settings
from tests.app.release.fake_cluster import FakeCluster
from tests.app.release.kubernetes.conftest import PLACE, stored
from tests.kuberay import Operator
from tests.kubernetes_api import ApiServer
from tests.system import PROJECT_DIR

Command = Callable[..., Awaitable[Process]]


@pytest.fixture
async def release(
    settings: Settings, operator: Operator, cluster: FakeCluster, dashboard: str, database_dsn: str
) -> Command:
    """Start `hydraulic release`; what is started runs once KubeRay has applied the text."""
    variables = {
        "HYDRAULIC_API_KEY": "x" * 32,
        "HYDRAULIC_DSN": database_dsn,
        "HYDRAULIC_VAR_DIR": str(settings.var_dir),
        "HYDRAULIC_RAYSERVICE": PLACE,
        "HYDRAULIC_KUBERNETES_URL": str(settings.kubernetes_url),
        "HYDRAULIC_KUBERNETES_TOKEN_FILE": str(settings.kubernetes_token_file),
        "RAY_DASHBOARD_ADDRESS": dashboard,
        "PYTHONPATH": str(PROJECT_DIR),
    }

    async def start(*arguments: str) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli.main", "release", *arguments),
            *(() if arguments[0] == "show" else ("--url", dashboard)),
            cwd=PROJECT_DIR,
            env=os.environ | variables,
            stdout=PIPE,
            stderr=PIPE,
        )

    async with asyncio.timeout(30):
        while not cluster.weights:
            await asyncio.sleep(0.02)
    return start


async def test_terminated_promotion_restores_the_text(
    release: Command, server: ApiServer, cluster: FakeCluster, text: str
):
    promoting = await release("promote", "2", "--steps", "10,100", "--hold", "600s")
    async with asyncio.timeout(120):
        while cluster.weights != {"1": 90, "2": 10} and promoting.returncode is None:
            await asyncio.sleep(0.05)
        promoting.send_signal(signal.SIGTERM)
        out, err = await promoting.communicate()
    assert (promoting.returncode, b"interrupted at weight 10" in out) == (143, True), (out, err)
    assert (stored(server), cluster.weights) == (text, {"1": 100, "2": 0})


async def test_lease_of_a_killed_command_is_waited_for_by_a_rollback(
    release: Command, server: ApiServer, cluster: FakeCluster, text: str, operator: Operator
):
    async with asyncio.timeout(240):
        first = await release("split", "1=90", "2=10")
        assert await first.wait() == 0, await first.communicate()
        operator.stopped = True
        second = await release("split", "1=50", "2=50", "--actor", "bob")
        while "weight: 50" not in stored(server) and second.returncode is None:
            await asyncio.sleep(0.05)
        second.kill()
        await second.communicate()
        operator.stopped = False
        third = await release("split", "1=40", "2=60")
        _, err = await third.communicate()
        assert (third.returncode, b"split by bob, process" in err) == (1, True), err
        assert b"s if it was killed" in err
        # its change was not recorded, so that the weights of the history are restored
        rolling_back = await release("rollback")
        out, err = await rolling_back.communicate()
        assert rolling_back.returncode == 0, (out, err)
        assert cluster.weights == {"1": 90, "2": 10}
        shown = await release("show")
        out, _ = await shown.communicate()
    assert out.decode() == stored(server)
    assert text != stored(server)


async def test_missing_right_is_an_error_of_one_line(
    release: Command, server: ApiServer, tmp_path: Path
):
    server.rights = {}
    process = await release("status")
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert (process.returncode, err.count(b"\n")) == (1, 1), err
    assert b"status 401" in err
