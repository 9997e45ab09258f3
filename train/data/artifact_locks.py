"""Says that a directory under `var/training` is in use, so that `train.jobs.prune` leaves it: a lock while it lasts, a time when it is over.

The lock is the kernel's (flock) on a file inside the directory, shared by all that use it; it never outlives its process and leaves nothing
behind. Workers take none: the driver that holds it outlives them. The time is the directory's modification, which counts on a disk too
whose locks do not reach other nodes.
Invariant: while `in_use` yields True, its file's path leads to the file that was locked, and no `alone` yields True for it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.core.file_locks import try_lock

USES = ".windows"
"""File of a job's directory with the name of the directory of its windows, which stay as long as its fits; no fit is named like it."""

SEARCHES = "searches.lock"
"""Beside the records of searches; every search holds it."""


def lock_of(job: Path) -> Path:
    """Return the lock that the process at a job holds, beside the job's directory."""
    return job.with_name(f"{job.name}.lock")


@contextmanager
def in_use(file: Path) -> Iterator[bool]:
    """Keep what a file stands for from being pruned for the length of the block, and mark its directory as used at both ends.

    Args:
        file: of the directory; it may be moved with its directory meanwhile.

    Yields:
        Whether it is held; False when it is not there.
    """
    fd = _opened(file, os.O_RDONLY)
    if fd is None:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)  # waits for the moment in which somebody looks or removes
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
def alone(file: Path) -> Iterator[bool]:
    """Hold a file against all use of what it stands for, if there is none, for the length of the block.

    Args:
        file: is not made when it is not there, and not followed where it is a symbolic link.

    Yields:
        Whether it is held; False when it is in use, or not there.
    """
    # a network's file system locks alone only what is open for writing
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
    """Tell whether a path still leads to an open file: its directory may have been renamed before the lock was ours."""
    try:
        return os.path.samestat(file.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _mark(directory: Path) -> None:
    # a preparation's directory has another name at the end; one that is not ours to change is not ours to prune either
    with suppress(OSError):
        os.utime(directory)
