import asyncpg
import pytest

from app.core.errors import RowsRefused, StoreError, StoreUnavailable
from app.store.pool import Database, PoolLimits
from app.store.store import Store
from tests.conftest import run_sql


async def test_refused_statement_raises_store_error(database: Database):
    with pytest.raises(StoreError, match="42601") as caught:
        async with database.session() as session:
            await session.execute("selec 1")
    assert "selec" not in caught.value.message
    assert not isinstance(caught.value, StoreUnavailable)
    with pytest.raises(StoreError, match="values that the database can hold"):
        await database.fetch("get_diagnosis", 5)


async def test_broken_address_raises_store_error():
    with pytest.raises(StoreError):
        await Database("mysql://x").once("ping")


async def test_failure_within_a_session_is_translated(database: Database):
    with pytest.raises(StoreUnavailable):
        async with database.session():
            raise asyncpg.ConnectionDoesNotExistError("gone")


async def test_database_with_an_incomplete_schema_is_unavailable(database_dsn: str):
    await run_sql(database_dsn, "alter table api_keys rename to other")
    store = Store(database_dsn, PoolLimits(retry_s=0.1))
    with pytest.raises(StoreUnavailable, match="the store is being prepared"):
        await store.any_key()
    await store.close()


async def test_message_of_a_full_server_names_the_setting_to_change(database: Database):
    with pytest.raises(StoreUnavailable, match="lower HYDRAULIC_POOL_SIZE"):
        async with database.session():
            raise asyncpg.TooManyConnectionsError("sorry, too many clients already")


@pytest.mark.parametrize(
    "error",
    [asyncpg.DiskFullError, asyncpg.PostgresIOError, asyncpg.ReadOnlySQLTransactionError],
)
async def test_database_that_cannot_write_now_is_unavailable(
    database: Database, error: type[asyncpg.PostgresError]
):
    with pytest.raises(StoreUnavailable, match="a database that can write"):
        async with database.session():
            raise error("could not extend file")


async def test_rows_that_no_retry_can_store_have_an_error_of_their_own(database: Database):
    with pytest.raises(RowsRefused):
        await database.fetch("get_diagnosis", 5)
