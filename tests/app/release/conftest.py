"""A stage with the project's own file on it."""

import shutil
from pathlib import Path

import pytest

from tests.app.release.stage import Stage, Written
from tests.app.serving.conftest import (  # noqa: F401 - the service in this process, for what it stores
    checkpoints,
    client,
    local,
    metrics,
    release_service,
    service,
    versions,
)
from tests.system import PROJECT_DIR


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(PROJECT_DIR / "serve_config.yaml", tmp_path))


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def said() -> list[str]:
    return []
