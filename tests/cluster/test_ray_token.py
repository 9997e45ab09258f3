"""Ray's token is closed to other users of the machine."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ray_token import close_token


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def left_open(tmp_path: Path) -> Path:
    """The directory as Ray leaves it."""
    directory = tmp_path / ".ray"
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "auth_token").write_text("x")
    return directory


def test_directory_that_ray_left_open_is_closed(left_open: Path):
    close_token(left_open.parent)
    assert mode_of(left_open) == 0o700


def test_each_python_of_the_environment_closes_it(left_open: Path):
    environment = os.environ | {"HOME": str(left_open.parent)}
    subprocess.run([sys.executable, "-c", ""], env=environment, check=True)
    assert mode_of(left_open) == 0o700


def test_directory_is_made_closed_only_where_that_is_requested(tmp_path: Path):
    close_token(tmp_path)
    assert not (tmp_path / ".ray").exists()
    close_token(tmp_path, make=True)
    assert mode_of(tmp_path / ".ray") == 0o700


def test_missing_home_is_left_to_ray(tmp_path: Path):
    close_token(tmp_path / "none", make=True)
    assert not (tmp_path / "none").exists()
