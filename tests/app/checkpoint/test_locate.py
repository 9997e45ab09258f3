"""Resolves checkpoints of `serve_config.yaml`: project directories and registered versions."""

import shutil
from pathlib import Path

import pytest

from app.checkpoint import locate as checkpoints
from app.checkpoint.locate import find_checkpoint, run_release_command
from app.core.errors import CheckpointError, ReleaseError
from app.core.settings import PROJECT_DIR, Settings

SHIPPED = PROJECT_DIR / "app" / "weights" / "1"


def test_directory_of_the_project_is_verified(tmp_path: Path):
    settings = Settings(var_dir=tmp_path)
    assert find_checkpoint("app/weights/1", settings) == SHIPPED
    copied = Path(shutil.copytree(SHIPPED, tmp_path / "cut"))
    (copied / "metrics.json").write_text("{}")
    with pytest.raises(CheckpointError, match="SHA-256"):
        find_checkpoint(str(copied), settings)


def test_registered_version_that_was_fetched_is_used(tmp_path: Path):
    (tmp_path / "models").mkdir()
    cached = shutil.copytree(SHIPPED, tmp_path / "models" / "1")
    assert find_checkpoint("registry:1", Settings(var_dir=tmp_path)) == cached


def test_version_that_can_not_be_fetched_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(
        CheckpointError, match="version 9 from the registry, found: expected a registered version"
    ):
        find_checkpoint("registry:9", Settings(var_dir=tmp_path))
    assert not (tmp_path / "models" / "9").exists()


def test_command_that_takes_too_long_is_ended_and_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "FETCH_S", 0.05)
    with pytest.raises(
        ReleaseError, match=r"release check` to end within 0.05 s, found it still running"
    ):
        run_release_command("check", "1")
