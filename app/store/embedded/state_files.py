"""Lock files and the status file that users of the local server share with its supervisor."""

import json
import os
from pathlib import Path
from typing import Literal, NamedTuple

SUPERVISOR_LOCK = "keeper.lock"
"""Locked by the supervisor for its life."""
LEASE_LOCK = "lease.lock"
"""Locked, shared, by every process that uses the server; by the supervisor once it stops."""
START_LOCK = "start.lock"
"""Locked by the one user that starts a supervisor."""
STATUS_FILE = "server.json"

State = Literal["starting", "ready", "failed"]


class Status(NamedTuple):
    """State of the server as the supervisor, process `keeper`, last wrote it."""

    keeper: int
    state: State
    socket_dir: str
    message: str = ""


def write_status(directory: Path, status: Status) -> None:
    """Replace the status file atomically."""
    fresh = directory / f".{STATUS_FILE}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(status._asdict(), file)
    fresh.replace(directory / STATUS_FILE)


def read_status(directory: Path) -> Status | None:
    """Return the status; None without a supervisor."""
    try:
        return Status(**json.loads((directory / STATUS_FILE).read_text()))
    except FileNotFoundError:
        return None
