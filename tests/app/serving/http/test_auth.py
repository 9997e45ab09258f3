"""API keys and their scopes."""

import asyncio
import gc

import pytest

from app.core.errors import Forbidden, StoreUnavailable, Unauthenticated
from app.serving.http import auth
from app.serving.http.auth import AWAY_S, CACHE_S, Authenticator
from app.store.caller import SERVICE, Caller, acting_as, current_caller
from app.store.keys import KnownKey


class Keys:
    """A store of keys in memory that can be switched off."""

    def __init__(self, **secrets: str) -> None:
        self.known = {
            secret: KnownKey(f"{secret}'s", frozenset(scopes.split()))
            for secret, scopes in secrets.items()
        }
        self.away = False
        self.lookups = 0

    async def find(self, secret: str) -> KnownKey | None:
        self.lookups += 1
        if self.away:
            raise StoreUnavailable("expected the database, found nothing")
        return self.known.get(secret)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def test_key_with_the_scope_passes_by_either_header():
    authenticator = Authenticator(Keys(reader="read").find)
    assert (await authenticator.require(bearer("reader"), "read")).name == "reader's"
    await authenticator.require({"x-api-key": "reader"}, "read")
    await authenticator.require({"authorization": "bearer reader"}, "read")


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Basic abc"}, {"authorization": "Bearer "}, {"x-api-key": " "}],
)
async def test_request_without_a_key_explains_how_to_send_one(headers: dict[str, str]):
    with pytest.raises(Unauthenticated, match="Authorization: Bearer KEY"):
        await Authenticator(Keys().find).require(headers, "read")


async def test_unknown_key_is_refused():
    with pytest.raises(Unauthenticated, match="unknown or revoked"):
        await Authenticator(Keys(reader="read").find).require(bearer("other"), "read")


async def test_key_without_the_scope_is_refused_by_name():
    with pytest.raises(Forbidden, match="scope 'ingest', found one with read"):
        await Authenticator(Keys(reader="read").find).require(bearer("reader"), "ingest")


async def test_admin_includes_every_scope():
    await Authenticator(Keys(root="admin").find).require(bearer("root"), "ingest")


async def test_revoked_key_stops_when_its_cache_entry_expires():
    keys, clock = Keys(reader="read"), Clock()
    authenticator = Authenticator(keys.find, clock=clock)
    await authenticator.require(bearer("reader"), "read")
    keys.known.clear()
    await authenticator.require(bearer("reader"), "read")
    clock.now += CACHE_S
    with pytest.raises(Unauthenticated):
        await authenticator.require(bearer("reader"), "read")


async def test_cancelled_lookup_does_not_prolong_a_revoked_key():
    keys, clock = Keys(reader="read"), Clock()
    held = asyncio.Event()

    async def slow(secret: str) -> KnownKey | None:
        await held.wait()
        return await keys.find(secret)

    held.set()
    authenticator = Authenticator(slow, clock=clock)
    await authenticator.require(bearer("reader"), "read")
    keys.known.clear()
    held.clear()
    clock.now += CACHE_S
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await authenticator.require(bearer("reader"), "read")
    held.set()
    await asyncio.sleep(0.01)
    with pytest.raises(Unauthenticated):
        await authenticator.require(bearer("reader"), "read")


async def test_lookup_that_fails_without_anyone_waiting_is_silent(caplog: pytest.LogCaptureFixture):
    async def away(_: str) -> KnownKey | None:
        await asyncio.sleep(0.01)
        raise StoreUnavailable("away")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await Authenticator(away).require(bearer("reader"), "read")
    await asyncio.sleep(0.02)
    gc.collect()
    assert not caplog.records


async def test_expired_key_stops_at_once_even_while_the_database_is_away():
    keys, clock = Keys(reader="read"), Clock()
    keys.known["reader"] = keys.known["reader"]._replace(valid_s=3.0)
    authenticator = Authenticator(keys.find, clock=clock)
    await authenticator.require(bearer("reader"), "read")
    keys.away = True
    clock.now += 2.9
    await authenticator.require(bearer("reader"), "read")
    clock.now += 0.2
    with pytest.raises(Unauthenticated):
        await authenticator.require(bearer("reader"), "read")


async def test_flood_of_wrong_keys_leaves_known_ones_cached(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(auth, "CACHE_SIZE", 10)
    keys = Keys(reader="read")
    authenticator = Authenticator(keys.find)
    await authenticator.require(bearer("reader"), "read")
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await authenticator.require(bearer(f"wrong-{number}"), "read")
    keys.away = True
    await authenticator.require(bearer("reader"), "read")


async def test_wrong_key_is_looked_up_once_in_a_while():
    keys = Keys()
    authenticator = Authenticator(keys.find)
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await authenticator.require(bearer("wrong"), "read")
    assert keys.lookups == 1


@pytest.mark.parametrize(
    ("tenant", "scopes", "operates"),
    [("default", "admin", True), ("north", "admin", False), ("default", "read", False)],
)
async def test_admin_of_the_default_tenant_alone_operates_the_installation(
    tenant: str, scopes: str, operates: bool
):
    keys = Keys(someone=scopes)
    keys.known["someone"] = keys.known["someone"]._replace(tenant=tenant)
    authenticator = Authenticator(keys.find)
    with acting_as(SERVICE):
        if operates:
            await authenticator.require(bearer("someone"), "operator")
            assert current_caller() == Caller(None, "someone's")
        else:
            with pytest.raises(Forbidden, match="operates the installation"):
                await authenticator.require(bearer("someone"), "operator")
            assert current_caller() == SERVICE


async def test_task_works_for_the_tenant_of_the_key():
    keys = Keys(reader="read")
    keys.known["reader"] = keys.known["reader"]._replace(tenant="north")
    with acting_as(SERVICE):
        await Authenticator(keys.find).require(bearer("reader"), "read")
        assert current_caller() == Caller("north", "reader's")


async def test_cached_key_works_while_the_database_is_away():
    keys, clock = Keys(reader="read"), Clock()
    authenticator = Authenticator(keys.find, clock=clock)
    await authenticator.require(bearer("reader"), "read")
    keys.away = True
    clock.now += 100 * CACHE_S
    await authenticator.require(bearer("reader"), "read")
    with pytest.raises(StoreUnavailable):
        await authenticator.require(bearer("other"), "read")


async def test_key_of_the_environment_needs_no_lookup():
    keys = Keys()
    authenticator = Authenticator(keys.find, extra_key="from-the-environment")
    key = await authenticator.require(bearer("from-the-environment"), "operator")
    assert key.name == "HYDRAULIC_API_KEY"
    assert keys.lookups == 0


async def test_many_requests_need_one_lookup():
    keys = Keys(reader="read")
    authenticator = Authenticator(keys.find)
    for _ in range(20):
        await authenticator.require(bearer("reader"), "read")
    assert keys.lookups == 1


async def test_one_request_in_some_seconds_waits_for_an_unavailable_database():
    keys, clock = Keys(reader="read"), Clock()
    authenticator = Authenticator(keys.find, clock=clock)
    await authenticator.require(bearer("reader"), "read")
    keys.away = True
    clock.now += CACHE_S
    keys.lookups = 0
    await asyncio.gather(*(authenticator.require(bearer("reader"), "read") for _ in range(20)))
    clock.now += AWAY_S / 2
    await authenticator.require(bearer("reader"), "read")
    assert keys.lookups == 1
    clock.now += AWAY_S
    await authenticator.require(bearer("reader"), "read")
    assert keys.lookups == 2
