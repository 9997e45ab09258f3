"""Locks and the status file that users of the local server and its keeper share.

Invariant: every lock is the kernel's (flock), so it never outlives the process that holds it; lock files are never
removed, since a removed file can be locked by two processes under one name.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

KEEPER_LOCK = "keeper.lock"
"""Held alone by the keeper for its life."""
LEASE_LOCK = "lease.lock"
"""Held shared by every process that uses the server; held alone by the keeper once it has begun to stop."""
START_LOCK = "start.lock"
"""Held alone by the one user that starts a keeper."""
STATUS_FILE = "server.json"

State = Literal["starting", "ready", "failed"]


class Status(NamedTuple):
    """What the keeper says of its server."""

    keeper: int
    state: State
    socket_dir: str
    message: str = ""


def open_lock(path: Path) -> int:
    """Open a lock file, made private when it is not there; the descriptor is not inherited by programs we start."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Take a lock if nobody holds it against us; tell whether we did."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Let go of a lock and keep its file open."""
    fcntl.flock(fd, fcntl.LOCK_UN)


@contextmanager
def attempt(path: Path, *, patience_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock of this file alone if it is free, for the length of the block; yields whether we hold it.

    Args:
        path: the lock file.
        patience_s: try for so long; somebody may hold it for an instant only to see whether it is free.
    """
    fd = open_lock(path)
    give_up = time.monotonic() + patience_s
    try:
        while not (held := try_lock(fd)) and time.monotonic() < give_up:
            time.sleep(0.01)
        yield held
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    """Tell whether some process holds the lock of this file."""
    with attempt(path) as free:
        return not free


def write_status(directory: Path, status: Status) -> None:
    """Replace the status file in one step."""
    fresh = directory / f".{STATUS_FILE}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(status._asdict(), file)
    fresh.replace(directory / STATUS_FILE)


def read_status(directory: Path) -> Status | None:
    """Return what the keeper last said; None when there is no keeper."""
    try:
        return Status(**json.loads((directory / STATUS_FILE).read_text()))
    except FileNotFoundError:
        return None
