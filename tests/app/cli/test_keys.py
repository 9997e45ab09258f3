"""The command line of API keys."""

import asyncio
import json

import pytest

from app.store.keys import hash_secret
from app.store.store import Store
from tests.command_line import hydraulic


@pytest.fixture
def environment(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRAULIC_DSN", database_dsn)


def run(*arguments: str) -> tuple[int, str]:
    status, out, _ = hydraulic("keys", *arguments)
    return status, out


def scopes_of(dsn: str, secret: str) -> frozenset[str] | None:
    async def find() -> frozenset[str] | None:
        store = Store(dsn)
        try:
            found = await store.find_key(hash_secret(secret))
            return None if found is None else found.scopes
        finally:
            await store.close()

    return asyncio.run(find())


@pytest.mark.usefixtures("environment")
def test_key_is_created_listed_without_its_secret_and_revoked(database_dsn: str):
    code, secret = run("create", "plant historian", "--scopes", "read,ingest")
    assert code == 0
    assert scopes_of(database_dsn, secret.strip()) == {"read", "ingest"}
    code, listed = run("list")
    number, shown, scopes, state, name = listed.strip().split("\t")
    assert (scopes, state, name) == ("ingest,read", "in force", "plant historian")
    assert secret.startswith(shown.removesuffix("..."))
    assert secret.strip() not in listed
    assert run("revoke", number) == (0, "")
    assert scopes_of(database_dsn, secret.strip()) is None
    assert "revoked" in run("list")[1]


@pytest.mark.usefixtures("environment")
def test_unknown_key_is_reported():
    status, out, err = hydraulic("keys", "revoke", "77")
    assert (status, out) == (1, "")
    assert "expected the number of a key, found 77" in err


@pytest.mark.usefixtures("environment")
def test_keys_are_listed_as_json_without_secrets():
    made = json.loads(run("create", "press", "--scopes", "read", "--scopes", "admin", "--json")[1])
    (listed,) = json.loads(run("list", "--json")[1])
    assert listed == made["key"]
    assert made["secret"] not in str(listed)


def test_unknown_scope_is_a_usage_error():
    status, _, err = hydraulic("keys", "create", "someone", "--scopes", "everything")
    assert (status, "expected scopes of read, ingest" in err) == (2, True)
