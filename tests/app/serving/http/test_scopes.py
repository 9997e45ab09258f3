"""Every route declares who may call it, and refuses everybody else."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from app.demo.rig.equipment import rig_equipment
from app.serving.http.app import build_api
from app.serving.http.routes.common import scope_of
from app.serving.ingress.deployment import Service
from app.store.keys import SCOPES, new_secret
from app.store.store import Store
from tests.rig import inline_readings, rig_cycle

MACHINE, ABSENT = "secret-machine", "absent-machine"
START = datetime(2026, 1, 1, tzinfo=UTC)
INTERVAL = {"start": START.isoformat(), "end": (START + timedelta(minutes=1)).isoformat()}


def routes_of(app: Any) -> list[Any]:
    """Return the routes of the application inside of its middleware."""
    while not isinstance(app, FastAPI):
        app = app._api
    return list(app.routes)


class Endpoint(NamedTuple):
    method: str
    path: str
    scope: str

    @property
    def key(self) -> str:
        return f"{self.method} {self.path}"


_ALL = routes_of(build_api(MagicMock()))
ENDPOINTS = [
    Endpoint(method, route.path, scope_of(route) or "none")
    for route in _ALL
    if isinstance(route, APIRoute)
    for method in sorted(route.methods)
]
GUARDED = [each for each in ENDPOINTS if each.scope != "public"]
PUBLIC = {
    "GET /", "GET /docs", "GET /health/live", "GET /health/ready", "HEAD /health/live",
    "HEAD /health/ready", "GET /metrics",
}  # fmt: skip
"""Routes that anybody may call; they show nothing of a tenant."""
OTHER = {"/openapi.json", "/docs/assets"}
"""What is no route of the interface: its description, and the scripts of its page."""


def test_each_route_declares_its_scope():
    without = [each.key for each in ENDPOINTS if each.scope == "none"]
    assert without == []
    assert {each.key for each in ENDPOINTS if each.scope == "public"} == PUBLIC
    other = {each.path for each in _ALL if not isinstance(each, APIRoute)}
    assert other == OTHER
    assert all(isinstance(each, APIRoute | Mount | Route) for each in _ALL)
    assert len(GUARDED) > 40


def rows(machine: str) -> list[dict[str, object]]:
    return [
        {
            "equipment_id": machine,
            "sensor_id": sensor_id,
            "time": (START + timedelta(seconds=second)).isoformat(),
            "value": value,
        }
        for sensor_id, series in rig_cycle(0)[0].items()
        for second, value in enumerate(series)
    ]


def topology(machine: str) -> dict[str, Any]:
    return rig_equipment().model_dump(mode="json") | {"equipment_id": machine}


def call_of(endpoint: Endpoint, names: dict[str, str]) -> dict[str, Any]:
    """Return a request that would succeed for the owner of what it names."""
    machine = names["equipment_id"]
    path = re.sub(r"\{(\w+)\}", lambda match: names[match[1]], endpoint.path)
    label = {"equipment_id": machine, "component_id": "pump", "health": 0.5} | INTERVAL
    bodies: dict[str, Any] = {
        "PUT /v1/equipment/{equipment_id}": topology(machine),
        "PUT /v1/equipment/{equipment_id}/baseline": INTERVAL,
        "PUT /v1/equipment/{equipment_id}/readings": rows(machine),
        "POST /v1/readings": rows(machine),
        "POST /v1/labels": label,
        "POST /v1/equipment/{equipment_id}/maintenance": {
            "time": INTERVAL["start"],
            "component_id": "pump",
            "kind": "repair",
        },
        "POST /v1/diagnoses": {"equipment_id": machine, "at": INTERVAL["end"]},
        "POST /v1/diagnoses/batch": {
            "items": [
                {"equipment_id": machine, "at": INTERVAL["end"]},
                {
                    "equipment_id": machine,
                    "readings": inline_readings(rig_cycle(0)[0], INTERVAL["start"]),
                },
            ]
        },
        "POST /v1/keys": {"name": "new key", "scopes": ["read"], "tenant": "default"},
    }
    params: dict[str, Any] = {}
    if endpoint.path.endswith("/readings") and endpoint.method in ("PUT", "DELETE"):
        params = INTERVAL
    if endpoint.path.endswith("/labels") and endpoint.method == "DELETE":
        params = INTERVAL
    if endpoint.path.endswith(("/health", "/counts")):
        params = INTERVAL
    if endpoint.key == "GET /v1/traffic":
        params = {"equipment_id": machine}
    if endpoint.path.startswith("/v1/keys") and endpoint.method != "POST":
        params = {"tenant": "default"}
    if endpoint.path == "/v1/keys/{name}/rotate":
        params = {"tenant": "default"}
    if endpoint.key == "GET /v1/experiments/compare":
        params = {"baseline": "1", "candidate": "2"}
    call: dict[str, Any] = {"method": endpoint.method, "url": path, "params": params}
    if endpoint.key in bodies:
        call["json"] = bodies[endpoint.key]
    return call


@pytest.fixture
async def names(client: httpx.AsyncClient, store: Store) -> dict[str, str]:
    """What a tenant has, by the names of paths' parameters."""
    created = await client.put(f"/v1/equipment/{MACHINE}", json=topology(MACHINE))
    assert created.status_code == 201
    assert (await client.post("/v1/readings", json=rows(MACHINE))).status_code == 200
    made = await client.post("/v1/diagnoses", json={"equipment_id": MACHINE, "at": INTERVAL["end"]})
    assert made.status_code == 200, made.text
    label = {"equipment_id": MACHINE, "component_id": "pump", "grade": "0"} | INTERVAL
    assert (await client.post("/v1/labels", json=label)).status_code == 200
    done = await client.post(
        f"/v1/equipment/{MACHINE}/maintenance",
        json={"time": INTERVAL["start"], "component_id": "pump", "kind": "repair"},
    )
    assert done.status_code == 201
    return {
        "equipment_id": MACHINE,
        "diagnosis_id": made.json()["diagnosis_id"],
        "maintenance_id": str(done.json()["maintenance_id"]),
        "name": "test",
        "version": "1",
        "training_id": "training-1",
    }


async def key_for(kind: str, endpoint: Endpoint, store: Store, known: dict[str, str]) -> str | None:
    """Return the secret of a kind of key that an endpoint must refuse."""
    now = datetime.now(UTC)
    if kind == "missing":
        return None
    if kind == "wrong":
        return new_secret()
    if kind == "wrong with a known handle":
        return known["all"][:-1] + ("a" if known["all"][-1] != "a" else "b")
    if kind == "under-scoped":
        name = f"without {endpoint.scope}"
        if name not in known:
            scopes = [scope for scope in SCOPES if scope not in (endpoint.scope, "admin")]
            known[name] = (await store.create_key(name, scopes)).secret
        return known[name]
    if kind not in known:
        expires = now - timedelta(seconds=1) if kind == "expired" else None
        created = await store.create_key(kind, SCOPES, expires_at=expires)
        known[kind] = created.secret
        if kind == "revoked":
            await store.revoke_key(created.key.key_id)
    return known[kind]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("missing", 401),
        ("wrong", 401),
        ("wrong with a known handle", 401),
        ("expired", 401),
        ("revoked", 401),
        ("under-scoped", 403),
    ],
)
async def test_each_route_refuses_such_a_key(
    client: httpx.AsyncClient, names: dict[str, str], store: Store, kind: str, status: int
):
    del client.headers["authorization"]
    known = {"all": (await store.create_key("all", SCOPES)).secret}
    before = await store.list_keys()
    found = {}
    for endpoint in GUARDED:
        secret = await key_for(kind, endpoint, store, known)
        headers = {} if secret is None else {"x-api-key": secret}
        answer = await client.request(**call_of(endpoint, names), headers=headers)
        slug = {401: "unauthenticated", 403: "forbidden"}.get(answer.status_code)
        is_problem = slug is not None and answer.json()["type"].endswith(f":{slug}")
        found[endpoint.key] = (answer.status_code, is_problem)
        assert secret is None or secret not in answer.text
    assert found == {each.key: (status, True) for each in GUARDED}
    assert {key.name for key in await store.list_keys()} - {key.name for key in before} <= {
        *known,
    }


REVEALS_NOTHING = {
    "GET /v1/health",
    "GET /v1/equipment", "GET /v1/models", "GET /v1/traffic/history", "GET /v1/experiments",
    "GET /v1/audit", "GET /v1/equipment/{equipment_id}/readings/changes",
}  # fmt: skip
"""Routes that answer another tenant's key, without anything of this tenant."""


async def test_each_route_refuses_a_key_of_another_tenant(
    client: httpx.AsyncClient, names: dict[str, str], store: Store
):
    """Data of another tenant gets the answer of data that do not exist."""
    await store.create_tenant("intruder")
    secret = (await store.create_key("intruder", SCOPES, tenant="intruder")).secret
    intruder = {"x-api-key": secret}
    absent = names | {
        "equipment_id": ABSENT,
        "diagnosis_id": "f" * 32,
        "maintenance_id": "99999",
    }

    def form(answer: httpx.Response, used: dict[str, str]) -> tuple[int, str]:
        text = re.sub(r'"trace_id":"\w+"', "", answer.text)
        for name in ("equipment_id", "diagnosis_id"):
            text = text.replace(used[name], name)
        text = text.replace(f"found {used['maintenance_id']}:", "found maintenance_id:")
        return answer.status_code, text

    del client.headers["authorization"]
    for endpoint in GUARDED:
        answer = await client.request(**call_of(endpoint, names), headers=intruder)
        found = form(answer, names)
        if endpoint.scope == "operator" or endpoint.path.startswith("/v1/keys"):
            assert found[0] == 403, endpoint.key
            continue
        if endpoint.key == "PUT /v1/equipment/{equipment_id}":
            assert found[0] == 409, answer.text
            continue
        expected = await client.request(**call_of(endpoint, absent), headers=intruder)
        assert found == form(expected, absent), endpoint.key
        if endpoint.key in REVEALS_NOTHING:
            assert found[0] == 200
            assert MACHINE not in answer.text
        elif endpoint.key == "POST /v1/diagnoses/batch":
            assert '"diagnosed":0' in answer.text
        else:
            assert found[0] in (404, 422), (endpoint.key, answer.text)
    record = await store.get_equipment(MACHINE)
    assert record is not None
    assert record.deleted_at is None
    assert record.equipment.design == "hydraulic-rig"


async def test_topology_of_a_request_can_not_borrow_the_history_of_another_tenant(
    client: httpx.AsyncClient, service: Service, names: dict[str, str], store: Store
):
    await store.create_tenant("intruder")
    secret = (await store.create_key("intruder", SCOPES, tenant="intruder")).secret
    inline = {
        "equipment_id": MACHINE,
        "equipment": topology(MACHINE),
        "readings": inline_readings(rig_cycle(0)[0], INTERVAL["start"]),
    }
    made = await client.post(
        "/v1/diagnoses", json=inline, headers={"authorization": f"Bearer {secret}"}
    )
    assert made.status_code == 200
    diagnosis_id = made.json()["diagnosis_id"]
    path = f"/v1/diagnoses/{diagnosis_id}"
    # queued first, then stored
    for _ in range(2):
        theirs = await client.get(path, headers={"authorization": f"Bearer {secret}"})
        assert theirs.status_code == 200
        assert (await client.get(path)).status_code == 404
        await service.diagnostics._write_queue.flush()
    history = (await client.get(f"/v1/equipment/{MACHINE}/diagnoses")).json()["diagnoses"]
    assert [each["diagnosis_id"] for each in history] == [names["diagnosis_id"]]


async def test_cached_response_is_not_given_to_the_next_owner_of_an_id(
    client: httpx.AsyncClient, names: dict[str, str], store: Store
):
    """An id that one tenant purged and another one took, within the life of a cached response."""
    await store.create_tenant("next")
    secret = (await store.create_key("next", SCOPES, tenant="next")).secret
    request = {"equipment_id": MACHINE, "at": INTERVAL["end"]}
    assert (await client.post("/v1/diagnoses", json=request)).status_code == 200
    await store.move_equipment("next", [MACHINE])
    await store.purge_equipment(MACHINE, "test", 30.0)
    headers = {"authorization": f"Bearer {secret}"}
    put = await client.put(f"/v1/equipment/{MACHINE}", json=topology(MACHINE), headers=headers)
    assert put.status_code == 201
    answer = await client.post("/v1/diagnoses", json=request, headers=headers)
    assert (answer.status_code, "found none" in answer.json()["detail"]) == (422, True)


async def test_operator_administers_tenants_and_their_keys(client: httpx.AsyncClient, store: Store):
    assert (await client.post("/v1/tenants", json={"tenant": "north"})).status_code == 201
    assert (await client.post("/v1/tenants", json={"tenant": "north"})).status_code == 409
    assert (await client.post("/v1/tenants", json={"tenant": "North!"})).status_code == 422
    order = {"name": "test", "scopes": ["admin"], "tenant": "north"}
    created = await client.post("/v1/keys", json=order)
    assert (created.status_code, created.json()["key"]["tenant"]) == (201, "north")
    unknown = await client.post("/v1/keys", json=order | {"tenant": "south"})
    assert unknown.status_code == 404
    headers = {"authorization": f"Bearer {created.json()['secret']}"}
    put = await client.put("/v1/equipment/north-1", json=topology("north-1"), headers=headers)
    assert put.status_code == 201
    own = await client.post("/v1/keys", json={"name": "line", "scopes": ["read"]}, headers=headers)
    assert own.json()["key"]["tenant"] == "north"
    listed = await client.get("/v1/keys", params={"tenant": "north"})
    assert [key["name"] for key in listed.json()["keys"]] == ["test", "line"]
    assert (await client.get("/v1/keys")).json()["keys"][0]["tenant"] == "default"
    tenants = (await client.get("/v1/tenants")).json()["tenants"]
    assert {each["tenant"]: each["equipment"] for each in tenants} == {"default": 1, "north": 1}
    assert (await client.delete("/v1/keys/line", headers=headers)).status_code == 204
    assert (await client.delete("/v1/keys/test", params={"tenant": "north"})).status_code == 204
    assert (await client.get("/v1/keys", headers=headers)).status_code in (200, 401)


async def test_audit_log_is_read_page_by_page_each_tenant_its_own(
    client: httpx.AsyncClient, store: Store
):
    await store.create_tenant("north")
    secret = (await store.create_key("boss", ["admin"], tenant="north")).secret
    headers = {"authorization": f"Bearer {secret}"}
    for number in range(3):
        order = {"name": f"key {number}", "scopes": ["read"]}
        assert (await client.post("/v1/keys", json=order, headers=headers)).status_code == 201
    seen, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/audit", params=params, headers=headers)).json()
        seen += page["entries"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert [each["subject"] for each in seen] == ["key 2", "key 1", "key 0", "boss"]
    assert {each["actor"] for each in seen[:3]} == {"boss"}
    everything = (await client.get("/v1/audit")).json()["entries"]
    assert {each["tenant"] for each in everything} == {"default", "north"}
