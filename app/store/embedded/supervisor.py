"""The process that keeps the local server running while somebody uses it: `python -m app.store.embedded.supervisor DIRECTORY`.

It belongs to no user of the database: it detaches itself, so that neither Ctrl-C in a terminal nor Ray ending a worker
reaches it. It starts PostgreSQL, starts it again when it dies, and stops it soon after the last user has gone.
Invariant: at most one keeper lives per directory, and it never stops the server while a process holds a lease.
"""

import argparse
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

from app.core import file_locks as lease
from app.core.errors import HydraulicDiagnosticsError, StoreError
from app.store.embedded.postgres import PostgresServer, make_runtime

DEFAULT_GRACE_S = 1.5
LOG_FILE = "server.log"

_RUNTIME_FILE = "runtime"
_TICK_S = 0.1
_PROBE_S = 0.03
_LOG_BYTES = 2_000_000
_RESTARTS = 20
_RESTART_WINDOW_S = 60.0


class Supervisor:
    """The life of one server, from taking the directory's lock to leaving nothing behind.

    Args:
        directory: where the data, the locks, the status and the log are; exists.
        grace_s: how long the server outlives its last user, so that a restarted replica finds it running.
        log: takes the server's own log lines and ours.
    """

    def __init__(self, directory: Path, grace_s: float, log: logging.Logger) -> None:
        self._directory = directory
        self._grace_s = grace_s
        self._log = log
        self._asked_to_stop = False
        self._starts: list[float] = []
        self._partial_line = b""
        record = directory / _RUNTIME_FILE
        self._runtime = make_runtime(Path(record.read_text()) if record.exists() else None)
        record.write_text(str(self._runtime))
        self._cluster = PostgresServer(directory, self._runtime)

    def stop_soon(self, _signal: int, _frame: FrameType | None) -> None:
        """Leave at the next turn: what SIGTERM and SIGINT ask for."""
        self._asked_to_stop = True

    def run(self) -> None:
        """Keep the server until nobody uses it.

        Raises:
            StoreError: the server can't be made or does not stay up.
        """
        lease_fd = lease.open_lock(self._directory / lease.LEASE_LOCK)
        self._say("starting")
        try:
            self._end_orphan()
            self._cluster.prepare()
            server = self._start()
            try:
                self._watch(server, lease_fd)
            finally:
                self._end_orphan()
        finally:
            self._clean()
            os.close(lease_fd)

    def _watch(self, server: subprocess.Popen[bytes], lease_fd: int) -> None:
        ready = False
        next_probe = 0.0
        idle_since: float | None = None
        while not self._asked_to_stop:
            self._copy_log(server, _TICK_S if ready else _PROBE_S)
            if server.poll() is not None:
                self._note(f"postgres ended with {server.returncode}, starting it again")
                ready = False
                self._say("starting")
                self._cluster.clear_stragglers()
                self._close_log(server)
                server = self._start()
            elif not ready and time.monotonic() >= next_probe:
                # Each refused session is a line in the log, and each line wakes this loop.
                next_probe = time.monotonic() + _PROBE_S
                ready = self._cluster.answers()
                if ready:
                    self._say("ready")
            if not lease.try_lock(lease_fd):
                idle_since = None
                continue
            now = time.monotonic()
            idle_since = now if idle_since is None else idle_since
            if now - idle_since >= self._grace_s:
                # The lock stays ours: who comes now waits until the server is down, and starts a new one.
                break
            lease.unlock(lease_fd)
        self._note("asked to stop" if self._asked_to_stop else "no user is left")
        self._cluster.stop(server.pid)
        server.wait()
        self._close_log(server)

    def _start(self) -> subprocess.Popen[bytes]:
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < _RESTART_WINDOW_S]
        if len(self._starts) >= _RESTARTS:
            raise StoreError(
                f"expected PostgreSQL to stay up, found it ended {_RESTARTS} times in {_RESTART_WINDOW_S:.0f} s: "
                f"read {self._directory / LOG_FILE}"
            )
        if self._starts:
            time.sleep(min(2.0, 0.05 * 2 ** (len(self._starts) - 1)))
        self._starts.append(time.monotonic())
        return self._cluster.start()

    def _end_orphan(self) -> None:
        running = self._cluster.processes()
        if not running:
            return
        postmaster = self._cluster.postmaster_pid()
        if postmaster in running:
            self._note(f"stopping postgres {postmaster}, which lost its keeper")
            self._cluster.stop(postmaster)
        else:
            self._cluster.clear_stragglers()

    def _copy_log(self, server: subprocess.Popen[bytes], wait_s: float) -> None:
        assert server.stderr is not None
        fd = server.stderr.fileno()
        if not select.select([fd], [], [], wait_s)[0]:
            return
        chunk = os.read(fd, 65_536)
        if not chunk:
            time.sleep(_TICK_S)
        *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
        for line in lines:
            self._log.info("%s", line.decode(errors="replace"))

    def _close_log(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stderr is not None
        while select.select([server.stderr], [], [], 0)[0] and (
            chunk := os.read(server.stderr.fileno(), 65_536)
        ):
            self._log.info("%s", (self._partial_line + chunk).decode(errors="replace").rstrip())
            self._partial_line = b""
        server.stderr.close()

    def _note(self, event: str) -> None:
        now = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
        self._log.info("%s UTC [%s] KEEPER:  %s", now, os.getpid(), event)

    def _say(self, state: lease.State, message: str = "") -> None:
        lease.write_status(
            self._directory,
            lease.Status(os.getpid(), state, str(self._cluster.socket_dir), message),
        )

    def _clean(self) -> None:
        shutil.rmtree(self._runtime, ignore_errors=True)
        (self._directory / _RUNTIME_FILE).unlink(missing_ok=True)
        (self._directory / lease.STATUS_FILE).unlink(missing_ok=True)


def keep(directory: Path, grace_s: float = DEFAULT_GRACE_S) -> bool:
    """Be the keeper of a directory until nobody uses its server; a failure is also in the status file.

    Args:
        directory: the server's directory; exists.
        grace_s: seconds that the server outlives its last user.

    Returns:
        False when another keeper is there already.

    Raises:
        StoreError: the server can't be made or does not stay up.
    """
    with lease.attempt(directory / lease.KEEPER_LOCK, patience_s=1.0) as alone:
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
            keeper = Supervisor(directory, grace_s, log)
            signal.signal(signal.SIGTERM, keeper.stop_soon)
            signal.signal(signal.SIGINT, keeper.stop_soon)
            keeper.run()
        except (HydraulicDiagnosticsError, OSError) as error:
            log.exception("the keeper gave up")
            lease.write_status(directory, lease.Status(os.getpid(), "failed", "", str(error)))
            raise
        finally:
            file.close()
            log.removeHandler(file)
    return True


def main(arguments: list[str]) -> None:
    """Detach from whoever started us and keep the server.

    Args:
        arguments: the directory and the options, as on the command line.
    """
    parser = argparse.ArgumentParser(
        prog="app.store.embedded.supervisor",
        description="keep the local PostgreSQL while it is used",
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--grace-s", type=float, default=DEFAULT_GRACE_S, help="how long it outlives its last user"
    )
    parsed = parser.parse_args(arguments)
    # Our parent waits for us no longer than this: the keeper is nobody's child and in no terminal's session.
    if os.fork():
        os._exit(0)
    os.setsid()
    keep(parsed.directory.resolve(), parsed.grace_s)


if __name__ == "__main__":
    main(sys.argv[1:])
