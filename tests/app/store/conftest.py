"""Connections to a database of the test, without the repositories of a store."""

from collections.abc import AsyncIterator

import pytest

from app.store.pool import Database, PoolLimits


@pytest.fixture
async def database(database_dsn: str) -> AsyncIterator[Database]:
    # a busy machine may take a second for a new connection: only statements have a short limit
    opened = Database(
        database_dsn,
        PoolLimits(max_size=2, acquire_timeout_s=60.0, statement_timeout_s=5.0, retry_s=1.0),
    )
    yield opened
    await opened.close()
