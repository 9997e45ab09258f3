from datetime import UTC, datetime

import asyncpg
import pytest

from app.core.errors import StoreError
from app.store.keys import hash_secret
from app.store.store import Store


async def test_key_is_found_by_its_hash_until_it_is_revoked(store: Store):
    assert not await store.any_key()
    created = await store.create_key("line 3", ["read", "diagnose", "read"])

    assert await store.any_key()
    assert await store.find_key(hash_secret(created.secret)) == ("line 3", {"read", "diagnose"})
    assert await store.find_key(hash_secret("hd_wrong")) is None
    assert await store.revoke_key(created.key.key_id)
    assert await store.find_key(hash_secret(created.secret)) is None
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
    assert await store.find_key(hash_secret(first.secret)) is not None
    await store.revoke_key_of("line 3")
    for key in (first, second, third):
        assert await store.find_key(hash_secret(key.secret)) is None


async def test_secret_is_nowhere_in_the_database(store: Store, database_dsn: str):
    created = await store.create_key("line 3", ["admin"])

    session = await asyncpg.connect(database_dsn)
    stored = await session.fetchval("select key::text from api_keys key")
    await session.close()

    assert len(created.secret) > 40
    assert created.secret not in stored
    assert hash_secret(created.secret) in stored
    assert "secret" not in created.key.model_dump()


async def test_unknown_scope_is_refused(store: Store):
    with pytest.raises(StoreError):
        await store.create_key("x", ["root"])
    with pytest.raises(StoreError):
        await store.create_key("x", [])
