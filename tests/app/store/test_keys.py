import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import asyncpg
import pytest

from app.core.errors import StoreError
from app.store import keys, migrate
from app.store.keys import handle_of, hash_secret, new_secret
from app.store.migrate import read_migrations
from app.store.store import Store
from tests.conftest import run_sql, with_database


async def test_key_is_found_by_its_hash_until_it_is_revoked(store: Store):
    assert not await store.any_key()
    created = await store.create_key("line 3", ["read", "diagnose", "read"])

    assert await store.any_key()
    found = await store.find_key(created.secret)
    assert found == ("line 3", {"read", "diagnose"}, "default", None)
    assert await store.find_key("hd_wrong") is None
    assert await store.revoke_key(created.key.key_id)
    assert await store.find_key(created.secret) is None
    assert not await store.any_key()
    (listed,) = await store.list_keys()
    assert listed.revoked_at is not None
    assert not await store.revoke_key(listed.key_id + 1)


async def test_revoked_and_rotated_name_ends_older_secrets_that_overlap(store: Store):
    first = await store.create_key("line 3", ["read"])
    now = datetime.now(UTC)
    second = await store.rotate_key("line 3", None, 3600.0, now)
    third = await store.rotate_key("line 3", None, 60.0, now)
    ends = {key.key_id: key.revoked_at for key in await store.list_keys()}
    assert ends[first.key.key_id] == ends[second.key.key_id]
    assert await store.find_key(first.secret) is not None
    await store.revoke_key_of("line 3")
    for key in (first, second, third):
        assert await store.find_key(key.secret) is None


async def test_secret_is_nowhere_in_the_database(store: Store, database_dsn: str):
    created = await store.create_key("line 3", ["admin"])

    session = await asyncpg.connect(database_dsn)
    stored = await session.fetchval("select key::text from api_keys key")
    salt, kept = await session.fetchrow("select salt, secret_hash from api_keys")
    await session.close()

    assert re.fullmatch(r"hd_[0-9a-f]{16}_[\w-]{43}", created.secret)
    assert created.secret not in stored
    assert created.secret[-43:] not in stored
    assert hashlib.sha256(created.secret.encode()).hexdigest() not in stored
    assert kept == hash_secret(created.secret, salt)
    assert "secret" not in created.key.model_dump()


def test_hash_of_a_secret_depends_on_the_salt():
    secret = new_secret()
    assert hash_secret(secret, b"a" * 16) != hash_secret(secret, b"b" * 16)


async def test_known_handle_with_another_secret_is_no_key(store: Store):
    created = await store.create_key("line 3", ["read"])
    other = created.secret[:-1] + ("a" if created.secret[-1] != "a" else "b")
    assert handle_of(other) == handle_of(created.secret)
    assert await store.find_key(other) is None
    assert await store.find_key(created.secret) is not None


@pytest.mark.parametrize("known", [True, False])
async def test_wrong_secret_is_refused_by_one_comparison_of_whole_hashes(
    store: Store, monkeypatch: pytest.MonkeyPatch, known: bool
):
    """Whether a key has the handle or not, hashes of full length are compared in constant time."""
    created = await store.create_key("line 3", ["read"])
    wrong = created.secret[:-43] + new_secret()[-43:] if known else new_secret()
    compared = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((len(first), len(second)))
        return hmac.compare_digest(first, second)

    monkeypatch.setattr(keys, "hmac", SimpleNamespace(compare_digest=compare))
    assert await store.find_key(wrong) is None
    assert compared == [(32, 32)]


async def test_key_from_before_handles_keeps_working(
    server_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    """A secret of the old form, whose row has an unsalted hash, before the migration."""
    name, secret = "hydraulic_old_keys", "hd_" + "x" * 43
    await run_sql(server_dsn, f"create database {name}")
    dsn = with_database(server_dsn, name)
    store = Store(dsn)
    steps = read_migrations()
    monkeypatch.setattr(
        migrate, "read_migrations", lambda: tuple(step for step in steps if step.version < 16)
    )
    try:
        await store.migrate()
        await run_sql(
            dsn,
            "insert into api_keys (name, shown, secret_sha256, scopes) "
            f"values ('old', 'hd_xxxxxx', sha256('{secret}'), array['read'])",
        )
        monkeypatch.undo()
        await store.migrate()
        found = await store.find_key(secret)
        assert found is not None
        assert (found.name, found.tenant, found.scopes) == ("old", "default", {"read"})
        assert await store.find_key("hd_" + "y" * 43) is None
    finally:
        await store.close()
        await run_sql(server_dsn, f"drop database {name} with (force)")


async def test_time_left_of_a_key_is_known(store: Store):
    soon = datetime.now(UTC) + timedelta(seconds=100)
    created = await store.create_key("line 3", ["read"], expires_at=soon)
    found = await store.find_key(created.secret)
    assert found is not None
    assert found.valid_s is not None
    assert 0 < found.valid_s <= 100


async def test_unknown_scope_is_refused(store: Store):
    with pytest.raises(StoreError):
        await store.create_key("x", ["root"])
    with pytest.raises(StoreError):
        await store.create_key("x", [])
