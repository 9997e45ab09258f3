"""API keys over HTTP: created once, listed without secrets, rotated, revoked."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from app.core.errors import StoreError
from app.serving.http import auth
from app.serving.ingress.deployment import Service
from app.store.keys import handle_of
from app.store.store import Store


@pytest.fixture(autouse=True)
def uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look each key up: replicas cache keys for some seconds."""
    monkeypatch.setattr(auth, "CACHE_S", 0.0)


async def status_with(client: httpx.AsyncClient, secret: str, path: str = "/v1/equipment") -> int:
    headers = {"authorization": f"Bearer {secret}"}
    return (await client.get(path, headers=headers)).status_code


async def test_key_works_until_it_is_revoked(client: httpx.AsyncClient):
    order = {"name": "line 3", "scopes": ["read", "read"]}
    created = await client.post("/v1/keys", json=order)
    secret = created.json()["secret"]
    assert (created.status_code, created.headers["cache-control"]) == (201, "no-store")
    assert created.json()["key"]["scopes"] == ["read"]
    assert await status_with(client, secret) == 200
    assert await status_with(client, secret, "/v1/keys") == 403
    taken = await client.post("/v1/keys", json=order)
    assert (taken.status_code, taken.json()["type"].rsplit(":", 1)[-1]) == (409, "conflict")
    assert (await client.delete("/v1/keys/line 3")).status_code == 204
    assert await status_with(client, secret) == 401
    assert (await client.delete("/v1/keys/line 3")).status_code == 404
    assert (await client.post("/v1/keys", json=order)).status_code == 201


async def test_list_has_no_secret_but_use_and_expiry(client: httpx.AsyncClient, store: Store):
    expires = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    order = {"name": "line 3", "scopes": ["label"], "expires": expires}
    secret = (await client.post("/v1/keys", json=order)).json()["secret"]
    await status_with(client, secret)
    answer = await client.get("/v1/keys")
    used, listed = answer.json()["keys"]
    assert used["last_used_at"] is not None
    assert datetime.fromisoformat(listed["expires_at"]) == datetime.fromisoformat(expires)
    assert secret not in answer.text
    assert handle_of(secret) not in answer.text
    seen, cursor = [], None
    for number in range(5):
        await store.create_key(f"key {number}", ["read"])
    while True:
        params = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/keys", params=params)).json()
        seen += [item["name"] for item in page["keys"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == ["test", "line 3", *(f"key {number}" for number in range(5))]
    assert (await client.get("/v1/keys", params={"cursor": "WyJhIl0"})).status_code == 422


async def test_expired_key_is_unknown(client: httpx.AsyncClient, store: Store):
    past = datetime.now(UTC) - timedelta(seconds=1)
    secret = (await store.create_key("old", ["read"], expires_at=past)).secret
    assert await status_with(client, secret) == 401
    refused = await client.post(
        "/v1/keys", json={"name": "x", "scopes": ["read"], "expires": past.isoformat()}
    )
    assert (refused.status_code, refused.json()["field"]) == (422, "expires")
    refused = await client.post("/v1/keys/old/rotate")
    assert (refused.status_code, refused.json()["field"]) == (422, "expires")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    renewed = await client.post("/v1/keys/old/rotate", json={"expires": later})
    assert await status_with(client, renewed.json()["secret"]) == 200


async def test_rotation_replaces_the_secret_at_once_or_after_an_overlap(
    client: httpx.AsyncClient, store: Store
):
    first = (await store.create_key("line 3", ["read"])).secret
    second = (await client.post("/v1/keys/line 3/rotate")).json()
    assert (second["key"]["name"], second["key"]["scopes"]) == ("line 3", ["read"])
    assert await status_with(client, first) == 401
    third = (await client.post("/v1/keys/line 3/rotate", json={"overlap_s": 3600})).json()
    for secret in (second["secret"], third["secret"]):
        assert await status_with(client, secret) == 200
    assert (await client.post("/v1/keys/nobody/rotate")).status_code == 404


async def test_last_admin_key_stays(client: httpx.AsyncClient, store: Store):
    past = datetime.now(UTC) - timedelta(seconds=1)
    await store.create_key("expired admin", ["admin"], expires_at=past)
    refused = await client.delete("/v1/keys/test")
    assert (refused.status_code, "rotate this one" in refused.json()["detail"]) == (409, True)
    await store.create_key("second admin", ["admin"])
    assert (await client.delete("/v1/keys/test")).status_code == 204


async def test_last_admin_key_without_expiry_stays_too(client: httpx.AsyncClient, store: Store):
    soon = datetime.now(UTC) + timedelta(hours=1)
    for name in ("admin for an hour", "another"):
        await store.create_key(name, ["admin"], expires_at=soon)
    order = {"expires": (soon + timedelta(hours=1)).isoformat()}
    for refused in (
        await client.delete("/v1/keys/test"),
        await client.post("/v1/keys/test/rotate", json=order),
    ):
        assert refused.status_code == 409
        assert "expected another key with scope 'admin' and without" in refused.json()["detail"]
    # one with an expiry is no last one
    assert (await client.delete("/v1/keys/another")).status_code == 204
    rotated = await client.post("/v1/keys/admin for an hour/rotate", json=order)
    assert rotated.status_code == 200
    await store.create_key("second admin", ["admin"])
    assert (await client.delete("/v1/keys/test")).status_code == 204


@pytest.mark.parametrize(
    "order",
    [
        {"name": "a/b", "scopes": ["read"]},
        {"name": "..", "scopes": ["read"]},
        {"name": "x", "scopes": ["root"]},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["read"], "expires": "9999-12-31T23:59:59-14:00"},
    ],
)
async def test_key_that_could_not_be_used_is_refused(
    client: httpx.AsyncClient, order: dict[str, object]
):
    assert (await client.post("/v1/keys", json=order)).status_code == 422


async def test_keys_work_where_the_database_only_reads(
    client: httpx.AsyncClient, service: Service, store: Store, monkeypatch: pytest.MonkeyPatch
):
    async def refuse(name: str, *_: object) -> list[object]:
        raise StoreError(f"{name}: read only")

    monkeypatch.setattr(store._database, "once", refuse)
    assert (await client.get("/v1/equipment")).status_code == 200
