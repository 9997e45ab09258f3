"""The local server that is used when no DSN is set: one per directory, shared by every process that asks for it.

`ensure_embedded` starts it, or joins it; it ends by itself after the last process that asked has gone, however that
process ends. The server's own life is `keeper`'s, its files are `cluster`'s.
Invariant: an address that was handed out stays valid while the process that got it lives, also when PostgreSQL or the
keeper is killed meanwhile.
"""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from app.core import file_locks as lease
from app.core.errors import StoreError, StoreUnavailable
from app.store.embedded.postgres import DATABASE, PORT, ROLE, answers
from app.store.embedded.supervisor import DEFAULT_GRACE_S, LOG_FILE

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
    """Start the local server, or join the one that runs, and stay its user until this process ends.

    It blocks; call it from a thread when an event loop must go on. Safe from any number of processes and threads.

    Args:
        directory: the server's own directory, such as `var/postgres`; made when it is not there.
        grace_s: how long the server outlives its last user; counts for who starts it.
        timeout_s: how long to wait for it.

    Returns:
        The DSN of a server that took a connection just now.

    Raises:
        StoreUnavailable: it did not come up in time.
        StoreError: it can't be made here: no binaries, no right to write, data of another version.
    """
    directory = directory.resolve()
    with _leases_lock:
        if directory in _leases:
            return _leases[directory].dsn
        _make_private(directory)
        deadline = time.monotonic() + timeout_s
        fd = lease.open_lock(directory / lease.LEASE_LOCK)
        try:
            # A keeper that is just stopping its server holds this lock until it is down.
            while not lease.try_lock(fd, shared=True):
                _wait(deadline, directory)
            socket_dir = _start_or_join(directory, grace_s, deadline)
        except BaseException:
            os.close(fd)
            raise
        _leases[directory] = _Lease(
            fd, f"postgresql://{ROLE}@/{DATABASE}?host={quote(socket_dir)}&port={PORT}"
        )
        threading.Thread(
            target=_replace_lost_keepers, args=(directory, fd, grace_s), daemon=True
        ).start()
        return _leases[directory].dsn


def release_embedded(directory: Path) -> None:
    """Stop being a user of a local server before this process ends; without effect when we are none."""
    with _leases_lock:
        held = _leases.pop(directory.resolve(), None)
        if held is not None:
            os.close(held.fd)


def _start_or_join(directory: Path, grace_s: float, deadline: float) -> str:
    started = False
    while True:
        status = lease.read_status(directory)
        if status is not None and status.state == "ready" and answers(Path(status.socket_dir)):
            return status.socket_dir
        if status is not None and status.state == "failed" and started:
            raise StoreError(status.message)
        started = _start_keeper(directory, grace_s) or started
        _wait(deadline, directory)


def _start_keeper(directory: Path, grace_s: float) -> bool:
    with lease.attempt(directory / lease.START_LOCK) as ours:
        if not ours or lease.is_held(directory / lease.KEEPER_LOCK):
            return False
        (directory / lease.STATUS_FILE).unlink(missing_ok=True)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PG")
        }
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (str(_PROJECT_DIR), environment.get("PYTHONPATH")))
        )
        with (directory / LOG_FILE).open("ab") as log:
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "app.store.embedded.supervisor",
                    directory,
                    "--grace-s",
                    str(grace_s),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                check=False,
            )
        if done.returncode:
            raise StoreError(
                f"expected a keeper to start, found exit {done.returncode}: read {directory / LOG_FILE}"
            )
        give_up = time.monotonic() + 5.0
        while (
            not lease.is_held(directory / lease.KEEPER_LOCK)
            and lease.read_status(directory) is None
        ):
            if time.monotonic() > give_up:
                return True
            time.sleep(_POLL_S)
        return True


def _replace_lost_keepers(directory: Path, fd: int, grace_s: float) -> None:
    while True:
        time.sleep(0.25)
        held = _leases.get(directory)
        if held is None or held.fd != fd:
            return
        try:
            if lease.is_held(directory / lease.KEEPER_LOCK):
                continue
            _start_keeper(directory, grace_s)
        except (StoreError, OSError):
            time.sleep(_RESTART_PAUSE_S)
            continue
        status = lease.read_status(directory)
        if status is not None and status.state == "failed":
            time.sleep(_RESTART_PAUSE_S)


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        owner = directory.stat().st_uid
    except OSError as error:
        raise StoreError(
            f"expected to keep the local server in {directory}, found: {error}: set HYDRAULIC_VAR_DIR or HYDRAULIC_DSN"
        ) from error
    if owner != os.geteuid():
        raise StoreError(
            f"expected {directory} to belong to user {os.geteuid()}, found owner {owner}: run as that user, or set "
            f"HYDRAULIC_VAR_DIR or HYDRAULIC_DSN"
        )
    directory.chmod(0o700)


def _wait(deadline: float, directory: Path) -> None:
    if time.monotonic() > deadline:
        raise StoreUnavailable(
            f"expected the local server to answer in time, found that it does not: read {directory / LOG_FILE}"
        )
    time.sleep(_POLL_S)
