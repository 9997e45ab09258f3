"""Brings a database to the schema of this version, on plain PostgreSQL or on TimescaleDB.

Migrations are the files `migrations/NNNN_name[.edition].sql`, applied in numerical order. An
applied file must not change: its SHA-256 is recorded and checked.
Invariant: each is applied once, in one transaction with its record; replicas that start together
wait for each other; a database keeps its edition.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Literal, NamedTuple, cast

import asyncpg

from app.core.errors import StoreError
from app.store.pool import Database, Session
from app.store.statements import Row, queries

logger = logging.getLogger(__name__)

Edition = Literal["plain", "timescale"]

_GRANTED = 17
"""The migration since which the application works as a role of its own."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_FILE = re.compile(
    r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)(?:\.(?P<edition>plain|timescale))?\.sql"
)


class Migration(NamedTuple):
    """One step of the schema; `edition` is None when both editions share it."""

    version: int
    name: str
    edition: Edition | None
    text: str

    @property
    def sha256(self) -> str:
        """Digest of the text, which detects edits of an applied migration."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(directory: Path = _MIGRATIONS) -> tuple[Migration, ...]:
    """Read all migrations of both editions in numerical order.

    Raises:
        StoreError: a file is not named `NNNN_name[.plain|.timescale].sql`.
    """
    found = []
    for path in sorted(directory.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise StoreError(
                "expected a migration named NNNN_name.sql or NNNN_name.EDITION.sql, found "
                f"{path.name}: rename it"
            )
        edition = cast("Edition | None", match["edition"])
        found.append(
            Migration(
                int(match["version"]), match["name"], edition, path.read_text(encoding="utf-8")
            )
        )
    return tuple(found)


class DatabaseFacts(NamedTuple):
    """What a database is, without a change to it.

    Args:
        version: of the server.
        clock_s: of the server when it answered, seconds since 1970.
        schema: number of its newest migration, 0 without any.
        expected: number of the newest migration of this version of the project.
        edition: of the schema; None without one.
        has_timescaledb: whether TimescaleDB is installed in the database.
        can_have_timescaledb: whether it is, or a first start could install it.
    """

    version: str
    clock_s: float
    schema: int
    expected: int
    edition: Edition | None
    has_timescaledb: bool
    can_have_timescaledb: bool


async def facts_of(database: Database) -> DatabaseFacts:
    """Return what a database is.

    Raises:
        StoreUnavailable: it can't be reached.
        StoreError: it refused the connection or a statement.
    """
    (found,) = await database.once("server_facts")
    (probe,) = await database.once("edition_probe")
    applied = await database.once("applied_migrations") if found["has_schema"] else []
    return DatabaseFacts(
        found["version"],
        found["clock_s"],
        max((row["version"] for row in applied), default=0),
        max(step.version for step in read_migrations()),
        cast("Edition", applied[0]["edition"]) if applied else None,
        probe["installed"],
        probe["installed"] or probe["available"],
    )


async def migrate(database: Database) -> Edition:
    """Apply the missing migrations.

    Returns:
        The edition of the database.

    Raises:
        StoreUnavailable: the database can't be reached.
        StoreError: the database refused a statement, an applied migration was edited, or the
            database was migrated by a later version of this project.
    """
    edition = await _decide_edition(database)
    # on a new connection: TimescaleDB must be loaded when the session begins
    async with database.patient_session(as_owner=True) as session, session.transaction():
        await session.execute(queries()["migration_lock"])
        applied = {
            row["version"]: row for row in await session.fetch(queries()["applied_migrations"])
        }
        steps = [step for step in read_migrations() if step.edition in (None, edition)]
        newer = applied.keys() - {step.version for step in steps}
        if newer:
            raise StoreError(
                f"expected a database of at most schema {max(step.version for step in steps)}, "
                f"found {max(newer)}: a later version of this project wrote it; run that one"
            )
        for step in steps:
            await _apply(session, step, applied.get(step.version), edition)
        if any(_GRANTED <= step.version not in applied for step in steps):
            await session.execute(queries()["grant_application"])
    await database.renew_sessions()
    return edition


async def _apply(session: Session, step: Migration, applied: Row | None, edition: Edition) -> None:
    if applied is not None:
        if applied["sha256"] != step.sha256:
            raise StoreError(
                f"expected migration {step.version:04d}_{step.name} as it was applied, found an "
                "edited file: restore it and add a new migration"
            )
        return
    await session.execute(step.text)
    await session.execute(
        queries()["record_migration"], step.version, step.name, edition, step.sha256
    )


async def _decide_edition(database: Database) -> Edition:
    """Return the edition of a database that may be new; install TimescaleDB where that is possible.

    Replicas that start together decide one after the other, so that all find the same.
    """
    async with database.patient_session(as_owner=True) as session, session.transaction():
        await session.execute(queries()["migration_lock"])
        await session.execute(queries()["create_migrations"])
        for row in await session.fetch(queries()["applied_migrations"]):
            return cast("Edition", row["edition"])
        found = await session.fetchrow(queries()["edition_probe"])
        assert found is not None
        if found["installed"]:
            return "timescale"
        if not found["available"]:
            return "plain"
        try:
            async with session.transaction():
                await session.execute(queries()["create_timescaledb"])
        except (
            asyncpg.InsufficientResourcesError,
            asyncpg.OperatorInterventionError,
            asyncpg.TransactionRollbackError,
        ):
            raise  # may succeed later, and an edition is for ever
        except asyncpg.PostgresError as error:
            # available, but not installable: mostly the right is missing. The plain edition has the
            # same interface and needs more disk
            logger.warning(
                "TimescaleDB is available but was not installed: plain edition",
                extra={"sqlstate": error.sqlstate, "reason": str(error)},
            )
            return "plain"
    return "timescale"
