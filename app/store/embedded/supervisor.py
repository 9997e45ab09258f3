"""Runs the local server while any process uses it: `python -m app.store.embedded.supervisor DIR`.

The supervisor detaches itself, so neither Ctrl-C in a terminal nor Ray ending a worker stops it. It
starts PostgreSQL, restarts it when it dies, and stops it soon after the last user ended.
Invariant: a directory has at most one supervisor, which never stops the server while a process has
a lease.
"""

import argparse
import json
import logging
import logging.handlers
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Literal, NamedTuple

from app.core.errors import HydraulicDiagnosticsError, StoreError
from app.core.file_locks import attempt, open_lock, try_lock, unlock
from app.store.embedded.postgres import PostgresServer, answers, make_runtime

DEFAULT_GRACE_S = 1.5
LOG_FILE = "server.log"
SUPERVISOR_LOCK = "keeper.lock"
"""Locked by the supervisor for its life."""
LEASE_LOCK = "lease.lock"
"""Locked, shared, by every process that uses the server; by the supervisor once it stops."""
START_LOCK = "start.lock"
"""Locked by the one user that starts a supervisor."""
STATUS_FILE = "server.json"

State = Literal["starting", "ready", "failed"]

_RUNTIME_FILE = "runtime"
_TICK_S = 0.1
_PROBE_S = 0.03
_LOG_BYTES = 2_000_000
_RESTARTS = 20
_RESTART_WINDOW_S = 60.0


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


class Supervisor:
    """Runs one server from start to clean-up.

    Args:
        directory: with the data, the locks, the status and the log; exists.
        grace_s: how long the server outlives its last user, for replicas that restart.
        log: for the log lines of the server and the supervisor.
    """

    def __init__(self, directory: Path, grace_s: float, log: logging.Logger) -> None:
        self._directory = directory
        self._grace_s = grace_s
        self._log = log
        self._stop_requested = False
        self._starts: list[float] = []
        self._partial_line = b""
        record = directory / _RUNTIME_FILE
        self._runtime = make_runtime(Path(record.read_text()) if record.exists() else None)
        record.write_text(str(self._runtime))
        self._server = PostgresServer(directory, self._runtime)

    def stop_soon(self, _signal: int, _frame: FrameType | None) -> None:
        """Stop at the next tick; handles SIGTERM and SIGINT."""
        self._stop_requested = True

    def run(self) -> None:
        """Run the server until no process uses it.

        Raises:
            StoreError: the server can't be started or keeps ending.
        """
        lease_fd = open_lock(self._directory / LEASE_LOCK)
        self._say("starting")
        try:
            self._end_orphan()
            self._server.prepare()
            process = self._start()
            try:
                self._watch(process, lease_fd)
            finally:
                self._end_orphan()
        finally:
            self._clean()
            os.close(lease_fd)

    def _watch(self, process: subprocess.Popen[bytes], lease_fd: int) -> None:
        ready = False
        next_probe = 0.0
        idle_since: float | None = None
        while not self._stop_requested:
            self._copy_log(process, _TICK_S if ready else _PROBE_S)
            if process.poll() is not None:
                self._note(f"postgres ended with {process.returncode}, restarting it")
                ready = False
                self._say("starting")
                self._server.clear_stragglers()
                self._close_log(process)
                process = self._start()
            elif not ready and time.monotonic() >= next_probe:
                # each refused session is a line in the log, and each line wakes this loop
                next_probe = time.monotonic() + _PROBE_S
                ready = answers(self._server.socket_dir)
                if ready:
                    self._say("ready")
            if not try_lock(lease_fd):
                idle_since = None
                continue
            now = time.monotonic()
            idle_since = now if idle_since is None else idle_since
            if now - idle_since >= self._grace_s:
                # keep the lock: a new user waits until the server is down and starts another
                break
            unlock(lease_fd)
        self._note("stop requested" if self._stop_requested else "no user is left")
        self._server.stop(process.pid)
        process.wait()
        self._close_log(process)

    def _start(self) -> subprocess.Popen[bytes]:
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < _RESTART_WINDOW_S]
        if len(self._starts) >= _RESTARTS:
            raise StoreError(
                f"expected PostgreSQL to keep running, found it ended {_RESTARTS} times in "
                f"{_RESTART_WINDOW_S:.0f} s: read {self._directory / LOG_FILE}"
            )
        if self._starts:
            time.sleep(min(2.0, 0.05 * 2 ** (len(self._starts) - 1)))
        self._starts.append(time.monotonic())
        return self._server.start()

    def _end_orphan(self) -> None:
        running = self._server.processes()
        if not running:
            return
        postmaster = self._server.postmaster_pid()
        if postmaster in running:
            self._note(f"stopping postgres {postmaster}, which lost its supervisor")
            self._server.stop(postmaster)
        else:
            self._server.clear_stragglers()

    def _copy_log(self, process: subprocess.Popen[bytes], wait_s: float) -> None:
        assert process.stderr is not None
        fd = process.stderr.fileno()
        if not select.select([fd], [], [], wait_s)[0]:
            return
        chunk = os.read(fd, 65_536)
        if not chunk:
            time.sleep(_TICK_S)
        *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
        for line in lines:
            self._log.info("%s", line.decode(errors="replace"))

    def _close_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        while select.select([process.stderr], [], [], 0)[0] and (
            chunk := os.read(process.stderr.fileno(), 65_536)
        ):
            self._log.info("%s", (self._partial_line + chunk).decode(errors="replace").rstrip())
            self._partial_line = b""
        process.stderr.close()

    def _note(self, event: str) -> None:
        now = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
        self._log.info("%s UTC [%s] SUPERVISOR:  %s", now, os.getpid(), event)

    def _say(self, state: State) -> None:
        write_status(self._directory, Status(os.getpid(), state, str(self._server.socket_dir)))

    def _clean(self) -> None:
        shutil.rmtree(self._runtime, ignore_errors=True)
        (self._directory / _RUNTIME_FILE).unlink(missing_ok=True)
        (self._directory / STATUS_FILE).unlink(missing_ok=True)


def keep(directory: Path, grace_s: float) -> bool:
    """Supervise the server of a directory; write a failure to the status file too.

    Args:
        directory: of the server; exists.
        grace_s: how long the server outlives its last user.

    Returns:
        False when the directory has a supervisor already.

    Raises:
        StoreError: the server can't be started or keeps ending.
    """
    with attempt(directory / SUPERVISOR_LOCK, patience_s=1.0) as alone:
        if not alone:
            return False
        log = logging.getLogger(f"app.store.embedded.supervisor.{os.getpid()}")
        log.propagate = False
        log.setLevel(logging.INFO)
        file = logging.handlers.RotatingFileHandler(
            directory / LOG_FILE, maxBytes=_LOG_BYTES, backupCount=2
        )
        file.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(file)
        try:
            supervisor = Supervisor(directory, grace_s, log)
            signal.signal(signal.SIGTERM, supervisor.stop_soon)
            signal.signal(signal.SIGINT, supervisor.stop_soon)
            supervisor.run()
        except (HydraulicDiagnosticsError, OSError) as error:
            log.exception("the supervisor failed")
            write_status(directory, Status(os.getpid(), "failed", "", str(error)))
            raise
        finally:
            file.close()
            log.removeHandler(file)
    return True


def main(arguments: list[str]) -> None:
    """Detach from the parent process and supervise the server.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="app.store.embedded.supervisor",
        description="run the local PostgreSQL while it is used",
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--grace-s", type=float, default=DEFAULT_GRACE_S, help="how long it outlives its last user"
    )
    parsed = parser.parse_args(arguments)
    # the parent waits until here; the supervisor is in no terminal's session
    if os.fork():
        os._exit(0)
    os.setsid()
    keep(parsed.directory.resolve(), parsed.grace_s)


if __name__ == "__main__":
    main(sys.argv[1:])
