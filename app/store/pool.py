"""The pool of connections, made when it is first needed, and the one place where asyncpg's errors become ours.

It knows no table. Every statement is named in `queries.sql`.
Invariant: a caller waits at most for the acquire timeout, the command timeout and the retries; no asyncpg error gets out.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import asyncpg

from app.core.errors import StoreError, StoreUnavailable
from app.store.sql import queries

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
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
PATIENT = 2
"""Most connections of a process beside its pool: those of work without limits of time."""

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5

# Plans are made once for a connection: planning over a year of partitions takes longer than reading a window, and the
# functions prune by the times they are given. Just-in-time compilation takes longer than any statement here.
_SESSION = {"jit": "off", "timezone": "UTC", "plan_cache_mode": "force_generic_plan"}


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many connections, how long to wait for what.

    Args:
        max_size: most connections of this process's pool; `PATIENT` more for registering and migrating.
        acquire_timeout_s: longest wait for a connection, a new one's handshake included.
        statement_timeout_s: when the server gives a statement up.
        command_timeout_s: when we do; above `statement_timeout_s`, so that the server's clearer answer comes first.
        retry_s: how long a statement that may be repeated is tried again while the database is away.
        statement_cache_size: prepared statements a connection keeps; 0 behind pgbouncer in transaction mode, which must
            also be told `ignore_startup_parameters = jit,plan_cache_mode,statement_timeout,timezone`.
    """

    max_size: int = 8
    acquire_timeout_s: float = 3.0
    statement_timeout_s: float = 20.0
    command_timeout_s: float = 25.0
    retry_s: float = 3.0
    statement_cache_size: int = 100


class PartitionMissing(StoreError):
    """A row's month has no partition: it was never made, or dropped since. It does not leave the store."""


class Database:
    """Connections to one database.

    Args:
        address: the DSN, or what finds it out; called in a thread when a connection is first needed, and again while it
            raises StoreUnavailable.
        limits: how many and how long.
    """

    def __init__(self, address: str | Callable[[], str], limits: PoolLimits | None = None) -> None:
        self._address = address
        self._limits = limits or PoolLimits()
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening: asyncio.Task[asyncpg.Pool[asyncpg.Record]] | None = None
        self._patient = asyncio.Semaphore(PATIENT)

    async def fetch(self, name: str, *arguments: object) -> list[Row]:
        """Run a statement that may be repeated without harm, and again while the database is away.

        Args:
            name: in `queries.sql`.
            arguments: the statement's parameters.

        Raises:
            StoreUnavailable: the database can't be reached.
            StoreError: it refused.
        """
        statement = queries()[name]
        return await self.repeat(lambda session: session.fetch(statement, *arguments))

    async def once(self, name: str, *arguments: object) -> list[Row]:
        """Run a statement that must not be repeated.

        Raises:
            StoreUnavailable: the database can't be reached; whether the statement took effect is not known.
            StoreError: it refused.
        """
        async with self.session() as session:
            return await session.fetch(queries()[name], *arguments)

    async def repeat(self, work: Callable[[Session], Awaitable[Answer]]) -> Answer:
        """Do work that may be repeated without harm on a connection, and again while the database is away.

        Raises:
            StoreUnavailable: the database can't be reached.
            StoreError: it refused.
        """
        give_up = time.monotonic() + self._limits.retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with self.session() as session:
                    return await work(session)
            except StoreUnavailable:
                if time.monotonic() + pause_s > give_up:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Lend a connection of the pool.

        Raises:
            StoreUnavailable: there is none, or it was lost meanwhile.
            StoreError: the database refused what was asked.
        """
        with _translated():
            pool = await self._opened()
            session = await pool.acquire(timeout=self._limits.acquire_timeout_s)
            try:
                yield session
            except _LOST:
                # The others are most likely as dead as this one.
                await pool.expire_connections()
                raise
            finally:
                await pool.release(session, timeout=self._limits.acquire_timeout_s)

    @asynccontextmanager
    async def patient_session(self) -> AsyncIterator[Session]:
        """Lend one of `PATIENT` connections beside the pool, without limits of time: for migrations and rebuilding.

        Raises:
            StoreUnavailable: there is none, or it was lost meanwhile.
            StoreError: the database refused what was asked.
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
        """Close the pool; it opens again when it is used again."""
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
            # A caller that stopped waiting does not ask how it ended.
            self._opening.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        opening = self._opening
        # Starting the local server takes up to a minute; the callers share one attempt and none waits that long for it.
        await asyncio.wait({opening}, timeout=self._limits.acquire_timeout_s)
        if not opening.done():
            raise StoreUnavailable(
                f"expected the database within {self._limits.acquire_timeout_s:g} s, found it still starting: ask again in a "
                "few seconds"
            )
        if opening.cancelled():
            raise StoreUnavailable("expected an open store, found it closed meanwhile: ask again")
        return opening.result()

    async def _open(self) -> "asyncpg.Pool[asyncpg.Record]":
        self._pool = await asyncpg.create_pool(
            await self._dsn(),
            # None to begin with: a replica starts while the database is down.
            min_size=0,
            reset=_left_as_it_was,
            max_size=self._limits.max_size,
            command_timeout=self._limits.command_timeout_s,
            statement_cache_size=self._limits.statement_cache_size,
            # Without end: asyncpg would prepare, and the server plan, everything again every five minutes.
            max_cached_statement_lifetime=0,
            # In `init=` a SET would be undone when the connection goes back.
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


async def _left_as_it_was(_: object) -> None:
    """Ask nothing of the server when a connection goes back.

    No statement here changes its session, and asyncpg itself ends a transaction that was left open.
    """


@contextmanager
def _translated() -> Iterator[None]:
    """Make our errors of asyncpg's. What PostgreSQL says goes to the log: messages reach callers of the HTTP interface."""
    try:
        yield
    except asyncpg.DataError as error:
        logger.warning("values refused", extra={"reason": str(error)})
        raise StoreError(
            f"expected values that the database can hold, found others ({type(error).__name__}): correct them"
        ) from error
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise StoreError(
            "expected a DSN as postgresql://user:password@host/database, found another: correct it"
        ) from error
    except TimeoutError as error:
        raise StoreUnavailable(
            "expected the database to answer in time, found that it did not: ask again, or look at its load"
        ) from error
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError) as error:
        logger.debug("schema incomplete", extra={"reason": str(error)})
        raise StoreUnavailable(
            f"expected the schema of this version, found {error.sqlstate}: the store is being prepared, ask again in a few "
            "seconds"
        ) from error
    except (asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, *_AGAIN) as error:
        logger.debug("statement given up", extra={"reason": str(error)})
        raise StoreUnavailable(
            f"expected the statement to go through, found {error.sqlstate} ({type(error).__name__}): ask again"
        ) from error
    except asyncpg.TooManyConnectionsError as error:
        logger.debug("connection refused", extra={"reason": str(error)})
        raise StoreUnavailable(
            "expected a free connection, found all that the server allows in use: lower HYDRAULIC_POOL_SIZE, run fewer "
            "replicas, raise the server's max_connections, or put pgbouncer before it"
        ) from error
    except _LOST as error:
        logger.debug("database lost", extra={"reason": str(error)})
        raise StoreUnavailable(
            f"expected to reach the database, found {type(error).__name__}: it may be starting; ask again"
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
            f"expected the database to take the statement, found {error.sqlstate} ({type(error).__name__}): read the log"
        ) from error


def first_value(rows: list[Row]) -> Any:
    """Return the first column of the first row; None when there is no row."""
    return rows[0][0] if rows else None
