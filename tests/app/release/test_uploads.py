"""Uploads of checkpoints over HTTP: real routes, registry, database and registering process."""

import asyncio
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from app.checkpoint.files import load
from app.checkpoint.manifest import MANIFEST, METRICS, sha256_of
from app.core.errors import CheckpointError, SettingsError
from app.core.settings import PROJECT_DIR, Settings
from app.release import commands, registration, uploads
from app.release.service import ReleaseService
from app.release.source import find_placement
from app.schemas.releases import UploadAnswer
from app.store.store import Store

pytestmark = [
    # MLflow's own, at import and on its tables
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def settings(database_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Settings(
        dsn=SecretStr(database_dsn), var_dir=tmp_path / "var", serve_config=tmp_path / "none.yaml"
    )


@pytest.fixture
def release_service(store: Store, settings: Settings) -> ReleaseService:
    return ReleaseService(settings, store, lambda: "http://127.0.0.1:1")


def packed(directory: Path, path: Path, *, without: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(directory.iterdir()):
            if file.name != without:
                tar.add(file, arcname=file.name)
    return path


def left(settings: Settings) -> list[str]:
    """Return the names of what an upload left in its directory."""
    return [path.name for path in (settings.var_dir / uploads.DIRECTORY).iterdir()]


async def test_uploaded_checkpoint_is_registered_once_and_found_for_deployment(
    client: httpx.AsyncClient,
    checkpoints: dict[str, Path],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    # MLflow makes its tables at first, which takes long on a busy machine
    monkeypatch.setattr("app.release.service.DEFAULT_TIMEOUT_S", 600.0)
    archive = packed(checkpoints["model-2"], tmp_path / "archive")

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, archive.stat().st_size, 50_000):
            yield archive.read_bytes()[start : start + 50_000]

    answer = await client.post("/v1/models", content=parts())
    assert answer.status_code == 201, answer.text
    first = answer.json()
    assert (first["state"], first["version"], first["created"]) == ("done", "3", True)
    assert first["digest"] == sha256_of(checkpoints["model-2"] / MANIFEST)
    assert "hashes, shapes and feature spec are consistent" in first["said"][0]
    assert any("every health is finite" in line for line in first["said"])
    answer = await client.post("/v1/models", content=archive.read_bytes())
    assert (answer.status_code, answer.json()["version"]) == (200, "3")
    shipped = packed(PROJECT_DIR / "app" / "weights" / "2", tmp_path / "shipped")
    answer = await client.post("/v1/models", content=shipped.read_bytes())
    assert (answer.status_code, answer.json()["version"]) == (200, "2")
    assert left(settings) == []
    placement = await asyncio.to_thread(find_placement, "3", None, None, settings)
    assert placement.checkpoint == "registry:3"


async def test_without_mlflow_a_checkpoint_is_named_by_its_content(
    store: Store,
    checkpoints: dict[str, Path],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
):
    await store.ping()
    monkeypatch.setattr(registration, "find_spec", lambda _: None)
    lines: list[str] = []
    source = checkpoints["model-1"]
    found = await registration.register_once(source, settings, lines.append)
    assert (found.created, found.version) == (True, f"u{sha256_of(source / MANIFEST)[:12]}")
    again = await registration.register_once(source, settings, lines.append)
    assert again == registration.Registered(found.version, created=False)
    placement = await asyncio.to_thread(find_placement, found.version, None, None, settings)
    assert placement.checkpoint == f"registry:{found.version}"
    assert load(settings.var_dir / "models" / found.version).manifest.version == found.version
    with pytest.raises(CheckpointError, match="expected version u0 among the shipped or"):
        await asyncio.to_thread(find_placement, "u0", None, None, settings)


async def test_command_registers_without_mlflow_unless_a_run_or_a_server_is_named(
    store: Store,
    checkpoints: dict[str, Path],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
):
    await store.ping()
    for module in (commands, registration):
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    monkeypatch.setattr(commands, "Settings", lambda: settings)
    lines: list[str] = []
    source = str(checkpoints["model-1"])
    await commands.register(source, None, lines.append, dry_run=False)
    assert lines[-1].startswith("registered as version u")
    opened: list[Settings] = []

    def refuse(of: Settings) -> None:
        opened.append(of)
        raise SettingsError("expected the extra 'release'")

    monkeypatch.setattr(commands, "open_registry", refuse)
    with pytest.raises(SettingsError):
        await commands.register(source, "run-1", lines.append, dry_run=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(SettingsError):
        await commands.register(source, None, lines.append, dry_run=False)
    assert len(opened) == 2


async def test_upload_that_a_pod_would_lose_is_refused(
    checkpoints: dict[str, Path], settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registration, "find_spec", lambda _: None)
    pod = settings.model_copy(update={"rayservice": "plant/diagnostics"})
    with pytest.raises(SettingsError, match="a pod loses what it keeps"):
        await registration.register_once(checkpoints["model-1"], pod, print)


async def test_archive_that_is_no_checkpoint_is_refused_and_removed(
    client: httpx.AsyncClient,
    checkpoints: dict[str, Path],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    partial = packed(checkpoints["model-1"], tmp_path / "archive", without=METRICS)
    answer = await client.post("/v1/models", content=partial.read_bytes())
    assert (answer.status_code, answer.json()["field"]) == (422, "body")
    assert "found no metrics.json" in answer.json()["detail"]
    answer = await client.post("/v1/models")
    assert (answer.status_code, "found none" in answer.json()["detail"]) == (422, True)
    monkeypatch.setattr(uploads, "MAX_BYTES", 1_000)
    answer = await client.post("/v1/models", content=partial.read_bytes())
    assert (answer.status_code, "at most 1000 bytes" in answer.json()["detail"]) == (413, True)
    assert left(settings) == []


async def test_long_registration_is_answered_as_running_and_read_by_another_upload(
    client: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    go_on, calls = asyncio.Event(), []

    async def register(archive: Path, _: Settings) -> UploadAnswer:
        calls.append(archive)
        await go_on.wait()
        archive.unlink()
        return UploadAnswer(state="done", version="7", created=True)

    monkeypatch.setattr(uploads, "register", register)
    monkeypatch.setattr("app.release.service.DEFAULT_TIMEOUT_S", 0.0)
    for _ in range(2):
        answer = await client.post("/v1/models", content=b"archive")
        assert (answer.status_code, answer.json()["version"]) == (202, None)
    assert len(calls) == 1
    go_on.set()
    answer = await client.post("/v1/models", content=b"archive")
    assert (answer.status_code, answer.json()["version"]) == (201, "7")
    assert left(settings) == []


async def test_one_upload_is_received_at_a_time(client: httpx.AsyncClient):
    begun, end = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        begun.set()
        await end.wait()

    first = asyncio.create_task(client.post("/v1/models", content=slow()))
    await begun.wait()
    answer = await client.post("/v1/models", content=b"b")
    assert (answer.status_code, "no other upload" in answer.json()["detail"]) == (409, True)
    end.set()
    assert (await first).status_code == 422


async def test_upload_needs_an_admin_key(
    client: httpx.AsyncClient, store: Store, settings: Settings
):
    reader = (await store.create_key("reader", ["read", "diagnose", "ingest"])).secret
    headers = {"authorization": f"Bearer {reader}"}
    answer = await client.post("/v1/models", content=b"x", headers=headers)
    assert answer.status_code == 403
    assert not (settings.var_dir / uploads.DIRECTORY).exists()
