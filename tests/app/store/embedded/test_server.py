"""The local server with real processes: shared, surviving kills, stopped after its last user."""

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from app.core.errors import StoreError, StoreUnavailable
from app.core.file_locks import attempt, is_held
from app.store.embedded import postgres
from app.store.embedded.postgres import PostgresServer, answers
from app.store.embedded.server import ensure_embedded, release_embedded
from app.store.embedded.supervisor import LEASE_LOCK, LOG_FILE, SUPERVISOR_LOCK, Status, read_status
from app.store.pool import PoolLimits
from app.store.store import Store, embedded_directory, open_store
from tests.machines import make_machine

PROJECT_DIR = Path(__file__).resolve().parents[4]
T0_US = 1_700_000_000_000_000
USER = """
import sys
from pathlib import Path
from app.store.embedded.server import ensure_embedded
print(ensure_embedded(Path(sys.argv[1]), grace_s=0.3), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which a server has run before."""
    directory = tmp_path_factory.mktemp("made") / "postgres"
    ensure_embedded(directory, grace_s=0.0)
    release_embedded(directory)
    wait_until_gone(directory)
    return directory


@pytest.fixture
def directory(made: Path) -> Iterator[Path]:
    """That directory; its server stops with the test."""
    yield made
    release_embedded(made)
    wait_until_gone(made)


def wait_until_gone(directory: Path, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while is_held(directory / SUPERVISOR_LOCK):
        assert time.monotonic() < deadline, "the supervisor outlives its users"
        time.sleep(0.02)


def status_of(directory: Path) -> Status:
    status = read_status(directory)
    assert status is not None
    return status


def postgres_pid(directory: Path) -> int:
    return int((directory / "data" / "postmaster.pid").read_text().split()[0])


def servers_on(directory: Path) -> list[int]:
    return PostgresServer(directory, Path("/nonexistent")).processes()


def python_for_everybody() -> str | None:
    """Return an interpreter that every account can run; `server` needs only the stdlib."""
    return next(
        (
            path
            for path in (sys.executable, "/usr/bin/python3")
            if postgres._enterable(Path(path).resolve().parent)
            and postgres._enterable(Path(path).parent)
        ),
        None,
    )


@contextlib.contextmanager
def user_process(
    directory: Path, python: str = sys.executable, **options: object
) -> Iterator["subprocess.Popen[str]"]:
    places = (PROJECT_DIR, postgres._installed_binaries().parents[1])
    process = subprocess.Popen(
        [python, "-c", USER, str(directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}, **options,
    )  # fmt: skip
    with process:
        yield process
        process.kill()


def test_existing_server_starts_again_and_is_joined(directory: Path):
    dsn = ensure_embedded(directory, grace_s=0.0)

    assert ensure_embedded(directory) == dsn
    assert answers(Path(status_of(directory).socket_dir))


def test_processes_share_one_server_and_it_leaves_nothing_behind(directory: Path):
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(user_process(directory)) for _ in range(3)]
        dsns = {user.stdout.readline() for user in users if user.stdout is not None}
        assert len(dsns) == 1
        assert "postgresql://" in dsns.pop()
        status = status_of(directory)
        pid = postgres_pid(directory)
        os.kill(users[0].pid, signal.SIGKILL)
        users[1].communicate("")
        time.sleep(0.6)
        assert psutil.pid_exists(pid), "stopped under a user"
        assert users[2].poll() is None
    wait_until_gone(directory)

    assert servers_on(directory) == []
    deadline = time.monotonic() + 60
    while psutil.pid_exists(status.keeper):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not Path(status.socket_dir).parent.exists()
    assert read_status(directory) is None


def test_server_and_supervisor_are_detached_from_terminal_and_parent(directory: Path):
    ensure_embedded(directory, grace_s=0.0)
    supervisor = psutil.Process(status_of(directory).keeper)

    assert os.getsid(supervisor.pid) != os.getsid(0)
    assert supervisor.ppid() != os.getpid()
    assert psutil.Process(postgres_pid(directory)).ppid() == supervisor.pid


def test_only_the_own_account_can_connect(directory: Path):
    ensure_embedded(directory, grace_s=0.0)
    socket_dir = Path(status_of(directory).socket_dir)

    assert (directory / "data" / "pg_hba.conf").read_text() == "local all all peer map=owner\n"
    assert pwd.getpwuid(os.geteuid()).pw_name in (directory / "data" / "pg_ident.conf").read_text()
    assert socket_dir.stat().st_mode & 0o077 == 0
    assert directory.stat().st_mode & 0o077 == 0
    assert len(str(socket_dir)) < 90


async def test_killed_postgres_restarts_with_every_acknowledged_reading(directory: Path):
    dsn = ensure_embedded(directory, grace_s=0.0)
    store = Store(dsn)
    await store.migrate()
    machine = make_machine("killed")
    await store.put_equipment(machine)
    acknowledged: list[int] = []

    async def write(writer: int) -> None:
        for turn in range(300):
            time_us = T0_US + (turn * 4 + writer) * 50_000
            while True:
                try:
                    await store.ingest("killed", machine.sensor_ids, [time_us] * 3, [1.0, 2.0, 3.0])
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.05)
            acknowledged.append(time_us)

    async def kill() -> None:
        for _ in range(2):
            before = len(acknowledged)
            while len(acknowledged) < before + 100:
                await asyncio.sleep(0.005)
            os.kill(postgres_pid(directory), signal.SIGKILL)
            await asyncio.sleep(0.5)

    await asyncio.gather(*(write(writer) for writer in range(4)), kill())

    session = await asyncpg.connect(dsn)
    stored = await session.fetchval(
        "select array_agg((extract(epoch from time) * 1e6)::bigint) from sensor_readings "
        "where slot = 2"
    )
    wrong = await session.fetchval(
        """select count(*) from sensor_grid g join equipment e using (equipment_key)
        where vals is distinct from (select array_agg(m order by slot) from (
                select slot, avg(value order by r.time)::real as m from sensor_readings r
                where r.time >= g.time and r.time < g.time + e.grid group by slot
            ) binned)"""
    )
    await session.close()
    await store.close()
    assert set(acknowledged) <= set(stored)
    assert len(acknowledged) == 1200
    assert wrong == 0
    assert "SUPERVISOR:  postgres ended with -9" in (directory / LOG_FILE).read_text()


async def test_killed_supervisor_is_replaced_under_the_same_address(directory: Path):
    dsn = ensure_embedded(directory, grace_s=0.0)
    store = Store(dsn)
    await store.ping()
    first = status_of(directory).keeper
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (
        (status := read_status(directory)) is None
        or status.keeper == first
        or status.state != "ready"
    ):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)

    # the pool may have connections to the old server
    assert await store.list_keys() is not None
    assert (
        len([pid for pid in servers_on(directory) if psutil.Process(pid).ppid() == status.keeper])
        == 1
    )
    await store.close()


def test_server_starts_after_all_processes_were_killed_together(directory: Path):
    with user_process(directory) as user:
        assert user.stdout is not None
        user.stdout.readline()
        for pid in (user.pid, status_of(directory).keeper, postgres_pid(directory)):
            os.kill(pid, signal.SIGKILL)
        user.wait()

    ensure_embedded(directory, grace_s=0.0)

    assert postgres_pid(directory) in servers_on(directory)


def test_pid_file_with_the_pid_of_another_program_does_not_prevent_the_start(directory: Path):
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (directory / "data" / "postmaster.pid").write_text(
            f"{stranger.pid}\n/x\n1\n5432\n/x\n\n  1 1\nready\n"
        )
        ensure_embedded(directory, grace_s=0.0)
        assert stranger.poll() is None
        stranger.kill()


def test_sigterm_stops_the_supervisor_cleanly(directory: Path):
    with user_process(directory) as user:
        assert user.stdout is not None
        user.stdout.readline()
        os.kill(user.pid, signal.SIGSTOP)
        os.kill(status_of(directory).keeper, signal.SIGTERM)
        wait_until_gone(directory)
        assert servers_on(directory) == []
        os.kill(user.pid, signal.SIGCONT)


def test_data_of_another_major_version_is_refused(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("9\n")

    with pytest.raises(StoreError, match=r"expected data of PostgreSQL \d+ in .*found 9"):
        ensure_embedded(tmp_path)

    assert read_status(tmp_path).state == "failed"


def test_message_of_an_unusable_directory_names_the_setting_to_change(tmp_path: Path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match="HYDRAULIC_VAR_DIR"):
        ensure_embedded(tmp_path / "file" / "postgres")


def test_server_that_does_not_start_in_time_is_unavailable(tmp_path: Path):
    with attempt(tmp_path / LEASE_LOCK) as locked:
        assert locked
        with pytest.raises(StoreUnavailable, match="in time"):
            ensure_embedded(tmp_path, timeout_s=0.1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to copy")
def test_binaries_out_of_reach_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgres, "_enterable", lambda path: "site-packages" not in str(path))
    runtime = postgres.make_runtime(None)
    copied = PostgresServer(tmp_path, runtime)
    tmp_path.chmod(0o700)
    copied.prepare()
    server = copied.start()
    try:
        deadline = time.monotonic() + 60
        while not answers(copied.socket_dir):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert runtime in Path(f"/proc/{server.pid}/exe").readlink().parents
    finally:
        copied.stop(server.pid)
        server.communicate()
        shutil.rmtree(runtime)


@pytest.mark.skipif(
    os.geteuid() != 0,
    reason="only root can run as another user; otherwise every other test covers this",
)
@pytest.mark.skipif(
    not postgres._enterable(PROJECT_DIR) or python_for_everybody() is None,
    reason="the checkout or the interpreter is out of reach of other accounts",
)
def test_runs_as_an_ordinary_user():
    account = pwd.getpwnam("daemon")
    with tempfile.TemporaryDirectory(prefix="hydraulic-user-") as home:
        os.chown(home, account.pw_uid, account.pw_gid)
        directory = Path(home) / "postgres"
        as_daemon = {
            "user": account.pw_uid,
            "group": account.pw_gid,
            "extra_groups": [],
            "cwd": home,
        }
        with user_process(directory, python_for_everybody() or "", **as_daemon) as user:
            assert user.stdout is not None
            assert user.stdout.readline().startswith("postgresql://")
            assert psutil.Process(postgres_pid(directory)).username() == "daemon"
            # no other account, not even root, is the owner
            assert not answers(
                Path(json.loads((directory / "server.json").read_text())["socket_dir"])
            )
            with pytest.raises(StoreError, match="to belong to user 0"):
                ensure_embedded(directory)
        wait_until_gone(directory)


async def test_environment_chooses_the_database(tmp_path: Path, server_dsn: str, database_dsn: str):
    from app.core.settings import Settings

    named = open_store(Settings(dsn=database_dsn, var_dir=tmp_path))
    assert not await named.any_key()
    await named.close()
    assert not (tmp_path / "postgres").exists()

    settings = Settings(dsn=None, var_dir=tmp_path)
    local = open_store(settings, PoolLimits(acquire_timeout_s=60.0))
    await local.ping()
    await local.close()
    assert status_of(embedded_directory(settings)).state == "ready"
    release_embedded(embedded_directory(settings))
    await asyncio.to_thread(wait_until_gone, embedded_directory(settings))


def test_runtime_directory_of_another_user_is_not_used(tmp_path: Path):
    tmp_path.chmod(0o777)

    fresh = postgres.make_runtime(tmp_path)

    assert fresh != tmp_path
    assert fresh.stat().st_mode & 0o077 == 0
    fresh.rmdir()
    tmp_path.chmod(0o700)
    assert postgres.make_runtime(tmp_path) == tmp_path
