"""Keys and scopes at the door."""

import asyncio

import pytest

from app.core.errors import Forbidden, StoreUnavailable, Unauthenticated
from app.serving.http.auth import AWAY_S, CACHE_S, Authenticator
from app.store.keys import KnownKey, hash_secret


class Keys:
    """The smallest store of keys: hashes to names and scopes, with a switch that takes it away."""

    def __init__(self, **secrets: str) -> None:
        self.known = {
            hash_secret(secret): KnownKey(f"{secret}'s", frozenset(scopes.split()))
            for secret, scopes in secrets.items()
        }
        self.away = False
        self.asked = 0

    async def find(self, key_hash: str) -> KnownKey | None:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("expected the database, found nothing")
        return self.known.get(key_hash)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def test_key_with_the_scope_passes_by_either_header():
    door = Authenticator(Keys(reader="read").find)
    assert await door.require(bearer("reader"), "read") == "reader's"
    await door.require({"x-api-key": "reader"}, "read")
    await door.require({"authorization": "bearer reader"}, "read")


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Basic abc"}, {"authorization": "Bearer "}, {"x-api-key": " "}],
)
async def test_no_key_is_told_how_to_send_one(headers: dict[str, str]):
    with pytest.raises(Unauthenticated, match="Authorization: Bearer KEY"):
        await Authenticator(Keys().find).require(headers, "read")


async def test_unknown_key_is_refused():
    with pytest.raises(Unauthenticated, match="unknown or revoked"):
        await Authenticator(Keys(reader="read").find).require(bearer("other"), "read")


async def test_key_without_the_scope_is_told_which_it_lacks():
    with pytest.raises(Forbidden, match="scope 'ingest', found one with read"):
        await Authenticator(Keys(reader="read").find).require(bearer("reader"), "ingest")


async def test_admin_holds_every_scope():
    await Authenticator(Keys(root="admin").find).require(bearer("root"), "ingest")


async def test_revoked_key_stops_when_the_memory_ends():
    keys, clock = Keys(reader="read"), Clock()
    door = Authenticator(keys.find, clock=clock)
    await door.require(bearer("reader"), "read")
    keys.known.clear()
    await door.require(bearer("reader"), "read")
    clock.now += CACHE_S
    with pytest.raises(Unauthenticated):
        await door.require(bearer("reader"), "read")


async def test_known_key_works_while_the_database_is_away_and_an_unknown_one_says_so():
    keys, clock = Keys(reader="read"), Clock()
    door = Authenticator(keys.find, clock=clock)
    await door.require(bearer("reader"), "read")
    keys.away = True
    clock.now += 100 * CACHE_S
    await door.require(bearer("reader"), "read")
    with pytest.raises(StoreUnavailable):
        await door.require(bearer("other"), "read")


async def test_key_of_the_environment_needs_no_store():
    keys = Keys()
    door = Authenticator(keys.find, extra_key="from-the-environment")
    assert await door.require(bearer("from-the-environment"), "admin") == "HYDRAULIC_API_KEY"
    assert keys.asked == 0


async def test_store_is_asked_once_for_many_requests():
    keys = Keys(reader="read")
    door = Authenticator(keys.find)
    for _ in range(20):
        await door.require(bearer("reader"), "read")
    assert keys.asked == 1


async def test_one_request_in_some_seconds_pays_for_a_database_that_is_away():
    keys, clock = Keys(reader="read"), Clock()
    door = Authenticator(keys.find, clock=clock)
    await door.require(bearer("reader"), "read")
    keys.away = True
    clock.now += CACHE_S
    keys.asked = 0
    await asyncio.gather(*(door.require(bearer("reader"), "read") for _ in range(20)))
    clock.now += AWAY_S / 2
    await door.require(bearer("reader"), "read")
    assert keys.asked == 1
    clock.now += AWAY_S
    await door.require(bearer("reader"), "read")
    assert keys.asked == 2
