"""Versions that can be deployed, of every place where they may be."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.checkpoint.manifest import MANIFEST
from app.core.errors import ReleaseError
from app.core.settings import Settings
from app.release import catalogue
from app.release.catalogue import CACHE_S, Catalogue, as_json
from app.schemas.releases import RegisteredVersion
from tests.system import PROJECT_DIR

THREE = RegisteredVersion(
    version="3",
    designs=("press",),
    registered_at=datetime(2099, 1, 1, tzinfo=UTC),
    aliases=("challenger",),
    scores={"reference.press.pump": "9/10"},
)


def fetched(var_dir: Path, version: str) -> None:
    """Put a version where one that was uploaded without MLflow is."""
    directory = var_dir / "models" / version
    directory.mkdir(parents=True)
    shutil.copy(PROJECT_DIR / "app" / "weights" / "1" / MANIFEST, directory)
    text = (directory / MANIFEST).read_text()
    (directory / MANIFEST).write_text(text.replace('"version": "1"', f'"version": "{version}"'))


async def test_shipped_and_fetched_versions_are_known_without_a_registry(tmp_path: Path):
    fetched(tmp_path, "u0123456789ab")
    (tmp_path / "models" / "half").mkdir()
    found = await Catalogue(Settings(var_dir=tmp_path)).versions()
    assert {each.version for each in found} == {"1", "2", "u0123456789ab"}
    assert all("hydraulic-rig" in each.designs for each in found)


async def test_registry_is_read_at_most_once_in_a_while_and_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now, calls = [0.0], []

    def run(*arguments: str) -> str:
        calls.append(arguments)
        return "a warning of a library\n" + as_json((THREE,)) + "\n"

    monkeypatch.setattr(catalogue, "run_release_command", run)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry")
    fetched(tmp_path, "3")
    versions = Catalogue(Settings(var_dir=tmp_path), lambda: now[0])
    first, *shipped = [each.version for each in await versions.versions()]
    assert (first, sorted(shipped)) == ("3", ["1", "2"])
    assert (await versions.versions())[0] == THREE
    now[0] = CACHE_S
    await versions.versions()
    assert calls == [("registered",)] * 2


async def test_other_output_of_the_registry_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(catalogue, "run_release_command", lambda *_: "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry")
    with pytest.raises(ReleaseError, match="expected the versions of the registry"):
        await Catalogue(Settings(var_dir=tmp_path)).versions()
