"""The pool of connections, opened at first use; translates asyncpg's errors to the project's.

Statements are named in `sql/*.sql`: each follows `-- name: NAME` and a line with its purpose.
Invariants: no statement is put together from text, values travel as parameters; a call takes at
most the acquire timeout, the command timeout and the retry time; no error of asyncpg leaves this
module.
"""

import asyncio
import logging
import random
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from app.core.errors import StoreError, StoreUnavailable

logger = logging.getLogger(__name__)

Row: TypeAlias = asyncpg.Record
Session: TypeAlias = (
    "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
)

_LOST = (
    OSError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ConnectionFailureError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
_AGAIN = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
SQL_DIRECTORY = Path(__file__).parent / "sql"
_STATEMENT = re.compile(r"^-- name: (\w+)\n-- .+\n((?:(?!-- name: ).*\n)+)", re.MULTILINE)
PATIENT = 2
"""Most connections of a process beside its pool, for work without a time limit."""

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5

# Each connection plans a statement once: planning over a year of partitions takes longer than
# reading a window, and the functions prune partitions by their time parameters. JIT compilation
# takes longer than any statement.
_SESSION = {"jit": "off", "timezone": "UTC", "plan_cache_mode": "force_generic_plan"}


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Numbers of connections and time limits.

    Args:
        max_size: most connections of the pool; `PATIENT` more for registrations and migrations.
        acquire_timeout_s: longest wait for a connection, including the handshake of a new one.
        statement_timeout_s: time after which the server cancels a statement.
        command_timeout_s: time after which the client gives up; larger than `statement_timeout_s`,
            so that the server's clearer error comes first.
        retry_s: how long a repeatable statement is retried while the database is unavailable.
        statement_cache_size: prepared statements per connection; 0 behind pgbouncer in transaction
            mode, which also needs the setting
            `ignore_startup_parameters = jit,plan_cache_mode,statement_timeout,timezone`.
    """

    max_size: int = 8
    acquire_timeout_s: float = 3.0
    statement_timeout_s: float = 20.0
    command_timeout_s: float = 25.0
    retry_s: float = 3.0
    statement_cache_size: int = 100


class PartitionMissing(StoreError):
    """The month of a row has no partition yet, or no longer; does not leave the store."""


class Database:
    """Connections to one database.

    `StoreUnavailable` means that the database can't be reached, `StoreError` that it refused.

    Args:
        address: the DSN, or a function that returns it; it is called in a thread when a connection
            is first needed, and again while it raises StoreUnavailable.
        limits: connections and time limits.
    """

    def __init__(self, address: str | Callable[[], str], limits: PoolLimits | None = None) -> None:
        self._address = address
        self._limits = limits or PoolLimits()
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening: asyncio.Task[asyncpg.Pool[asyncpg.Record]] | None = None
        self._patient = asyncio.Semaphore(PATIENT)

    async def fetch(self, name: str, *arguments: object) -> list[Row]:
        """Run a repeatable statement; retry while the database is unavailable.

        Pauses grow exponentially with jitter. (tenacity would cost each call 0.1 ms of CPU.)

        Args:
            name: of the statement in `sql/*.sql`.
            arguments: parameters of the statement.

        Raises:
            StoreUnavailable: the database stayed unavailable for `retry_s`.
            StoreError: the database refused the statement.
        """
        statement = queries()[name]
        give_up = time.monotonic() + self._limits.retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with self.session() as session:
                    return await session.fetch(statement, *arguments)
            except StoreUnavailable:
                if time.monotonic() + pause_s > give_up:
                    raise
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def once(self, name: str, *arguments: object) -> list[Row]:
        """Run a statement that must not be repeated.

        Raises:
            StoreUnavailable: the database can't be reached; the statement may have taken effect.
            StoreError: the database refused the statement.
        """
        async with self.session() as session:
            return await session.fetch(queries()[name], *arguments)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Lend a connection of the pool.

        Raises:
            StoreUnavailable: no connection is free in time, or the connection was lost.
            StoreError: the database refused a statement.
        """
        with _translated():
            pool = await self._opened()
            session = await pool.acquire(timeout=self._limits.acquire_timeout_s)
            try:
                yield session
            except _LOST:
                # the other connections are most likely lost too
                await pool.expire_connections()
                raise
            finally:
                await pool.release(session, timeout=self._limits.acquire_timeout_s)

    @asynccontextmanager
    async def patient_session(self) -> AsyncIterator[Session]:
        """Lend one of `PATIENT` connections without a time limit, for migrations and rebuilds.

        Raises:
            StoreUnavailable: no connection is free in time, or the connection was lost.
            StoreError: the database refused a statement.
        """
        with _translated():
            await asyncio.wait_for(self._patient.acquire(), self._limits.acquire_timeout_s)
            try:
                session = await asyncpg.connect(
                    await self._dsn(),
                    timeout=self._limits.acquire_timeout_s,
                    server_settings=_SESSION,
                    statement_cache_size=self._limits.statement_cache_size,
                )
                try:
                    yield session
                finally:
                    await session.close(timeout=self._limits.acquire_timeout_s)
            finally:
                self._patient.release()

    async def close(self) -> None:
        """Close the pool; the next call opens it again."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            await asyncio.wait({opening})
        pool, self._pool = self._pool, None
        if pool is not None:
            with _translated():
                try:
                    await asyncio.wait_for(pool.close(), self._limits.acquire_timeout_s)
                except TimeoutError:
                    pool.terminate()

    async def _opened(self) -> "asyncpg.Pool[asyncpg.Record]":
        if self._pool is not None:
            return self._pool
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
            # retrieves the exception in case every caller stopped waiting
            self._opening.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        opening = self._opening
        # starting the local server takes up to a minute: callers share one attempt and wait less
        await asyncio.wait({opening}, timeout=self._limits.acquire_timeout_s)
        if not opening.done():
            raise StoreUnavailable(
                f"expected the database within {self._limits.acquire_timeout_s:g} s, found it "
                "still starting: try again in a few seconds"
            )
        if opening.cancelled():
            raise StoreUnavailable("expected an open store, found it closed: try again")
        return opening.result()

    async def _open(self) -> "asyncpg.Pool[asyncpg.Record]":
        self._pool = await asyncpg.create_pool(
            await self._dsn(),
            # no connection at first: a replica can start while the database is down
            min_size=0,
            reset=_no_reset,
            max_size=self._limits.max_size,
            command_timeout=self._limits.command_timeout_s,
            statement_cache_size=self._limits.statement_cache_size,
            # unlimited: otherwise every statement is prepared and planned again after five minutes
            max_cached_statement_lifetime=0,
            # a SET in `init=` would be undone when the connection is released
            server_settings=_SESSION
            | {"statement_timeout": str(round(self._limits.statement_timeout_s * 1000))},
        )
        return self._pool

    async def _dsn(self) -> str:
        return (
            self._address
            if isinstance(self._address, str)
            else await asyncio.to_thread(self._address)
        )


async def _no_reset(_: object) -> None:
    """Skip the reset of a released connection.

    No statement changes its session, and asyncpg rolls back open transactions.
    """


@contextmanager
def _translated() -> Iterator[None]:
    """Translate asyncpg's errors.

    PostgreSQL's own text goes to the log only: messages reach callers of the HTTP interface.
    """
    try:
        yield
    except asyncpg.DataError as error:
        logger.warning("values refused", extra={"reason": str(error)})
        raise StoreError(
            "expected values that the database can hold, found others "
            f"({type(error).__name__}): correct them"
        ) from error
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise StoreError(
            "expected a DSN as postgresql://user:password@host/database, found another: correct it"
        ) from error
    except TimeoutError as error:
        raise StoreUnavailable(
            "expected the database to answer in time, found that it did not: try again, or check "
            "its load"
        ) from error
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError) as error:
        logger.debug("schema incomplete", extra={"reason": str(error)})
        raise StoreUnavailable(
            f"expected the schema of this version, found {error.sqlstate}: the store is being "
            "prepared, try again in a few seconds"
        ) from error
    except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, *_AGAIN) as error:
        logger.debug("statement cancelled", extra={"reason": str(error)})
        raise StoreUnavailable(
            f"expected the statement to complete, found {error.sqlstate} "
            f"({type(error).__name__}): try again"
        ) from error
    except asyncpg.TooManyConnectionsError as error:
        logger.debug("connection refused", extra={"reason": str(error)})
        raise StoreUnavailable(
            "expected a free connection, found all that the server allows in use: lower "
            "HYDRAULIC_POOL_SIZE, run fewer replicas, raise the server's max_connections, or put "
            "pgbouncer before it"
        ) from error
    except _LOST as error:
        logger.debug("database lost", extra={"reason": str(error)})
        raise StoreUnavailable(
            f"expected to reach the database, found {_cause(error)}: it may be starting; try "
            "again, or correct HYDRAULIC_DSN"
        ) from error
    except asyncpg.InvalidCatalogNameError as error:
        raise StoreError(
            "expected the database that the DSN names, found none of that name on the server: "
            "create it with createdb, or correct HYDRAULIC_DSN"
        ) from error
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise StoreError(
            "expected a user and a password that the database accepts, found others: correct "
            "HYDRAULIC_DSN"
        ) from error
    except asyncpg.CheckViolationError as error:
        if "no partition of relation" in str(error):
            raise PartitionMissing(
                "expected a partition for the month of each row, found none: make it"
            ) from error
        logger.warning("rows refused", extra={"reason": str(error)})
        raise StoreError(
            f"expected rows that the schema allows, found {error.sqlstate}: correct them"
        ) from error
    except asyncpg.PostgresError as error:
        logger.warning(
            "statement refused", extra={"reason": str(error), "sqlstate": error.sqlstate}
        )
        raise StoreError(
            f"expected the database to accept the statement, found {error.sqlstate} "
            f"({type(error).__name__}): read the log"
        ) from error


def _cause(error: BaseException) -> str:
    """Return why a connection failed, in words."""
    if isinstance(error, socket.gaierror):
        return "no host of that name"
    if isinstance(error, ConnectionRefusedError):
        return "no server at that host and port"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "the connection lost"


@cache
def queries() -> Mapping[str, str]:
    """Return all statements by name."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(SQL_DIRECTORY.glob("*.sql"))]
    return {name: text.strip() for name, text in _STATEMENT.findall("\n".join([*texts, ""]))}


def first_value(rows: list[Row]) -> Any:
    """Return the first column of the first row; None when there is no row."""
    return rows[0][0] if rows else None


def columns_of(rows: Iterable[Iterable[object]], width: int = 0) -> list[list[object]]:
    """Transpose rows into the array parameters of a statement.

    Args:
        rows: of equal width.
        width: number of columns when there are no rows.
    """
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
