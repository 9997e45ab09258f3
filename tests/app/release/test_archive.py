"""Archives of checkpoints: what is unpacked, and what is refused before anything is written."""

import gzip
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.checkpoint.manifest import MANIFEST, METRICS
from app.core.errors import InputError, LimitExceeded
from app.core.settings import PROJECT_DIR
from app.release import archive
from app.release.archive import unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SHIPPED = PROJECT_DIR / "app" / "weights" / "2"
Change = Callable[[tarfile.TarFile], object]


def packed(path: Path, change: Change | None = None, without: tuple[str, ...] = ()) -> Path:
    """Write an archive of the shipped checkpoint with another member at its end."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(SHIPPED.iterdir()):
            if file.name not in without:
                tar.add(file, arcname=file.name)
        if change is not None:
            change(tar)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> Change:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, size
        tar.addfile(info, io.BytesIO(b"x" * size))

    return add


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd", "of the tar command"])
def test_checkpoint_is_unpacked_unchanged(tmp_path: Path, kind: str):
    path = tmp_path / "archive"
    if kind == "of the tar command":
        subprocess.run(["tar", "-C", str(SHIPPED), "-cf", str(path), "."], check=True)
    else:
        packed(path)
    if kind == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    if kind == "zstd":
        path.write_bytes(zstd.compress(path.read_bytes()))
    (directory := tmp_path / "into").mkdir()
    assert unpack(path, directory).version == "2"
    found = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert found == {file.name: file.read_bytes() for file in SHIPPED.iterdir()}


@pytest.mark.parametrize(
    "change",
    [
        member("/tmp/evil"),
        member("../evil"),
        member("a/evil"),
        member("a/../../evil"),
        member(".hidden"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.LNKTYPE, MANIFEST),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("folder", tarfile.DIRTYPE),
        member(METRICS),
        member("extra.pkl"),
        member("x" * 80 + "/" + "y" * 80_000),
    ],
    ids=[
        "absolute", "parent", "nested", "climbing", "hidden", "symbolic link", "hard link",
        "device", "pipe", "directory", "twice", "not stated", "long header",
    ],
)  # fmt: skip
def test_member_that_is_no_file_of_the_checkpoint_is_refused(tmp_path: Path, change: Change):
    (directory := tmp_path / "into").mkdir()
    with pytest.raises(InputError, match="expected"):
        unpack(packed(tmp_path / "archive", change), directory)
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "into"}
    assert not any(path.is_symlink() for path in directory.iterdir())
    assert sum(path.stat().st_size for path in directory.iterdir()) < 10_000_000


def test_changed_missing_or_cut_file_is_named(tmp_path: Path):
    def refused(path: Path) -> str:
        directory = tmp_path / f"into-{path.name}"
        directory.mkdir()
        with pytest.raises(InputError) as caught:
            unpack(path, directory)
        assert str(tmp_path) not in caught.value.message
        return caught.value.message

    changed = packed(tmp_path / "changed", member(METRICS, size=3), without=(METRICS,))
    assert "expected 'metrics.json' with SHA-256" in refused(changed)
    absent = packed(tmp_path / "absent", without=(METRICS, "network.onnx"))
    assert "found no metrics.json, network.onnx" in refused(absent)
    assert "found calibration.json" in refused(packed(tmp_path / "bare", without=(MANIFEST,)))
    unreadable = packed(tmp_path / "unreadable", member(MANIFEST, size=9), without=(MANIFEST,))
    assert "the manifest of a checkpoint, found another content" in refused(unreadable)
    whole = packed(tmp_path / "whole").read_bytes()
    for name, content in (
        ("cut", whole[:100_000]),
        ("cut.gz", gzip.compress(whole)[:100_000]),
        ("cut.zst", zstd.compress(whole)[:100_000]),
        ("text", b"no archive"),
    ):
        (tmp_path / name).write_bytes(content)
        assert "or a part of one" in refused(tmp_path / name)


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
def test_archive_that_grows_beyond_the_limit_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]
):
    monkeypatch.setattr(archive, "MAX_BYTES", 1_000_000)
    path, directory = tmp_path / "archive", tmp_path / "into"
    with tarfile.open(path, "w") as tar:
        member("zeros", size=30_000_000)(tar)
    path.write_bytes(compress(path.read_bytes()))
    directory.mkdir()
    with pytest.raises(LimitExceeded, match="at most 1000000 bytes when unpacked"):
        unpack(path, directory)
    assert sum(file.stat().st_size for file in directory.iterdir()) <= 1_000_000


def test_many_files_are_refused(tmp_path: Path):
    def many(tar: tarfile.TarFile) -> None:
        for number in range(archive.MAX_FILES):
            member(f"file-{number}")(tar)

    (directory := tmp_path / "into").mkdir()
    with pytest.raises(LimitExceeded, match="at most 64 files"):
        unpack(packed(tmp_path / "archive", many), directory)
