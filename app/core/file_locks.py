"""Locks between processes.

Invariant: every lock is the kernel's (flock), so it ends with the process that has it. Lock files
are never removed: two processes could lock a removed file under one name.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def open_lock(path: Path) -> int:
    """Open a lock file, created with mode 0600 if missing; child programs do not inherit it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take a lock if it is free; return whether it was taken."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Release a lock and keep its file open."""
    fcntl.flock(fd, fcntl.LOCK_UN)


@contextmanager
def attempt(path: Path, *, patience_s: float = 0.0) -> Iterator[bool]:
    """Lock a file exclusively for the length of the block; yield whether it was locked.

    Args:
        path: the lock file.
        patience_s: how long to try; `is_held` in other processes takes the lock for an instant.
    """
    fd = open_lock(path)
    give_up = time.monotonic() + patience_s
    try:
        while not (locked := try_lock(fd)) and time.monotonic() < give_up:
            time.sleep(0.01)
        yield locked
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    """Return whether a process has the lock of this file."""
    with attempt(path) as free:
        return not free
