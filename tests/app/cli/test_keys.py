"""The command line of API keys."""

import asyncio
import json

import pytest

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
            found = await store.find_key(secret)
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
    number, shown, scopes, *rest = listed.strip().split("\t")
    assert (scopes, rest[0], *rest[2:]) == (
        "ingest,read",
        "in force",
        "default",
        "plant historian",
    )
    assert rest[1].startswith("used 20")
    assert secret.startswith(shown.removesuffix("..."))
    assert secret.strip() not in listed
    assert run("revoke", number) == (0, "")
    assert scopes_of(database_dsn, secret.strip()) is None
    assert "revoked" in run("list")[1]


@pytest.mark.usefixtures("environment")
def test_rotated_key_has_a_new_secret_its_expiry_and_for_a_while_the_old_one(database_dsn: str):
    expires = ["--expires", "2099-01-01T00:00Z"]
    old = run("create", "press", "--scopes", "read", *expires)[1].strip()
    scopes_of(database_dsn, old)
    code, new = run("rotate", "press", "--overlap-s", "3600")
    assert code == 0
    assert new.strip() != old
    assert scopes_of(database_dsn, new.strip()) == scopes_of(database_dsn, old) == {"read"}
    of_old, of_new = (line.split("\t") for line in run("list")[1].splitlines())
    assert of_new[3] == "in force until 2099-01-01 00:00Z"
    assert of_old[3].startswith("in force until 20")
    assert of_old[3] != of_new[3]
    assert of_old[4].startswith("used 20")
    assert run("rotate", "press", "--expires", "2098-01-01T00:00Z")[0] == 0
    assert scopes_of(database_dsn, new.strip()) is None
    assert "revoked 20" in run("list")[1].splitlines()[1]


@pytest.mark.parametrize("command", [["create", "press", "--scopes", "read"], ["rotate", "press"]])
def test_expiry_in_the_past_is_refused(command: list[str]):
    status, out, err = hydraulic("keys", *command, "--expires", "2020-01-01T00:00Z")
    assert (status, out) == (1, "")
    assert "expected an expiry after now" in err


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
