"""Unpacks an uploaded checkpoint: a tar archive, plain or compressed, of exactly its files.

Invariant: only regular files with plain names are written, at most `MAX_BYTES` of them, all inside
the given directory; the directory is used only when every file has the SHA-256 that the manifest
states. Nothing is loaded here.
"""

import gzip
import io
import re
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from pydantic import ValidationError

from app.checkpoint.manifest import MANIFEST, REQUIRED, Manifest, sha256_of
from app.core.errors import InputError, LimitExceeded
from app.schemas.places import shown

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BYTES = 512 * 1024 * 1024
"""Of the archive, and of everything that it holds."""
MAX_FILES = 64
MAX_HEADER_BYTES = 64 * 1024
"""Of an extended header of tar, which is held in memory."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 25}
"""Windows of at most 32 MiB, which decompression holds in memory."""
_BLOCK = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ADVICE = "pack it with `tar -C CHECKPOINT -c .`"
_EXTENDED = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}


class _Member(tarfile.TarInfo):
    """A member whose extended headers are bounded: `tarfile` reads them whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse a header."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _EXTENDED and found.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header is too long")
        return found


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes."""


class _Bounded(io.RawIOBase):
    """Reads a stream up to `MAX_BYTES`."""

    def __init__(self, source: _Readable) -> None:
        super().__init__()
        self._source = source
        self._left = MAX_BYTES

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes."""
        part = self._source.read(min(size, _BLOCK) if size >= 0 else _BLOCK)
        self._left -= len(part)
        if self._left < 0:
            raise LimitExceeded(
                f"expected an archive of at most {MAX_BYTES} bytes when unpacked, found more: "
                "upload one checkpoint",
                "body",
            )
        return part


def unpack(archive: Path, directory: Path) -> Manifest:
    """Unpack a checkpoint and verify its files.

    Args:
        archive: tar, also compressed with gzip or zstd.
        directory: exists and is empty.

    Returns:
        The manifest.

    Raises:
        InputError: it is no such archive, a member is no plain file, a name appears twice, or the
            files are not those of the manifest.
        LimitExceeded: it is larger than `MAX_BYTES` when unpacked, or has too many files.
    """
    try:
        with (
            archive.open("rb") as file,
            _decompressed(file) as stream,
            tarfile.open(fileobj=_Bounded(stream), mode="r|", tarinfo=_Member) as tar,
        ):
            for member in tar:
                if (name := _checked_name(member)) is not None:
                    _write(tar, member, name, directory)
    except (tarfile.TarError, zlib.error, zstd.ZstdError, EOFError, gzip.BadGzipFile) as error:
        raise InputError(
            "expected a tar archive of a checkpoint, also compressed with gzip or zstd, found "
            f"another content or a part of one: {_ADVICE}",
            "body",
        ) from error
    return check_files(directory)


def check_files(directory: Path) -> Manifest:
    """Check that a directory holds exactly the files of its manifest, and return the manifest.

    Raises:
        InputError: it does not.
    """
    names = {path.name for path in directory.iterdir()}
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"expected {MANIFEST} in the archive, found {_listed(names)}: {_ADVICE}", MANIFEST
        ) from error
    except ValidationError as error:
        raise InputError(
            f"expected {MANIFEST} to be the manifest of a checkpoint, found another content: take "
            "it again from where it was trained",
            MANIFEST,
        ) from error
    stated = {MANIFEST, *manifest.sha256}
    absent, unknown = sorted({*stated, *REQUIRED} - names), sorted(names - stated)
    if absent or unknown:
        parts = [f"no {_listed(absent)}"] * bool(absent)
        parts += [f"{_listed(unknown)}, which it does not state"] * bool(unknown)
        raise InputError(
            f"expected exactly the files that {MANIFEST} states, found {' and '.join(parts)}: "
            f"{_ADVICE}",
            "body",
        )
    for name, digest in manifest.sha256.items():
        if (found := sha256_of(directory / name)) != digest:
            raise InputError(
                f"expected '{name}' with SHA-256 {digest}, found {found}: it was changed or cut "
                "after the training; take it again from where it was trained",
                name,
            )
    return manifest


@contextmanager
def _decompressed(file: BinaryIO) -> Iterator[_Readable]:
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=file) as unzipped:
            yield unzipped
    elif magic == _ZSTD_MAGIC:
        with zstd.ZstdFile(file, options=_ZSTD_OPTIONS) as unzipped:
            yield unzipped
    else:
        yield file


def _checked_name(member: tarfile.TarInfo) -> str | None:
    """Return a member's file name; None for the root directory, which `tar -c .` includes."""
    if member.isdir() and member.name in {".", ""}:
        return None
    name = member.name.removeprefix("./")
    is_file = member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and not member.issparse()
    if not is_file or not _NAME.fullmatch(name):
        raise InputError(
            "expected an archive of plain files without directories, found "
            f"{shown(member.name)}{'' if is_file else ', which is no plain file'}: {_ADVICE}",
            "body",
        )
    return name


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, directory: Path) -> None:
    if sum(1 for _ in directory.iterdir()) >= MAX_FILES:
        raise LimitExceeded(
            f"expected at most {MAX_FILES} files in the archive, found more: upload one checkpoint",
            "body",
        )
    source = tar.extractfile(member)
    assert source is not None
    try:
        with (directory / name).open("xb") as file:
            while part := source.read(_BLOCK):
                file.write(part)
    except FileExistsError as error:
        raise InputError(
            f"expected each file once in the archive, found '{name}' twice: {_ADVICE}", "body"
        ) from error


def _listed(names: "set[str] | list[str]") -> str:
    return ", ".join(sorted(names)[:8]) or "no file"
