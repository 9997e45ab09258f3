import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from app.core.errors import StoreError
from app.store import migrate
from app.store.migrate import read_migrations
from app.store.store import Store
from tests.app.store.test_diagnoses import diagnosis
from tests.conftest import TIMESCALE_DSN, run_sql, with_database
from tests.rows import stored_row


@pytest.fixture
async def empty_dsn(server_dsn: str):
    await run_sql(server_dsn, "create database hydraulic_empty")
    yield with_database(server_dsn, "hydraulic_empty")
    await run_sql(server_dsn, "drop database hydraulic_empty with (force)")


async def test_concurrent_migrations_of_replicas_agree(empty_dsn: str):
    stores = [Store(empty_dsn) for _ in range(4)]

    editions = await asyncio.gather(*(store.migrate() for store in stores))

    assert set(editions) == {"timescale" if TIMESCALE_DSN else "plain"}
    assert await stores[0].list_equipment() == []
    session = await asyncpg.connect(empty_dsn)
    versions = [
        row[0]
        for row in await session.fetch("select version from schema_migrations order by version")
    ]
    await session.close()
    assert versions == sorted({step.version for step in read_migrations()})
    for store in stores:
        await store.close()


async def test_replicas_that_install_the_extension_together_agree(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    statements = dict(migrate.queries()) | {
        "edition_probe": "select to_regclass('extension') is not null as installed, "
        "true as available",
        # as for an extension, the second of two concurrent statements fails
        "create_timescaledb": "create table extension (); select pg_sleep(0.2)",
    }
    steps = tuple(step for step in read_migrations() if step.version == 1)
    monkeypatch.setattr(migrate, "queries", lambda: statements)
    monkeypatch.setattr(migrate, "read_migrations", lambda: steps)
    stores = [Store(empty_dsn) for _ in range(4)]

    editions = await asyncio.gather(*(store.migrate() for store in stores))

    assert editions == ["timescale"] * 4
    for store in stores:
        await store.close()


async def test_extension_that_can_not_be_installed_leaves_the_plain_edition(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    statements = dict(migrate.queries()) | {
        "edition_probe": "select false as installed, true as available",
        "create_timescaledb": "select not_allowed()",
    }
    monkeypatch.setattr(migrate, "queries", lambda: statements)
    store = Store(empty_dsn)

    assert await store.migrate() == "plain"
    await store.close()


async def test_edited_migration_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for step in migrate._MIGRATIONS.glob("*.sql"):
        (tmp_path / step.name).write_text(step.read_text() + "-- edited\n")
    monkeypatch.setattr(migrate, "read_migrations", lambda: read_migrations(tmp_path))

    with pytest.raises(StoreError, match="found an edited file"):
        await store.migrate()


async def test_database_of_a_later_version_is_refused(store: Store, database_dsn: str):
    await run_sql(database_dsn, "insert into schema_migrations values (999, 'later', 'plain', 'x')")

    with pytest.raises(StoreError, match="found 999"):
        await store.migrate()


async def test_failing_migration_leaves_nothing(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "0001_bad.sql").write_text("create table half (a int); select broken;")
    monkeypatch.setattr(migrate, "read_migrations", lambda: read_migrations(tmp_path))
    store = Store(empty_dsn)

    with pytest.raises(StoreError, match="42703"):
        await store.migrate()

    session = await asyncpg.connect(empty_dsn)
    assert await session.fetchval("select to_regclass('half')") is None
    await session.close()


async def test_migration_of_bodies_to_text_keeps_diagnoses(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    store = Store(empty_dsn)
    steps = read_migrations()
    monkeypatch.setattr(
        migrate, "read_migrations", lambda: tuple(step for step in steps if step.version < 5)
    )
    await store.migrate()
    await store.ping()
    await run_sql(
        empty_dsn,
        "select prepare_months(array[timestamptz '2026-03-01Z'])",
        "insert into diagnoses values ('d', '2026-03-02Z', 'rig', '2026-03-02Z', '2026-03-02Z', "
        "'1', 'ok', 0.5, '{\"b\": 1.5, \"a\": null}')",
    )
    monkeypatch.undo()

    await store.migrate()

    stored = diagnosis("e", datetime(2026, 3, 1, 12, tzinfo=UTC))
    await store.insert_diagnoses([stored_row(stored)])
    old = await store.get_diagnosis("d")
    assert old is not None
    assert json.loads(old) == {"a": None, "b": 1.5}
    assert await store.get_diagnosis("e") == stored.to_json()
    await store.close()


async def test_keys_of_one_name_get_names_of_their_own(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    store = Store(empty_dsn)
    steps = read_migrations()
    monkeypatch.setattr(
        migrate, "read_migrations", lambda: tuple(step for step in steps if step.version < 10)
    )
    await store.migrate()
    insert = (
        "insert into api_keys (name, shown, secret_sha256, scopes, revoked_at) "
        "values ('a', 'x', sha256('%s'), array['read'], %s)"
    )
    for secret, revoked_at in (("1", "now()"), ("2", "null"), ("3", "null")):
        await run_sql(empty_dsn, insert % (secret, revoked_at))
    monkeypatch.undo()

    await store.migrate()

    assert [key.name for key in await store.list_keys()] == ["a", "a", "a #3"]
    await store.close()


def test_misnamed_migration_is_refused(tmp_path: Path):
    (tmp_path / "first.sql").write_text("select 1;")

    with pytest.raises(StoreError, match=r"found first\.sql"):
        read_migrations(tmp_path)


def test_both_editions_have_the_same_steps():
    steps = read_migrations()

    plain, timescale = (
        [step.version for step in steps if step.edition in (None, edition)]
        for edition in ("plain", "timescale")
    )
    assert plain == timescale == sorted(set(plain))
