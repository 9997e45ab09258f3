"""Starts or joins the local server of a directory, which all processes of the machine share.

The server stops by itself after the last process that uses it ended, however that ended. The
`supervisor` starts and stops it; `postgres` has its files and its process.
Invariant: a returned address stays valid for the life of the process, even if PostgreSQL or the
supervisor is killed meanwhile.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from app.core.errors import StoreError, StoreUnavailable
from app.core.file_locks import attempt, is_held, open_lock, try_lock
from app.store.embedded.postgres import DATABASE, PORT, ROLE, answers
from app.store.embedded.supervisor import (
    DEFAULT_GRACE_S,
    LEASE_LOCK,
    LOG_FILE,
    START_LOCK,
    STATUS_FILE,
    SUPERVISOR_LOCK,
    read_status,
)

_POLL_S = 0.02
_RESTART_PAUSE_S = 5.0
_PROJECT_DIR = Path(__file__).resolve().parents[3]


class _Lease(NamedTuple):
    fd: int
    dsn: str


_leases: dict[Path, _Lease] = {}
_leases_lock = threading.Lock()


def ensure_embedded(
    directory: Path, *, grace_s: float = DEFAULT_GRACE_S, timeout_s: float = 60.0
) -> str:
    """Start the local server or join the running one, and use it until this process ends.

    It blocks; call it in a thread of an event loop's process. Safe from any number of processes and
    threads.

    Args:
        directory: of the server alone, such as `var/postgres`; created if missing.
        grace_s: how long the server outlives its last user; applies if this call starts it.
        timeout_s: how long to wait for it.

    Returns:
        The DSN of a server that has just accepted a connection.

    Raises:
        StoreUnavailable: the server did not start in time.
        StoreError: it can't run here: no binaries, no write access, data of another version.
    """
    directory = directory.resolve()
    with _leases_lock:
        if directory in _leases:
            return _leases[directory].dsn
        _make_private(directory)
        deadline = time.monotonic() + timeout_s
        fd = open_lock(directory / LEASE_LOCK)
        try:
            # a supervisor that is stopping its server has this lock until the server is down
            while not try_lock(fd, shared=True):
                _wait(deadline, directory)
            socket_dir = _start_or_join(directory, grace_s, deadline)
        except BaseException:
            os.close(fd)
            raise
        dsn = _dsn(socket_dir)
        _leases[directory] = _Lease(fd, dsn)
        threading.Thread(
            target=_replace_lost_supervisors, args=(directory, fd, grace_s), daemon=True
        ).start()
        return dsn


def running_server(directory: Path) -> str | None:
    """Return the DSN of the local server of a directory if it runs; start and keep nothing."""
    status = read_status(directory)
    if status is None or status.state != "ready" or not answers(Path(status.socket_dir)):
        return None
    return _dsn(status.socket_dir)


def _dsn(socket_dir: str) -> str:
    return f"postgresql://{ROLE}@/{DATABASE}?host={quote(socket_dir)}&port={PORT}"


def release_embedded(directory: Path) -> None:
    """Stop using a local server before this process ends; no effect when it is not used."""
    with _leases_lock:
        lease = _leases.pop(directory.resolve(), None)
        if lease is not None:
            os.close(lease.fd)


def _start_or_join(directory: Path, grace_s: float, deadline: float) -> str:
    started = False
    while True:
        status = read_status(directory)
        if status is not None and status.state == "ready" and answers(Path(status.socket_dir)):
            return status.socket_dir
        if status is not None and status.state == "failed" and started:
            raise StoreError(status.message)
        started = _start_supervisor(directory, grace_s) or started
        _wait(deadline, directory)


def _start_supervisor(directory: Path, grace_s: float) -> bool:
    with attempt(directory / START_LOCK) as locked:
        if not locked or is_held(directory / SUPERVISOR_LOCK):
            return False
        (directory / STATUS_FILE).unlink(missing_ok=True)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PG")
        }
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(_PROJECT_DIR), environment.get("PYTHONPATH")))
        )
        command = (sys.executable, "-m", "app.store.embedded.supervisor", directory)
        with (directory / LOG_FILE).open("ab") as log:
            done = subprocess.run(
                [*command, "--grace-s", str(grace_s)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                check=False,
            )
        if done.returncode:
            raise StoreError(
                f"expected the supervisor of the local server to start, found exit "
                f"{done.returncode}: read {directory / LOG_FILE}"
            )
        give_up = time.monotonic() + 5.0
        while not is_held(directory / SUPERVISOR_LOCK) and read_status(directory) is None:
            if time.monotonic() > give_up:
                return True
            time.sleep(_POLL_S)
        return True


def _replace_lost_supervisors(directory: Path, fd: int, grace_s: float) -> None:
    while True:
        time.sleep(0.25)
        lease = _leases.get(directory)
        if lease is None or lease.fd != fd:
            return
        try:
            if is_held(directory / SUPERVISOR_LOCK):
                continue
            _start_supervisor(directory, grace_s)
        except (StoreError, OSError):
            time.sleep(_RESTART_PAUSE_S)
            continue
        status = read_status(directory)
        if status is not None and status.state == "failed":
            time.sleep(_RESTART_PAUSE_S)


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        owner = directory.stat().st_uid
    except OSError as error:
        raise StoreError(
            f"expected to run the local server in {directory}, found: {error}: set "
            "HYDRAULIC_VAR_DIR or HYDRAULIC_DSN"
        ) from error
    if owner != os.geteuid():
        raise StoreError(
            f"expected {directory} to belong to user {os.geteuid()}, found owner {owner}: run as "
            "that user, or set HYDRAULIC_VAR_DIR or HYDRAULIC_DSN"
        )
    directory.chmod(0o700)


def _wait(deadline: float, directory: Path) -> None:
    if time.monotonic() > deadline:
        raise StoreUnavailable(
            "expected the local server to answer in time, found that it does not: read "
            f"{directory / LOG_FILE}"
        )
    time.sleep(_POLL_S)
