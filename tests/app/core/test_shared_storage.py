"""Shared storage by URL, on a real S3 server, and the errors of one that can't be used."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem
from upath import UPath

from app.core.errors import SettingsError
from app.core.settings import Settings
from app.core.shared_storage import (
    copy_to,
    local_copy,
    open_url,
    remove_tree,
    storage_root,
    write_whole,
)
from tests.s3 import BUCKET, s3_server
from tests.system import free_port

URL = f"s3://{BUCKET}/hydraulic"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as variables:
        yield variables


@pytest.fixture(autouse=True)
def environment(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()


def test_without_a_url_trainings_write_to_var(tmp_path: Path) -> None:
    assert storage_root(Settings(var_dir=tmp_path)) == tmp_path


def test_directory_comes_back_from_storage_and_its_last_file_is_copied_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, place = tmp_path / "1", storage_root(Settings(storage_url=URL)) / "checkpoints" / "1"
    (directory / "deep").mkdir(parents=True)
    files = {"a.json": b"{}", "checkpoint.json": b"last", "deep/b": bytes(300_000)}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    written: list[str] = []

    def write(path: UPath, data: bytes) -> None:
        written.append(path.name)
        write_whole(path, data)

    monkeypatch.setattr("app.core.shared_storage.write_whole", write)
    copy_to(directory, place, "checkpoint.json")
    assert sorted(written) == ["a.json", "b", "checkpoint.json"]
    assert written[-1] == "checkpoint.json"
    with local_copy(f"{URL}/checkpoints/1") as copy:
        assert copy.name == "1"
        found = {
            str(path.relative_to(copy)): path.read_bytes()
            for path in copy.rglob("*")
            if path.is_file()
        }
    assert found == files
    assert not copy.exists()
    remove_tree(place)
    remove_tree(place)
    assert not place.exists()


def test_place_without_files_is_named() -> None:
    with (
        pytest.raises(SettingsError, match=rf"expected files .* below '{URL}/none', found none"),
        local_copy(f"{URL}/none"),
    ):
        pass


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../../b"])
def test_object_whose_name_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    open_url(URL).fs.pipe_file(f"{BUCKET}/hydraulic/bad/{name}", b"x")
    with (
        pytest.raises(SettingsError, match=r"has '\.\.' in its name"),
        local_copy(f"{URL}/bad"),
    ):
        pass


def test_bucket_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingsError, match=r"'s3://none/x', found .*: check that it exists and"):
        storage_root(Settings(storage_url="s3://none/x"))


def test_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    S3FileSystem.clear_instance_cache()  # fsspec keeps those of this process
    with pytest.raises(SettingsError, match=r"HYDRAULIC_STORAGE_URL 's3://plant/y', found"):
        storage_root(Settings(storage_url="s3://plant/y"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nothing://x/y", r"\(s3, .*\), such as s3://bucket/prefix, found 'nothing://x/y'"),
        ("memory://x/y", r"found 'memory://x/y': for a directory .* set HYDRAULIC_VAR_DIR"),
        ("file:///shared", r"found 'file:///shared': for a directory .* set HYDRAULIC_VAR_DIR"),
        ("nothing://me:secret@x/y", r"found 'nothing://x/y'"),
        ("s3://me:secret@x/y", r"without a password, found one in 's3://x/y'"),
    ],
)
def test_url_that_is_not_of_shared_storage_is_refused(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        storage_root(Settings(storage_url=url))
    assert "secret" not in str(refused.value)
