"""Reads and writes what trainings keep, in a directory or below a URL of object storage.

fsspec gives a URL such as `s3://bucket/prefix` the methods of a path, so both are read and written
in the same way; importing this module needs the extra `train`. Invariant: a file that has its final
name is whole.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.fs
from upath import UPath

from app.core.errors import SettingsError
from app.core.settings import Settings, without_passwords

StoragePath = Path | UPath
"""A directory or file: a path of this machine, or below a URL of object storage."""
PROTOCOLS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
"""Storage of objects, which appear whole; fsspec has a package for each."""
CREDENTIALS = (
    "the credentials of this process; for S3 they are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "and AWS_ENDPOINT_URL names another server than Amazon's"
)


def storage_root(settings: Settings) -> StoragePath:
    """Return the directory below which trainings write: that of the URL, else `var`.

    Raises:
        SettingsError: the URL is of no known kind, or can't be written.
    """
    if settings.storage_url is None:
        return settings.var_dir
    found = open_url(settings.storage_url)
    probe = found / ".probe"
    try:
        write_whole(probe, b"")
        probe.unlink()
    except Exception as error:  # each kind of storage has errors of its own
        raise SettingsError(
            "expected object storage that can be written and cleaned at HYDRAULIC_STORAGE_URL "
            f"'{without_passwords(settings.storage_url)}', found {type(error).__name__}: "
            f"{without_passwords(str(error))}: check that it exists and {CREDENTIALS}"
        ) from error
    return found


def open_url(url: str) -> UPath:
    """Return a URL of shared storage as a path.

    Raises:
        SettingsError: no storage of this kind is known or installed.
    """
    try:
        # other nodes write there, so no listing may be kept
        found = UPath(url, use_listings_cache=False)
        is_known = found.protocol in PROTOCOLS
    except (ImportError, ValueError) as error:
        raise SettingsError(
            f"expected a URL of object storage ({', '.join(PROTOCOLS)}), such as "
            f"s3://bucket/prefix, found '{without_passwords(url)}': "
            f"{without_passwords(str(error))}"
        ) from error
    if not is_known:
        raise SettingsError(
            f"expected a URL of object storage ({', '.join(PROTOCOLS)}), such as "
            f"s3://bucket/prefix, found '{without_passwords(url)}': for a directory that all nodes "
            "share set HYDRAULIC_VAR_DIR"
        )
    if urlsplit(url).password is not None:
        raise SettingsError(
            "expected a URL of object storage without a password, found one in "
            f"'{without_passwords(url)}': use the variables of the storage, such as "
            "AWS_SECRET_ACCESS_KEY"
        )
    return found


def write_whole(path: StoragePath, data: bytes | memoryview) -> None:
    """Write a file that is seen whole or not at all."""
    if isinstance(path, UPath):
        # not `write_bytes`, whose file is closed, and so uploaded, also when it was interrupted
        path.fs.pipe_file(path.path, bytes(data))
        return
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def make_directory(place: StoragePath) -> None:
    """Create a directory with its parents; shared storage needs none."""
    if not isinstance(place, UPath):
        place.mkdir(parents=True, exist_ok=True)


def remove_tree(place: StoragePath) -> None:
    """Remove a directory with all files, if it exists."""
    if isinstance(place, UPath):
        with suppress(FileNotFoundError):
            place.fs.rm(place.path, recursive=True)
    else:
        shutil.rmtree(place, ignore_errors=True)


def copy_to(directory: Path, place: UPath, last: str) -> None:
    """Copy the files of a directory to shared storage.

    Args:
        directory: on this machine.
        place: of the copy.
        last: name of the file that is copied last: its presence marks a whole copy.
    """
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    for path in sorted(paths, key=lambda path: path == directory / last):
        write_whole(place.joinpath(*path.relative_to(directory).parts), path.read_bytes())


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """Copy all files below a URL of shared storage to a directory, which is removed at the end.

    Raises:
        SettingsError: the URL is of no known kind, can't be read, or has no files.
    """
    place = open_url(url)
    with tempfile.TemporaryDirectory(prefix="copy-") as name:
        directory = Path(name) / (place.name or "copy")
        try:
            found = place.fs.find(place.path)
            for each in found:
                path = directory / _name_below(each, place)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(place.fs.cat_file(each))
        except Exception as error:  # each kind of storage has errors of its own
            raise _unreadable(url, f"{type(error).__name__}: {error}") from error
        if not found:
            raise _unreadable(url, "none")
        yield directory


def _name_below(name: str, place: UPath) -> Path:
    """Return the path of an object relative to a place; objects may have any name."""
    found = Path(name).relative_to(place.path.rstrip("/"))
    if ".." in found.parts:
        raise ValueError(f"'{name}' has '..' in its name")
    return found


def _unreadable(url: str, found: str) -> SettingsError:
    return SettingsError(
        f"expected files that this process can read below '{without_passwords(url)}', found "
        f"{without_passwords(found)}: check the address and {CREDENTIALS}"
    )


def arrow_filesystem(place: StoragePath) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """Return Arrow's file system of a place, None for this machine's, and the path in it."""
    if isinstance(place, UPath):
        handler = pyarrow.fs.FSSpecHandler(place.fs)
        return pyarrow.fs.PyFileSystem(handler), place.path
    return None, str(place)
