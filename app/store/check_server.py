"""What `hydraulic store check` says of the server itself: version, licence, durability, rights."""

from collections.abc import Iterator
from typing import NamedTuple

from app.store.statements import Row

LEAST_SERVER = 140_000
LEAST_TIMESCALEDB = (2, 14)
LEAST_CONNECTIONS = 40
LEAST_LOCKS = 128


class Check(NamedTuple):
    """One line of the report.

    Args:
        name: of what was checked.
        level: `ok`; `short` where something works and could be better; `failed`.
        message: what was found, and what to do.
    """

    name: str
    level: str
    message: str


def check_server(server: Row) -> Iterator[Check]:
    """Check what the statement `check_server` returned."""
    edition = f"TimescaleDB {server['timescaledb']}" if server["timescaledb"] else "plain"
    licence = f", licence {server['licence']}" if server["timescaledb"] else ""
    if server["version_number"] < LEAST_SERVER:
        yield Check(
            "server",
            "failed",
            f"expected PostgreSQL {LEAST_SERVER // 10_000} or newer, found {server['version']}: "
            "upgrade the server",
        )
    else:
        yield Check("server", "ok", f"PostgreSQL {server['version']}, edition {edition}{licence}")
    yield from _timescaledb(server)
    lossy = [name for name in ("fsync", "full_page_writes") if server[name] != "on"]
    if server["synchronous_commit"] == "off":
        lossy.append("synchronous_commit")
    if lossy:
        yield Check(
            "durability",
            "short",
            f"expected {', '.join(lossy)} to be on, found off: a crash of the server loses "
            "readings that were acknowledged; switch on, unless the data are for a test",
        )
    else:
        yield Check("durability", "ok", "commits survive a crash of the server")
    if server["wal_level"] == "minimal" or server["archive_mode"] == "off":
        yield Check(
            "archive",
            "short",
            f"expected archiving of WAL, found wal_level {server['wal_level']} and archive_mode "
            f"{server['archive_mode']}: what was written since the last backup can't be restored; "
            "see docs/how-to/back-up-and-restore.md",
        )
    else:
        yield Check("archive", "ok", f"archive_mode {server['archive_mode']}")
    if server["max_connections"] < LEAST_CONNECTIONS:
        yield Check(
            "connections",
            "short",
            f"expected max_connections of at least {LEAST_CONNECTIONS}, found "
            f"{server['max_connections']}: raise it, or lower HYDRAULIC_POOL_SIZE",
        )
    if server["encoding"] != "UTF8":
        yield Check(
            "encoding",
            "failed",
            f"expected a database of encoding UTF8, found {server['encoding']}: create one with it",
        )
    if not server["may_create"]:
        yield Check(
            "rights",
            "failed",
            "expected a login that may create schemas in its database, found one without that "
            "right: grant create on the database to it",
        )


def _timescaledb(server: Row) -> Iterator[Check]:
    if not server["timescaledb"]:
        return
    version = tuple(int(part) for part in server["timescaledb"].split("-")[0].split(".")[:2])
    if version < LEAST_TIMESCALEDB:
        yield Check(
            "extension",
            "failed",
            f"expected TimescaleDB {'.'.join(map(str, LEAST_TIMESCALEDB))} or newer, found "
            f"{server['timescaledb']}: run `alter extension timescaledb update`",
        )
    if server["licence"] != "timescale":
        yield Check(
            "licence",
            "short",
            f"expected timescaledb.license = timescale, found {server['licence']}: nothing is "
            "compressed, hourly health is worked out at each request, and the service itself "
            "drops old data; install the community edition to change that",
        )
    if server["max_locks"] < LEAST_LOCKS:
        yield Check(
            "locks",
            "short",
            f"expected max_locks_per_transaction of at least {LEAST_LOCKS}, found "
            f"{server['max_locks']}: a backup locks every chunk and fails with some thousand",
        )
