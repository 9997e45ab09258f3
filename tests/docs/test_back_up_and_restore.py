"""The guides on backups and on offboarding, executed: each command as it is written there.

Paths and addresses of the guides are replaced by those of the test, nothing else. Going back to a
moment needs a server that archives its WAL: one of the embedded package's binaries.
"""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from app.cli.main import main
from app.core.errors import UnknownError
from app.store.embedded.postgres import PORT, ROLE, PostgresServer
from app.store.store import Store
from tests.conftest import run_sql, with_database
from tests.docs.test_documents import shells
from tests.system import PROJECT_DIR
from tests.waiting import wait_until

GUIDE = (PROJECT_DIR / "docs/how-to/back-up-and-restore.md").read_text(encoding="utf-8")
OFFBOARD = (PROJECT_DIR / "docs/how-to/offboard-a-tenant.md").read_text(encoding="utf-8")
ADDRESS = "postgresql://hydraulic@db.plant/hydraulic"
ARCHIVING, RECOVERING = re.findall(r"```ini\n(.*?)```", GUIDE, re.DOTALL)
TARGET = "2026-11-30 12:00:00+00"


def settings_of(text: str, places: dict[str, str]) -> list[str]:
    """Return the settings of an ini block as options of the server."""
    for written, used in places.items():
        text = text.replace(written, used)
    found = []
    for line in text.splitlines():
        name, _, value = line.partition(" = ")
        found += ["-c", f"{name}={value.strip(chr(39))}"]
    return found


def run_hydraulic(line: str, places: dict[str, str]) -> int:
    for written, used in places.items():
        line = line.replace(written, used)
    return main(shlex.split(line)[1:])


def test_commands_of_files_back_up_and_restore(
    server_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = ("hydraulic_guide", "hydraulic_guide_restored")
    source, target = (with_database(server_dsn, name) for name in names)
    places = {"/backup": str(tmp_path)}
    asyncio.run(run_sql(server_dsn, f"create database {names[0]}"))
    try:
        assert main(["tenants", "create", "plant-north", "--dsn", source]) == 0
        (check, backup, create, restore) = [
            line for line in shells(GUIDE) if line.startswith(("hydraulic store", "createdb"))
        ]
        assert run_hydraulic(check, {ADDRESS: source}) == 0
        assert run_hydraulic(f"{backup} --dsn '{source}'", places) == 0
        assert create == "createdb --host db.plant --username hydraulic hydraulic"
        asyncio.run(run_sql(server_dsn, f"create database {names[1]}"))
        assert run_hydraulic(restore, places | {ADDRESS: f"'{target}'"}) == 0
        capsys.readouterr()
        assert main(["tenants", "list", "--dsn", target]) == 0
        assert "plant-north" in capsys.readouterr().out
    finally:
        for name in names:
            asyncio.run(run_sql(server_dsn, f"drop database if exists {name} with (force)"))


def test_commands_of_offboarding_export_count_and_remove(
    database_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["tenants", "create", "plant-north", "--dsn", database_dsn]) == 0
    lines = [line for line in shells(OFFBOARD) if line]
    assert len(lines) == 3
    for line in lines:
        done = run_hydraulic(f"{line} --dsn '{database_dsn}'", {"/backup": str(tmp_path)})
        assert done == 0, line
    files = {path.name for path in (tmp_path / "plant-north").iterdir()}
    assert set(re.findall(r"`(\w+\.(?:nd)?json)`", OFFBOARD)) <= files

    async def removed() -> None:
        store = Store(database_dsn)
        with pytest.raises(UnknownError):
            await store.remove_tenant("plant-north")
        await store.close()

    asyncio.run(removed())


class Archiving:
    """A server of its own with the settings of the guide, and the directory of its backups."""

    def __init__(self, parent: Path) -> None:
        self.parent = parent
        self.backup = parent / "backup"
        self.places = {"/backup": str(self.backup), "/restored": str(parent / "restored" / "data")}
        self.server = PostgresServer(parent / "live", parent / "r1")
        account = self.server._account
        self.user = None if account is None else account.pw_uid
        self.name = None if account is None else account.pw_name
        for path in (self.backup / "wal", parent / "restored"):
            path.mkdir(parents=True)
        for path in (parent, self.backup, self.backup / "wal", parent / "restored"):
            self._own(path)

    def _own(self, path: Path) -> None:
        if self.user is not None:
            os.chown(path, self.user, -1)

    def prepare(self, server: PostgresServer) -> None:
        server.prepare()
        with (server.data / "pg_hba.conf").open("a") as file:
            file.write("local replication all peer map=owner\n")
        if self.name is not None:  # the base backup is taken by the user of the server
            with (server.data / "pg_ident.conf").open("a") as file:
                file.write(f"owner {self.name} {ROLE}\n")

    def dsn(self, server: PostgresServer) -> str:
        return f"postgresql://{ROLE}@/postgres?host={server.socket_dir}&port={PORT}"

    @contextmanager
    def running(self, server: PostgresServer, options: list[str]) -> Iterator[str]:
        """Run a server until the block ends; yield its DSN."""
        own = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={server.socket_dir}"]
        process = server._launch("postgres", [*own, *options], dies_with_parent=False)
        dsn = self.dsn(server)
        try:
            wait_until(lambda: self._is_writable(dsn) or process.poll(), "a server that answers")
            assert process.poll() is None, "the server ended: see its log above"
            yield dsn
        finally:
            server.stop(process.pid)
            print(process.communicate()[1].decode()[-4_000:])

    @staticmethod
    def _is_writable(dsn: str) -> bool:
        async def ask() -> bool:
            session = await asyncpg.connect(dsn)
            try:
                return not await session.fetchval("select pg_is_in_recovery()")
            finally:
                await session.close()

        try:
            return asyncio.run(ask())
        except (OSError, asyncpg.PostgresError):
            return False

    def shell(self, line: str, dsn: str) -> None:
        """Run a line of the guide as the user of the server."""
        for written, used in (self.places | {ADDRESS: shlex.quote(dsn)}).items():
            line = line.replace(written, used)
        binaries = self.server._binaries / "bin"
        done = subprocess.run(
            ["bash", "-euc", line],
            cwd="/",
            user=self.user,
            env={"PATH": f"{binaries}:{os.environ['PATH']}", "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)


@pytest.fixture
def archiving() -> Iterator[Archiving]:
    parent = Path(tempfile.mkdtemp(prefix="hydraulic-archive-"))
    yield Archiving(parent)
    shutil.rmtree(parent, ignore_errors=True)


def test_lost_server_is_restored_to_a_moment_from_base_backup_and_wal(archiving: Archiving):
    base, copy, mark = [
        line for line in shells(GUIDE) if line.startswith(("pg_basebackup", "cp ", "touch "))
    ]
    live = archiving.server
    archiving.prepare(live)

    async def write(dsn: str, *tenants: str) -> None:
        store = Store(dsn)
        await store.migrate()
        for tenant in tenants:
            await store.create_tenant(tenant)
        await store.close()

    async def tenants(dsn: str) -> list[str]:
        store = Store(dsn)
        found = [each.tenant for each in await store.list_tenants()]
        assert (await store.verify_audit()).broken is None
        await store.close()
        return found

    async def moment_between(dsn: str) -> str:
        """Return a time of the server's clock after what was committed and before what follows."""
        session = await asyncpg.connect(dsn)
        found: datetime = await session.fetchval("select clock_timestamp()")
        await session.close()
        await asyncio.sleep(0.05)
        return f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00"

    with archiving.running(live, settings_of(ARCHIVING, archiving.places)) as dsn:
        asyncio.run(write(dsn, "before-backup"))
        archiving.shell(base, dsn)
        asyncio.run(write(dsn, "after-backup"))
        moment = asyncio.run(moment_between(dsn))
        asyncio.run(write(dsn, "mistake"))
        asyncio.run(run_sql(dsn, "select pg_switch_wal()"))
        wait_until(lambda: archived(archiving, dsn), "archived WAL")
    shutil.rmtree(live.data)

    archiving.shell(copy, "")
    archiving.shell(mark, "")
    restored = PostgresServer(archiving.parent / "restored", archiving.parent / "r2")
    archiving.prepare(restored)
    places = archiving.places | {TARGET: moment}
    with archiving.running(restored, settings_of(RECOVERING, places)) as dsn:
        assert asyncio.run(tenants(dsn)) == ["after-backup", "before-backup", "default"]


def archived(archiving: Archiving, dsn: str) -> bool:
    """Return whether all WAL before the newest file was archived."""

    async def ask() -> int:
        session = await asyncpg.connect(dsn)
        try:
            left: int = await session.fetchval(
                "select count(*) from pg_ls_archive_statusdir() where name like '%.ready'"
            )
            return left
        finally:
            await session.close()

    time.sleep(0.1)
    return bool(list((archiving.backup / "wal").iterdir())) and asyncio.run(ask()) == 0
