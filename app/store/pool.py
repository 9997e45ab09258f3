"""The pool of connections, opened at first use.

Invariants: no statement is put together from text, values travel as parameters; a call takes at
most the acquire timeout, the command timeout and the retry time; no error of asyncpg leaves this
module, see `postgres_errors`.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

from app.core.circuit_breaker import CircuitBreaker
from app.core.errors import StoreError, StoreUnavailable
from app.core.tasks import end_tasks
from app.store.caller import SERVICE, current_caller
from app.store.database_observer import Observer, PoolSizes, Trace, untraced
from app.store.postgres_errors import LOST, PartitionMissing, translated
from app.store.statements import Row, queries

Session: TypeAlias = (
    "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
)

PATIENT = 2
"""Most connections of a process beside its pool, for work without a time limit."""

MAX_FAILURES = 6
"""Consecutive failures that open the circuit of the database; a lone statement has as many tries
within `retry_s`."""
OPEN_S = 1.0
"""How long it stays open; then one statement probes."""
MOST_RETRIES = 100.0
RETRY_SHARE = 0.1
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


class Database:
    """Connections to one database.

    `StoreUnavailable` means that the database can't be reached, `StoreError` that it refused.

    Args:
        address: the DSN, or a function that returns it; it is called in a thread when a connection
            is first needed, and again while it raises StoreUnavailable.
        limits: connections and time limits.
        trace: records each use of a connection, waiting for it included.
    """

    def __init__(
        self,
        address: str | Callable[[], str],
        limits: PoolLimits | None = None,
        trace: Trace = untraced,
    ) -> None:
        self._trace = trace
        self._address = address
        self._limits = limits or PoolLimits()
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening: asyncio.Task[asyncpg.Pool[asyncpg.Record]] | None = None
        self._patient = asyncio.Semaphore(PATIENT)
        self._breaker = CircuitBreaker(time.monotonic, MAX_FAILURES, OPEN_S)
        self._retries = RetryBudget()
        self.observer = Observer()

    @property
    def sizes(self) -> PoolSizes:
        """Numbers of connections of the pool now."""
        if self._pool is None:
            return PoolSizes(0, 0, self._limits.max_size)
        return PoolSizes(self._pool.get_size(), self._pool.get_idle_size(), self._limits.max_size)

    async def fetch(self, name: str, *arguments: object, is_claimed: bool = False) -> list[Row]:
        """Run a repeatable statement; retry while the database is unavailable.

        Pauses grow exponentially with jitter. (tenacity would cost each call 0.1 ms of CPU.) A
        statement that begins while the circuit is open fails at once, and retries of all
        statements together are few, so that a database that is back is not flooded.

        Args:
            name: of the statement in `sql/*.sql`.
            arguments: parameters of the statement.
            is_claimed: the statement sets itself whose rows it sees.

        Raises:
            StoreUnavailable: the database stayed unavailable for `retry_s`, or has been so.
            StoreError: the database refused the statement.
        """
        statement = queries()[name]
        if self._breaker.is_open:
            raise _circuit_open()
        give_up = time.monotonic() + self._limits.retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with self.session(name, is_claimed=is_claimed) as session:
                    started = time.perf_counter()
                    rows = await session.fetch(statement, *arguments)
                    self.observer.answered(name, time.perf_counter() - started)
            except StoreUnavailable:
                if time.monotonic() + pause_s > give_up or not self._retries.take():
                    raise
                self.observer.retried()
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._retries.note_success()
                return rows

    async def once(self, name: str, *arguments: object) -> list[Row]:
        """Run a statement that must not be repeated.

        Raises:
            StoreUnavailable: the database can't be reached; the statement may have taken effect.
            StoreError: the database refused the statement.
        """
        async with self.session(name) as session:
            started = time.perf_counter()
            rows = await session.fetch(queries()[name], *arguments)
            self.observer.answered(name, time.perf_counter() - started)
            return rows

    @asynccontextmanager
    async def session(
        self, name: str = "transaction", *, is_claimed: bool = False
    ) -> AsyncIterator[Session]:
        """Lend a connection of the pool, unless claimed for the caller of this task.

        Args:
            name: of what it is used for, such as the one statement.
            is_claimed: the statement sets itself whose rows it sees.

        Raises:
            StoreUnavailable: no connection is free in time, the connection was lost, or the circuit
                is open.
            StoreError: the database refused a statement.
        """
        call = self._breaker.begin()
        if call is None:
            raise _circuit_open()
        answered: bool | None = True
        try:
            with self._trace(name), self._observed(), translated():
                started = time.perf_counter()
                pool = await self._opened()
                session = await pool.acquire(timeout=self._limits.acquire_timeout_s)
                self.observer.acquired(time.perf_counter() - started)
                try:
                    async with self._for_caller(session, is_claimed=is_claimed):
                        yield session
                except LOST:
                    # the other connections are most likely lost too
                    await pool.expire_connections()
                    raise
                finally:
                    await pool.release(session, timeout=self._limits.acquire_timeout_s)
        except asyncio.CancelledError:
            answered = None
            raise
        except StoreUnavailable as error:
            # without a cause the database is still being opened, or was closed
            is_lost = isinstance(error.__cause__, (*LOST, TimeoutError))
            answered = None if error.__cause__ is None else not is_lost
            raise
        finally:
            self._breaker.end(call, answered=answered)

    @asynccontextmanager
    async def _for_caller(
        self, session: Session, *, is_claimed: bool = False
    ) -> AsyncIterator[None]:
        """Let a session see what the caller may; behind pgbouncer no setting of a session stays."""
        caller, pooled = current_caller(), self._limits.statement_cache_size == 0
        if (is_claimed or caller == SERVICE) and not pooled:
            yield
            return
        async with session.transaction():
            if pooled:
                await session.fetch(queries()["begin_session"], True)  # noqa: FBT003
            await session.fetch(queries()["act_for"], caller.setting, caller.actor)
            yield

    @asynccontextmanager
    async def patient_session(self, *, as_owner: bool = False) -> AsyncIterator[Session]:
        """Lend one of `PATIENT` connections without a time limit, for migrations and rebuilds.

        Args:
            as_owner: keep the rights of the login, which migrations need.

        Raises:
            StoreUnavailable: no connection is free in time, or the connection was lost.
            StoreError: the database refused a statement.
        """
        with self._observed(), translated():
            async with asyncio.timeout(self._limits.acquire_timeout_s):
                await self._patient.acquire()
            try:
                session = await asyncpg.connect(
                    await self._dsn(),
                    timeout=self._limits.acquire_timeout_s,
                    server_settings=_SESSION,
                    statement_cache_size=self._limits.statement_cache_size,
                )
                try:
                    if as_owner:
                        yield session
                    else:
                        await self._begin(session)
                        async with self._for_caller(session):
                            yield session
                finally:
                    await session.close(timeout=self._limits.acquire_timeout_s)
            finally:
                self._patient.release()

    async def renew_sessions(self) -> None:
        """Begin each session anew, since the schema has changed what it may do."""
        if self._pool is not None:
            await self._pool.expire_connections()

    async def _begin(self, session: Session) -> None:
        if self._limits.statement_cache_size:
            await session.fetch(queries()["begin_session"], False)  # noqa: FBT003

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """Tell the observer of failures; a missing partition is none, it is made."""
        try:
            yield
        except PartitionMissing:
            raise
        except StoreUnavailable:
            self.observer.failed("unavailable")
            raise
        except StoreError:
            self.observer.failed("refused")
            raise

    async def close(self) -> None:
        """Close the pool; the next call opens it again."""
        opening, self._opening = self._opening, None
        if opening is not None:
            await end_tasks({opening})
        pool, self._pool = self._pool, None
        if pool is not None:
            with translated():
                try:
                    async with asyncio.timeout(self._limits.acquire_timeout_s):
                        await pool.close()
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
            init=self._begin,
            reset=_no_reset,
            max_size=self._limits.max_size,
            command_timeout=self._limits.command_timeout_s,
            statement_cache_size=self._limits.statement_cache_size,
            # unlimited: otherwise every statement is prepared and planned again after five minutes
            max_cached_statement_lifetime=0,
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


class RetryBudget:
    """Counts the retries that are left: each success earns a part of one.

    After the retry budgets of Google, "Site Reliability Engineering" (2016), chapter 22.
    """

    def __init__(self) -> None:
        self._left = MOST_RETRIES

    def note_success(self) -> None:
        """Earn a part of a retry."""
        self._left = min(MOST_RETRIES, self._left + RETRY_SHARE)

    def take(self) -> bool:
        """Take a retry; return whether one was left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def _circuit_open() -> StoreUnavailable:
    return StoreUnavailable(
        "expected the database to answer, found its circuit open after repeated failures: try "
        "again in a few seconds"
    )


async def _no_reset(_: object) -> None:
    """Skip the reset of a released connection.

    No statement changes its session, and asyncpg rolls back open transactions.
    """
