"""The HTTP interface over a real store and real networks, without Ray."""

import asyncio
import json
from collections.abc import MutableMapping
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from app.demo.rig.equipment import rig_equipment
from app.serving.http.app import build_api
from app.serving.ingress.deployment import Service
from app.serving.ingress.status import Status
from app.serving.ingress.version_router import VersionRouter
from app.store.store import Store
from tests.app.serving.conftest import LocalClient, split
from tests.rig import inline_readings, rig_cycle

START = "2026-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def fresh_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe for every /health/ready, which otherwise caches its result."""
    monkeypatch.setattr("app.serving.ingress.status.CACHE_S", 0.0)


def rig_request(row: int = 0, **changes: object) -> dict[str, object]:
    return {
        "equipment_id": "hydraulic-rig",
        "readings": inline_readings(rig_cycle(row)[0], START),
    } | changes


def readings_of(row: int, start: datetime) -> list[dict[str, object]]:
    return [
        {
            "equipment_id": "hydraulic-rig",
            "sensor_id": sensor_id,
            "time": (start + timedelta(seconds=second)).isoformat(),
            "value": value,
        }
        for sensor_id, series in rig_cycle(row)[0].items()
        for second, value in enumerate(series)
    ]


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until the declared equipment is registered."""
    for _ in range(100):
        if (await client.get("/health/ready")).status_code == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError((await client.get("/health/ready")).text)


async def test_inline_diagnosis_answers_while_the_store_is_away(
    client: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
):
    await ready(client)
    assert (await client.post("/v1/diagnoses", json=rig_request())).status_code == 200

    async def refuse(*_: object) -> None:
        raise AssertionError("an inline diagnosis queried the store")

    for name in ("read_windows", "get_equipment_of", "find_key"):
        monkeypatch.setattr(store, name, refuse)
    answer = await client.post("/v1/diagnoses", json=rig_request())
    assert answer.status_code == 200
    assert answer.json()["input"]["stale_s"] is None


async def test_stored_and_inline_readings_give_equal_health(client: httpx.AsyncClient):
    await ready(client)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    posted = await client.post("/v1/readings", json=readings_of(700, start))
    assert posted.json()["accepted"] == 17 * 60
    stored = await client.post(
        "/v1/diagnoses",
        json={"equipment_id": "hydraulic-rig", "at": (start + timedelta(minutes=1)).isoformat()},
    )
    inline = await client.post("/v1/diagnoses", json=rig_request(700))
    assert stored.json()["window"] == inline.json()["window"]
    of_trend = ("trend", "degradation_reason", "rul_reason")
    of_stored, of_inline = (
        [
            {name: value for name, value in component.items() if name not in of_trend}
            for component in answer.json()["components"]
        ]
        for answer in (stored, inline)
    )
    assert of_stored == of_inline
    assert stored.json()["input"]["digest"] == inline.json()["input"]["digest"]
    assert stored.json()["input"]["stale_s"] > 0


async def test_inline_topology_needs_no_registration(client: httpx.AsyncClient):
    topology = rig_equipment().model_dump(mode="json") | {
        "equipment_id": "unregistered",
        "design": "hydraulic-rig",
    }
    answer = await client.post(
        "/v1/diagnoses", json=rig_request(equipment_id="unregistered", equipment=topology)
    )
    assert answer.status_code == 200
    del topology["equipment_id"]
    answer = await client.post(
        "/v1/diagnoses", json=rig_request(equipment_id="unregistered", equipment=topology)
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"equipment": {"components": []}}, "components"),
        (
            {
                "equipment": {"equipment_id": "other"}
                | {"components": [], "grid_s": 1, "window_s": 1, "steps": 2}
            },
            "components",
        ),
        ({"at": START}, "at"),
    ],
)
async def test_contradicting_request_is_a_problem(
    client: httpx.AsyncClient, changes: dict[str, object], field: str
):
    await ready(client)
    answer = await client.post("/v1/diagnoses", json=rig_request(**changes))
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_inline_topology_without_readings_is_a_problem(client: httpx.AsyncClient):
    answer = await client.post(
        "/v1/diagnoses", json={"equipment_id": "x", "equipment": {"components": []}}
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "readings")


async def test_machine_of_another_design_says_which_designs_were_trained(
    client: httpx.AsyncClient,
):
    topology = rig_equipment().model_dump(mode="json") | {
        "equipment_id": "press",
        "design": "press",
    }
    answer = await client.post(
        "/v1/diagnoses", json=rig_request(equipment_id="press", equipment=topology)
    )
    body = answer.json()
    assert (answer.status_code, body["type"].rsplit(":")[-1]) == (422, "untrained-design")
    assert "not trained for design 'press'; trained designs: hydraulic-rig: train" in body["detail"]


async def test_missing_sensors_are_listed(client: httpx.AsyncClient):
    await ready(client)
    values = rig_cycle(0)[0]
    del values["PS1"]
    values["PS2"] = [5.0] * 60
    answer = await client.post(
        "/v1/diagnoses", json=rig_request(readings=inline_readings(values, START))
    )
    assert answer.json()["input"]["missing_sensors"] == ["PS1"]
    assert answer.json()["input"]["faulty_sensors"] == [{"sensor_id": "PS2", "reason": "frozen"}]


async def test_registered_equipment_is_returned_and_can_change(client: httpx.AsyncClient):
    topology = rig_equipment().model_dump(mode="json") | {"equipment_id": "twin"}
    created = await client.put("/v1/equipment/twin", json=topology)
    again = await client.put("/v1/equipment/twin", json=topology | {"name": "renamed"})
    assert (created.status_code, again.status_code) == (201, 200)
    assert created.json()["revision"] != again.json()["revision"]
    found = await client.get("/v1/equipment/twin")
    assert found.json() == topology | {"name": "renamed"}
    listed = (await client.get("/v1/equipment")).json()["equipment"]
    assert {item["equipment_id"] for item in listed} >= {"twin"}


async def test_put_under_another_id_is_a_problem(client: httpx.AsyncClient):
    answer = await client.put("/v1/equipment/other", json=rig_equipment().model_dump(mode="json"))
    assert (answer.status_code, answer.json()["field"]) == (422, "equipment_id")


async def test_put_answers_with_the_linters_warnings(client: httpx.AsyncClient):
    topology = rig_equipment().model_dump(mode="json") | {"equipment_id": "twin"}
    topology["components"] = [*topology["components"], {"component_id": "hose", "type": "line"}]
    topology["connections"] = [
        *topology["connections"],
        {"source": "pump", "target": "hose", "medium": "pressure_line"},
    ]
    answer = await client.put("/v1/equipment/twin", json=topology)
    assert answer.status_code == 201
    assert [finding["place"] for finding in answer.json()["findings"]] == ["components[7]"]


async def test_another_version_answers_for_a_failed_one(
    client: httpx.AsyncClient, local: LocalClient, versions: VersionRouter
):
    versions.set_traffic(split(99, 1))
    await ready(client)
    local.broken.add("model-1")
    body = (await client.post("/v1/diagnoses", json=rig_request())).json()
    assert (body["model_version"], body["fallback"]) == ("2", True)
    models = (await client.get("/v1/models")).json()["models"]
    assert [(item["version"], item["available"]) for item in models] == [("1", False), ("2", True)]


async def test_no_version_at_all_is_503_with_retry_after(
    client: httpx.AsyncClient, local: LocalClient
):
    await ready(client)
    local.broken |= {"model-1", "model-2"}
    answer = await client.post("/v1/diagnoses", json=rig_request())
    assert (answer.status_code, answer.json()["type"]) == (
        503,
        "urn:hydraulic-diagnostics:problem:model-unavailable",
    )
    assert int(answer.headers["retry-after"]) > 0
    readiness = await client.get("/health/ready")
    assert (readiness.status_code, readiness.json()["versions"]) == (503, {"1": False})


async def test_traffic_names_the_version_that_answers_for_an_equipment(
    client: httpx.AsyncClient, versions: VersionRouter
):
    versions.set_traffic(split(50, 50))
    where = {"equipment_id": "machine-1", "design": "hydraulic-rig"}
    traffic = (await client.get("/v1/traffic", params=where)).json()
    topology = rig_equipment().model_dump(mode="json") | {"equipment_id": "machine-1"}
    answer = await client.post(
        "/v1/diagnoses", json=rig_request(equipment_id="machine-1", equipment=topology)
    )
    assert answer.json()["model_version"] == traffic["version"]


async def test_queued_diagnosis_is_found_before_it_is_stored(client: httpx.AsyncClient):
    await ready(client)
    made = (await client.post("/v1/diagnoses", json=rig_request())).json()
    assert (await client.get(f"/v1/diagnoses/{made['diagnosis_id']}")).json() == made
    await client.get("/v1/equipment/hydraulic-rig/diagnoses")
    assert (await client.get(f"/v1/diagnoses/{made['diagnosis_id']}")).json() == made


async def test_unknown_diagnosis_and_bad_history_are_problems(client: httpx.AsyncClient):
    await ready(client)
    assert (await client.get("/v1/diagnoses/nothing")).status_code == 404
    path = "/v1/equipment/hydraulic-rig/diagnoses"
    for params, field in (
        ({"limit": 0}, "limit"),
        ({"start": "2026-01-01T00:00:00"}, "start"),
        ({"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}, "start"),
    ):
        answer = await client.get(path, params=params)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert (await client.get("/v1/equipment/nobody/diagnoses")).status_code == 404


async def test_hysteresis_uses_stored_windows_only(client: httpx.AsyncClient, service: Service):
    await ready(client)
    await client.post("/v1/diagnoses", json=rig_request())
    assert not service.diagnostics._batch._states


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"items": []}', b'{"items": 3}', b'{"items": [], "x": 1}']
)
async def test_body_that_is_no_batch_is_a_problem(client: httpx.AsyncClient, body: bytes):
    answer = await client.post("/v1/diagnoses/batch", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


async def test_batch_with_too_many_items_is_refused(client: httpx.AsyncClient):
    answer = await client.post("/v1/diagnoses/batch", content=json.dumps({"items": [{}] * 5001}))
    assert (answer.status_code, answer.json()["field"]) == (413, "items")


async def test_chunked_body_beyond_the_limit_is_refused(client: httpx.AsyncClient):
    async def chunks():
        for _ in range(20):
            yield b"x" * 1_000_000

    answer = await client.post("/v1/diagnoses", content=chunks())
    assert answer.status_code == 413


async def test_internal_error_is_a_500_without_its_cause(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise RuntimeError("select secret from api_keys")

    monkeypatch.setattr(Status, "traffic_report", fail)
    answer = await client.get("/v1/traffic")
    assert (answer.status_code, "secret" in answer.text) == (500, False)


async def test_key_can_use_its_scopes_only(client: httpx.AsyncClient, store: Store):
    await ready(client)
    secret = (await store.create_key("reader", ["read"])).secret
    client.headers["authorization"] = f"Bearer {secret}"
    assert (await client.get("/v1/equipment")).status_code == 200
    for method, path in (
        ("POST", "/v1/readings"),
        ("POST", "/v1/diagnoses"),
        ("PUT", "/v1/equipment/x"),
    ):
        answer = await client.request(method, path, content=b"{}")
        assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (403, "forbidden")


async def test_metrics_count_routes_and_never_name_a_machine(client: httpx.AsyncClient):
    await ready(client)
    await client.get("/v1/equipment/hydraulic-rig")
    await client.get("/v1/equipment/nobody-at-all")
    text = (await client.get("/metrics")).text
    assert 'route="/v1/equipment/{equipment_id}",status="404"' in text
    assert "nobody-at-all" not in text
    assert "hydraulic-rig" not in text


@pytest.mark.parametrize("bad", ["a%00b", "a%20b", "x" * 65, "%C3%A4", "-a"])
async def test_path_without_a_valid_id_is_unknown_without_a_query(
    client: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch, bad: str
):
    await ready(client)

    async def refuse(*_: object) -> None:
        raise AssertionError("queried the store")

    for name in ("get_equipment_of", "diagnosis_history", "get_diagnosis"):
        monkeypatch.setattr(store, name, refuse)
    for path in (f"/v1/equipment/{bad}", f"/v1/equipment/{bad}/diagnoses"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (
            404,
            "unknown-equipment",
        )
    for diagnosis_id in (bad, "A" * 32, "a" * 31):
        answer = await client.get(f"/v1/diagnoses/{diagnosis_id}")
        assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (
            404,
            "unknown-diagnosis",
        )


@pytest.mark.parametrize("field", ["start", "end"])
@pytest.mark.parametrize(
    "at",
    [
        "5",
        "1769857200",
        "1969-12-31T23:59:59Z",
        "2200-01-01T00:00:01Z",
        "9999-12-31T23:59:59-14:00",
    ],
)
async def test_history_with_an_invalid_time_is_a_problem(
    client: httpx.AsyncClient, field: str, at: str
):
    await ready(client)
    answer = await client.get("/v1/equipment/hydraulic-rig/diagnoses", params={field: at})
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_inline_value_beyond_float32_names_its_field(client: httpx.AsyncClient):
    await ready(client)
    readings = inline_readings(rig_cycle(0)[0] | {"PS1": [1e300] * 60}, START)
    answer = await client.post("/v1/diagnoses", json=rig_request(readings=readings))
    assert (answer.status_code, answer.json()["field"]) == (422, "readings.values.PS1[0]")
    assert "that a float32 holds" in answer.json()["detail"]


async def test_rejected_readings_are_counted(client: httpx.AsyncClient):
    await ready(client)
    good = readings_of(0, datetime(2026, 1, 1, tzinfo=UTC))[0]
    answer = await client.post("/v1/readings", json=[good, good | {"value": 1e300}])
    assert answer.json()["accepted"] == 1
    assert len(answer.json()["rejected"]) == 1
    assert "rejected_count" not in answer.json()  # the list is whole
    answer = await client.post("/v1/readings", json=[3] * 1_500)
    assert (
        answer.status_code,
        answer.json()["rejected_count"],
        len(answer.json()["rejected"]),
    ) == (422, 1_500, 1_000)


@pytest.mark.parametrize(
    "body", ['{"\\ud800": 1}', '{"\\ud800": 1, "\\ud800": 1}', '{"equipment_id": "\\ud800"}']
)
async def test_single_surrogate_is_a_problem_of_the_topology(client: httpx.AsyncClient, body: str):
    answer = await client.put("/v1/equipment/press", content=body)
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (422, "topology")


async def test_wrong_method_is_answered_with_the_allowed_ones(client: httpx.AsyncClient):
    for path, allow in (
        ("/v1/equipment/press", "DELETE, GET, PUT"),
        ("/health/live", "GET, HEAD"),
        ("/v1/readings", "POST"),
    ):
        answer = await client.patch(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow)


async def test_health_answers_head(client: httpx.AsyncClient):
    await ready(client)
    for path in ("/health/live", "/health/ready"):
        assert (await client.head(path)).status_code == 200


async def test_invented_methods_count_as_other(client: httpx.AsyncClient):
    for number in range(3):
        assert (await client.request(f"INVENTED{number}", "/health/live")).status_code == 405
    text = (await client.get("/metrics")).text
    assert 'method="other"' in text
    assert "INVENTED" not in text


async def test_disconnected_client_is_logged_as_no_error(
    client: httpx.AsyncClient, service: Service, caplog: pytest.LogCaptureFixture
):
    messages = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    async def send(message: MutableMapping[str, object]) -> None:
        sent.append(message)

    headers = [(b"authorization", client.headers["authorization"].encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/diagnoses",
        "query_string": b"",
        "headers": headers,
    }
    with caplog.at_level("INFO"):
        await build_api(service)(scope | {"http_version": "1.1"}, receive, send)
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
    assert sent[0]["status"] == 499
