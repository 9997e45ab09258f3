"""A fake cluster and a copy of the shipped file."""

import re
import shutil
from pathlib import Path

import pytest

from tests.app.release.fake_cluster import FakeCluster, MemoryHistory
from tests.app.serving.conftest import (  # noqa: F401 - fixtures of the service in this process
    checkpoints,
    client,
    local,
    local_replicas,
    metrics,
    release_service,
    service,
    versions,
)
from tests.system import PROJECT_DIR


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy in which both versions serve one design."""
    path = Path(shutil.copy(PROJECT_DIR / "serve_config.yaml", tmp_path))
    text = path.read_text()
    found = re.sub(r"designs: \[hydraulic-rig, .*\]", "designs: [hydraulic-rig]", text)
    assert found != text
    path.write_text(found)
    return path


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def history() -> MemoryHistory:
    return MemoryHistory()


@pytest.fixture
def lines() -> list[str]:
    return []
