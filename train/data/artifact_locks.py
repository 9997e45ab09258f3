"""Mark directories under `var/training` as in use, so that `train.jobs.prune` keeps them.

While a directory is in use, its users share a kernel lock (flock) on a file inside it. The lock
ends with its process. Workers take none, since the driver outlives them. The modification time of
the directory records the last use, also on a disk whose locks do not reach other nodes. Invariant:
while `in_use` yields True, its path leads to the locked file, and `exclusive` never yields True for
it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.core.file_locks import try_lock

WINDOWS_NAME = ".windows"
"""File in a job's directory with the name of its windows' directory, which is kept with its
fits."""

SEARCH_LOCK = "searches.lock"
"""File beside the records of searches; every search locks it."""


def job_lock(job: Path) -> Path:
    """Return the lock file of a job, beside the job's directory."""
    return job.with_name(f"{job.name}.lock")


@contextmanager
def in_use(file: Path) -> Iterator[bool]:
    """Lock a file's directory against pruning and mark it as used when the block starts and ends.

    Args:
        file: in the directory, which may be renamed meanwhile.

    Yields:
        Whether it is locked; False if the file does not exist.
    """
    fd = _opened(file, os.O_RDONLY)
    if fd is None:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)  # waits while another process tests or removes it
        if not _leads_to(file, fd):
            yield False
            return
        _mark(file.parent)
        try:
            yield True
        finally:
            _mark(file.parent)
    finally:
        os.close(fd)


@contextmanager
def exclusive(file: Path) -> Iterator[bool]:
    """Lock a file against all use of its directory, unless the directory is in use.

    Args:
        file: is not created if it does not exist; a symbolic link is not followed.

    Yields:
        Whether it is locked; False if it is in use or does not exist.
    """
    # a network file system gives an exclusive lock only to a file that is open for writing
    fd = _opened(file, os.O_RDWR | os.O_NOFOLLOW)
    if fd is None:
        yield False
        return
    try:
        yield try_lock(fd) and _leads_to(file, fd)
    finally:
        os.close(fd)


def _opened(file: Path, flags: int) -> int | None:
    try:
        return os.open(file, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _leads_to(file: Path, fd: int) -> bool:
    """Return whether a path leads to an open file; a rename may precede the lock."""
    try:
        return os.path.samestat(file.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _mark(directory: Path) -> None:
    # the directory of a preparation is renamed; a directory that can't be marked can't be pruned
    with suppress(OSError):
        os.utime(directory)
