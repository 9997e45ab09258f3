"""Commands that are ended by a signal revert their changes."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.release.config.file import ConfigFile
from tests.app.release.fake_cluster import FakeCluster, serving
from tests.system import PROJECT_DIR


@pytest.fixture
def url(cluster: FakeCluster) -> Iterator[str]:
    """The cluster behind a real server: the dashboard and the service at one address."""
    with serving(cluster) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_terminated_promotion_rolls_back(
    cluster: FakeCluster,
    path: Path,
    url: str,
    database_dsn: str,
    tmp_path: Path,
    ending: signal.Signals,
    status: int,
):
    cluster.put(ConfigFile(path).read().data)  # type: ignore[arg-type]
    before = path.read_text()
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "app.cli.main",
            "release",
            "promote",
            "2",
            "--steps",
            "10,100",
            "--hold",
            "600s",
        ),
        *(
            "--guard",
            "errors<1%,disagreement<5%",
            "--config",
            str(path),
            "--address",
            url,
            "--url",
            url,
        ),
        cwd=PROJECT_DIR,
        env=os.environ
        | {
            "HYDRAULIC_API_KEY": "x" * 32,
            "HYDRAULIC_DSN": database_dsn,
            "HYDRAULIC_VAR_DIR": str(tmp_path / "var"),
            "PYTHONPATH": str(PROJECT_DIR),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        while cluster.weights != {"1": 90, "2": 10} and process.returncode is None:
            await asyncio.sleep(0.05)
        assert cluster.shadows == ["2", "1"]
        process.send_signal(ending)
        if ending is signal.SIGTERM:
            process.send_signal(ending)  # a second one must not interrupt the rollback
        out, err = await process.communicate()
    assert process.returncode == status, (out, err)
    assert b"interrupted at weight 10" in out
    assert path.read_text() == before
    assert (cluster.weights, cluster.shadows) == ({"1": 100, "2": 0}, [])
