"""Translates the errors of asyncpg and PostgreSQL to the project's.

PostgreSQL's own text goes to the log only: messages reach callers of the HTTP interface.
"""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from app.core.errors import RowsRefused, StoreError, StoreUnavailable

logger = logging.getLogger(__name__)

LOST = (
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
"""Errors of a connection that was lost, or never made."""
_AGAIN = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_PASSING = (
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""The server is there but can't write now: no disk or memory left, an error of its disk, or it is a
standby that is not promoted yet."""


class NotVisible(StoreError):
    """A row is another tenant's; does not leave the store."""


class PartitionMissing(StoreError):
    """The month of a row has no partition yet, or no longer; does not leave the store."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise the project's error instead of one of asyncpg.

    Raises:
        StoreUnavailable: the database can't be reached, did not answer in time or can't write now.
        RowsRefused: it can't hold the rows.
        StoreError: it refused otherwise; `NotVisible` and `PartitionMissing` are two such cases.
    """
    try:
        yield
    except asyncpg.DataError as error:
        logger.warning("values refused", extra={"reason": str(error)})
        raise RowsRefused(
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
    except _PASSING as error:
        logger.warning(
            "statement refused", extra={"reason": str(error), "sqlstate": error.sqlstate}
        )
        raise StoreUnavailable(
            f"expected a database that can write, found {error.sqlstate} "
            f"({type(error).__name__}): give it disk or memory, or have the DSN lead to the "
            "primary; then try again"
        ) from error
    except LOST as error:
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
        raise RowsRefused(
            f"expected rows that the schema allows, found {error.sqlstate}: correct them"
        ) from error
    except asyncpg.PostgresError as error:
        if "violates row-level security" in str(error):
            raise NotVisible("expected rows of the caller's tenant, found another's") from error
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
