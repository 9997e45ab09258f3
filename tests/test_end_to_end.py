"""The whole system over HTTP: real Ray Serve, real PostgreSQL, real rig data.

One system serves all tests of this file and those of `test_release.py`; tests that write use
equipment of their own.
"""

import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import yaml

from app.demo.rig.equipment import rig_equipment
from tests import scrape
from tests.collector import Collector
from tests.ecs.schema import parse
from tests.rig import inline_readings, rig_cycle
from tests.system import PROJECT_DIR, System
from tests.waiting import wait_until

pytestmark = pytest.mark.system
LABELLED = {"cooler", "valve", "pump", "accumulator"}


def iso(time_: datetime) -> str:
    return time_.isoformat()


def machine(client: httpx.Client, equipment_id: str) -> dict[str, Any]:
    """Register a machine of the rig's design."""
    topology = rig_equipment().model_dump(mode="json") | {
        "equipment_id": equipment_id,
        "design": "hydraulic-rig",
    }
    answer = client.put(f"/v1/equipment/{equipment_id}", json=topology)
    assert answer.status_code == 201, answer.text
    return topology


def diagnose(client: httpx.Client, **request: object) -> dict[str, Any]:
    answer = client.post("/v1/diagnoses", json=request)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize("cycle", [300, 1000, 1800])
def test_inline_window_is_diagnosed_with_the_grades_of_its_labels(client: httpx.Client, cycle: int):
    values, grades = rig_cycle(cycle)
    diagnosis = diagnose(
        client,
        equipment_id="hydraulic-rig",
        readings=inline_readings(values, "2026-01-01T00:00:00Z"),
    )
    found = {
        item["component_id"]: item["condition"]
        for item in diagnosis["components"]
        if item["condition"]
    }
    assert found == grades
    assert diagnosis["input"]["source"] == "inline"
    assert all(item["evidence"] == [] for item in diagnosis["components"])


def test_posted_readings_give_the_same_answer_as_inline_ones(client: httpx.Client):
    machine(client, "rig-parity")
    values, _ = rig_cycle(700)
    start = datetime(2026, 3, 1, 6, 30, 17, tzinfo=UTC)
    rows = [
        {
            "equipment_id": "rig-parity",
            "sensor_id": sensor,
            "time": iso(start + timedelta(seconds=second)),
            "value": value,
        }
        for sensor, series in values.items()
        for second, value in enumerate(series)
    ]
    nothing = {"conflicts": 0, "conflict_lines": [], "replaced": 0, "spooled": 0, "rejected": []}
    answer = client.post("/v1/readings", json=rows)
    assert answer.json() == {"accepted": len(rows), "duplicates": 0, **nothing}
    again = client.post("/v1/readings", json=rows)
    assert again.json() == {"accepted": 0, "duplicates": len(rows), **nothing}
    stored = diagnose(client, equipment_id="rig-parity", at=iso(start + timedelta(seconds=60)))
    inline = diagnose(
        client, equipment_id="rig-parity", readings=inline_readings(values, iso(start))
    )
    assert stored["window"] == inline["window"]
    for left, right in zip(stored["components"], inline["components"], strict=True):
        assert left["health"] == pytest.approx(right["health"], abs=1e-5)
        assert left["condition"] == right["condition"]


def test_diagnoses_are_stored_and_listed_newest_first(client: httpx.Client):
    machine(client, "rig-history")
    values, _ = rig_cycle(10)
    made = [
        diagnose(
            client,
            equipment_id="rig-history",
            readings=inline_readings(values, f"2026-02-01T00:0{minute}:00Z"),
        )
        for minute in range(3)
    ]
    listed = client.get("/v1/equipment/rig-history/diagnoses").json()["diagnoses"]
    assert [item["diagnosis_id"] for item in listed] == [
        item["diagnosis_id"] for item in reversed(made)
    ]
    assert client.get(f"/v1/diagnoses/{made[0]['diagnosis_id']}").json() == made[0]
    part = client.get(
        "/v1/equipment/rig-history/diagnoses",
        params={"start": "2026-02-01T00:01:30Z", "end": "2026-02-01T00:02:30Z"},
    ).json()["diagnoses"]
    assert [item["diagnosis_id"] for item in part] == [made[1]["diagnosis_id"]]
    assert (
        len(
            client.get("/v1/equipment/rig-history/diagnoses", params={"limit": 2}).json()[
                "diagnoses"
            ]
        )
        == 2
    )


def test_batch_streams_a_line_for_each_item_and_isolates_the_bad_one(client: httpx.Client):
    values, grades = rig_cycle(300)
    good = {
        "equipment_id": "hydraulic-rig",
        "readings": inline_readings(values, "2026-01-01T00:00:00Z"),
    }
    items = [good, {"equipment_id": "nobody"}, good, {"at": 3}, good | {"readings": {"start": "x"}}]
    with client.stream("POST", "/v1/diagnoses/batch", json={"items": items}) as answer:
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        *answered, summary = map(json.loads, answer.iter_lines())
    lines = {line["index"]: line for line in answered}
    assert sorted(lines) == [0, 1, 2, 3, 4]
    assert summary == {"summary": {"items": 5, "diagnosed": 2, "failed": 3}}
    for index in (0, 2):
        found = {
            item["component_id"]: item["condition"]
            for item in lines[index]["diagnosis"]["components"]
        }
        assert {name: found[name] for name in LABELLED} == grades
    assert lines[1]["error"]["type"].endswith("unknown-equipment")
    assert lines[3]["error"]["status"] == lines[4]["error"]["status"] == 422
    assert lines[4]["error"]["field"].startswith("readings")


def test_disconnected_clients_are_cancelled_and_the_others_are_answered(
    system: System, client: httpx.Client
):
    values, _ = rig_cycle(700)
    gone = 'hydraulic_http_requests_total{method="POST",route="/v1/diagnoses",status="499"}'
    before = samples(client).get(gone, 0.0)
    give_up = time.monotonic() + 120
    burst = 0
    while samples(client).get(gone, 0.0) == before and time.monotonic() < give_up:
        burst += 1
        sockets = []
        for second in range(24):
            readings = inline_readings(values, f"2026-02-01T00:{burst:02d}:{second:02d}Z")
            body = json.dumps(
                {"equipment_id": "hydraulic-rig", "readings": readings, "explain": True}
            ).encode()
            connection = socket.create_connection(
                ("127.0.0.1", httpx.URL(system.url).port or 80), timeout=10
            )
            head = (
                f"POST /v1/diagnoses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {system.key}"
                f"\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
            sockets.append(connection)
        for connection in sockets:
            connection.close()
        assert diagnose(
            client,
            equipment_id="hydraulic-rig",
            readings=inline_readings(values, "2026-02-02T00:00:00Z"),
        )
    assert samples(client).get(gone, 0.0) > before


def samples(client: httpx.Client) -> dict[str, float]:
    """Return the service's metrics by name and labels, over all replicas."""
    return scrape.samples(client.get("/metrics").text)


def test_large_batch_is_answered_whole(client: httpx.Client):
    values, _ = rig_cycle(300)
    good = {
        "equipment_id": "hydraulic-rig",
        "readings": inline_readings(values, "2026-01-01T00:00:00Z"),
    }
    answer = client.post("/v1/diagnoses/batch", json={"items": [good] * 100})
    *lines, summary = [json.loads(line) for line in answer.text.splitlines()]
    assert sorted(line["index"] for line in lines) == list(range(100))
    assert summary == {"summary": {"items": 100, "diagnosed": 100, "failed": 0}}
    healths = {
        tuple(round(item["health"], 4) for item in line["diagnosis"]["components"])
        for line in lines
    }
    assert len(healths) == 1


def test_equipment_whose_arrays_exceed_a_message_is_answered(client: httpx.Client):
    sensors = [
        {"sensor_id": f"S{number}", "quantity": "pressure", "unit": "bar", "range": [0, 400]}
        for number in range(200)
    ]
    topology = {
        "design": "hydraulic-rig",
        "components": [{"component_id": "pump", "type": "pump", "sensors": sensors}],
        "grid_s": 1,
        "window_s": 1000,
        "steps": 1000,
    }
    readings = {
        "start": RIG_START,
        "step_s": 100.0,
        "values": {item["sensor_id"]: [1.0] * 10 for item in sensors},
    }
    diagnosis = diagnose(client, equipment_id="large", equipment=topology, readings=readings)
    assert (diagnosis["status"], diagnosis["fallback"]) == ("insufficient_evidence", False)


STAGES = ("read request", "find equipment", "answer", "send response")
"""Spans of a request in the ingress, one after the other."""


def test_stages_of_a_trace_add_up_to_its_latency(system: System, collector: Collector):
    """Within 10 % for the median of 20 requests: single ones may be interrupted between stages."""
    body = {
        "equipment_id": "hydraulic-rig",
        "readings": inline_readings(rig_cycle(0)[0], "2026-01-01T00:00:00Z"),
    }
    shares = []
    for _ in range(20):
        trace = os.urandom(16).hex()
        with system.client(traceparent=f"00-{trace}-b7ad6b7169203331-01") as client:
            assert client.post("/v1/diagnoses", json=body).status_code == 200
        spans = collector.of_trace(trace, {"POST /v1/diagnoses", *STAGES})
        lengths = {
            name: span.end_time_unix_nano - span.start_time_unix_nano
            for name, span in spans.items()
        }
        shares.append(sum(lengths[name] for name in STAGES) / lengths["POST /v1/diagnoses"])
    assert 0.9 < statistics.median(shares) < 1.1, shares


def test_stored_window_has_its_statements_in_the_trace(system: System, collector: Collector):
    with system.client() as client:
        machine(client, "rig-traced")
        rows = [
            {"equipment_id": "rig-traced", "sensor_id": "PS1", "time": iso(at), "value": 150.0}
            for at in (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n) for n in range(60))
        ]
        assert client.post("/v1/readings", json=rows).status_code == 200
    trace = os.urandom(16).hex()
    with system.client(traceparent=f"00-{trace}-b7ad6b7169203331-01") as client:
        diagnose(client, equipment_id="rig-traced", at="2026-01-01T00:01:00Z")
    spans = collector.of_trace(trace, {"read windows", "sql read_windows", "sql health_histories"})
    assert spans["sql read_windows"].parent_span_id == spans["read windows"].span_id


def test_every_line_of_every_process_is_of_the_schema_and_names_its_trace(system: System):
    trace = os.urandom(16).hex()
    with system.client(traceparent=f"00-{trace}-b7ad6b7169203331-00") as client:
        client.post("/v1/diagnoses", json={"equipment_id": "nothing"})

    def lines() -> dict[str, list[dict[str, Any]]]:
        return {
            path.name: [parse(line) for line in path.read_text().splitlines()]
            for path in (system.session_dir / "logs" / "serve").glob("*.log")
        }

    wait_until(
        lambda: any(
            line.get("trace.id") == trace and line["event.action"] == "access"
            for each in lines().values()
            for line in each
        ),
        "the access line of the request",
    )
    found = lines()
    for kind in ("controller_", "proxy_", "replica_diagnostics_Ingress", "replica_model-1_Model"):
        assert any(found[name] for name in found if name.startswith(kind)), kind
    for name, each in found.items():
        if "_Model_" in name:
            assert {line["hydraulic.deployment"] for line in each} == {"Model"}
    text = str(found)
    assert system.key not in text
    assert system.environment.get("HYDRAULIC_API_KEY", "-no-") not in text


def test_levels_of_modules_change_while_the_service_runs(system: System, client: httpx.Client):
    config = system.config()
    logging = {"logging": {"levels": {"app.serving": "ERROR"}, "access_share": 0.0}}
    user_config = config["applications"][0]["deployments"][0]["user_config"]
    user_config |= logging
    config["applications"][1]["deployments"][0]["user_config"] = {
        "logging": {"levels": {"app": "DEBUG"}}
    }
    assert config["applications"][0]["deployments"][0]["name"] == "Ingress"
    system.deploy(config)

    def has_line(trace: str) -> bool:
        paths = (system.session_dir / "logs" / "serve").glob("replica_diagnostics_Ingress*.log")
        return any(trace in path.read_text() for path in paths)

    def request() -> str:
        trace: str = client.get("/health/live").headers["x-trace-id"]
        return trace

    wait_until(lambda: not _has_line_soon(has_line, request()), "no access line")
    del user_config["logging"], config["applications"][1]["deployments"][0]["user_config"]
    system.deploy(config)
    wait_until(lambda: _has_line_soon(has_line, request()), "an access line")


def _has_line_soon(has_line: Callable[[str], bool], trace: str) -> bool:
    """Return whether a line is written within three seconds; access lines wait 0.2 s."""
    give_up = time.monotonic() + 3
    while time.monotonic() < give_up:
        if has_line(trace):
            return True
        time.sleep(0.1)
    return False


def test_sampled_request_is_one_trace_through_all_processes_and_others_are_none(
    system: System, collector: Collector
):
    traces = [os.urandom(16).hex() for _ in range(2)]
    for trace, flags in zip(traces, ("00", "01"), strict=True):
        with system.client(traceparent=f"00-{trace}-b7ad6b7169203331-{flags}") as client:
            answer = client.post(
                "/v1/diagnoses",
                json={
                    "equipment_id": "hydraulic-rig",
                    "readings": inline_readings(rig_cycle(0)[0], "2026-01-01T00:00:00Z"),
                },
            )
            assert (answer.status_code, answer.headers["x-trace-id"]) == (200, trace)
    spans = collector.of_trace(
        traces[1],
        {
            "POST /v1/diagnoses",
            *STAGES,
            "wait for batch",
            "diagnose",
            "build graphs",
            "score graphs",
            "route_to_replica GraphBuilder build",
            "replica_handle_request GraphBuilder build",
            "route_to_replica Model score",
            "replica_handle_request Model score",
        },
    )
    assert spans["POST /v1/diagnoses"].parent_span_id.hex() == "b7ad6b7169203331"
    for stage in STAGES:
        assert spans[stage].parent_span_id == spans["POST /v1/diagnoses"].span_id, stage
    assert spans["wait for batch"].parent_span_id == spans["answer"].span_id
    assert spans["diagnose"].parent_span_id == spans["answer"].span_id
    assert spans["score graphs"].parent_span_id == spans["diagnose"].span_id
    assert spans["route_to_replica Model score"].parent_span_id == spans["score graphs"].span_id
    assert (
        spans["replica_handle_request Model score"].parent_span_id
        == spans["route_to_replica Model score"].span_id
    )
    assert {name for name, _ in collector.spans} == {"hydraulic-diagnostics"}
    assert traces[0] not in {span.trace_id.hex() for _, span in collector.spans}


def test_forced_version_answers_and_an_unknown_one_is_a_problem(client: httpx.Client):
    values, _ = rig_cycle(300)
    readings = inline_readings(values, "2026-01-01T00:00:00Z")
    answers = {
        version: diagnose(
            client, equipment_id="hydraulic-rig", model_version=version, readings=readings
        )
        for version in ("1", "2")
    }
    assert {version: answer["model_version"] for version, answer in answers.items()} == {
        "1": "1",
        "2": "2",
    }
    assert answers["1"]["components"] != answers["2"]["components"]
    problem = client.post(
        "/v1/diagnoses",
        json={"equipment_id": "hydraulic-rig", "model_version": "9", "readings": readings},
    )
    assert (problem.status_code, problem.json()["field"]) == (404, "model_version")


def test_models_traffic_metrics_health_and_openapi_answer(system: System, client: httpx.Client):
    models = client.get("/v1/models").json()["models"]
    assert [model["version"] for model in models] == ["1", "2"]
    assert all(model["available"] and model["checkpoint"]["sha256"] for model in models)
    assert {item["weight"] for item in client.get("/v1/traffic").json()["releases"]} == {100, 0}
    with httpx.Client(base_url=system.url) as anonymous:
        assert anonymous.get("/health/live").status_code == 200
        assert anonymous.get("/health/ready").json()["ready"] is True
        assert "hydraulic_diagnoses_total" in anonymous.get("/metrics").text
        document = anonymous.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "/v1/diagnoses/batch" in document["paths"]
    assert {"Diagnosis", "Equipment", "Problem"} <= set(document["components"]["schemas"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/equipment/x"),
        ("GET", "/v1/equipment"),
        ("GET", "/v1/equipment/hydraulic-rig"),
        ("POST", "/v1/readings"),
        ("POST", "/v1/diagnoses"),
        ("POST", "/v1/diagnoses/batch"),
        ("GET", "/v1/diagnoses/x"),
        ("GET", "/v1/equipment/hydraulic-rig/diagnoses"),
        ("GET", "/v1/models"),
        ("GET", "/v1/traffic"),
    ],
)
def test_every_path_of_the_interface_needs_a_key(system: System, method: str, path: str):
    for headers in ({}, {"authorization": "Bearer wrong"}):
        answer = httpx.request(method, f"{system.url}{path}", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"


RIG_START = "2026-01-01T00:00:00Z"


def _inline(**changes: object) -> dict[str, object]:
    values, _ = rig_cycle(0)
    readings = inline_readings(values, RIG_START)
    return {"equipment_id": "hydraulic-rig", "readings": readings | changes}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (lambda: _inline(values={"PX": [1.0] * 60}), 422, "readings.values.PX"),
        (lambda: _inline(values={"PS1": [1.0] * 59}), 422, "readings.values.PS1"),
        (lambda: _inline(values={"PS1": []}), 422, "readings.values.PS1"),
        (lambda: _inline(values={}), 422, "readings.values"),
        (lambda: _inline(values={"PS1": [None] * 60}), 422, "readings.values"),
        (lambda: _inline(start="2026-01-01T00:00:00"), 422, "readings.start"),
        (lambda: _inline(start="2099-01-01T00:00:00Z"), 422, "readings.start"),
        (lambda: {"equipment_id": "hydraulic-rig", "at": "2099-01-01T00:00:00Z"}, 422, "at"),
        (lambda: {"equipment_id": "hydraulic-rig", "at": "2001-01-01T00:00:00Z"}, 422, "at"),
        (lambda: {"equipment_id": "hydraulic-rig", "at": "2026-01-01 00:00"}, 422, "at"),
        (lambda: {"equipment_id": "nobody"}, 404, "equipment_id"),
        (dict, 422, "equipment_id"),
    ],
)
def test_bad_diagnosis_request_is_a_problem_that_names_the_field(
    client: httpx.Client, body: Any, status: int, field: str
):
    answer = client.post("/v1/diagnoses", json=body())
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["trace_id"] == answer.headers["x-trace-id"]


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_not_a_number_in_readings_is_a_problem(client: httpx.Client, literal: str):
    values = ", ".join([literal] + ["1.0"] * 59)
    readings = f'{{"start": "{RIG_START}", "step_s": 1, "values": {{"PS1": [{values}]}}}}'
    text = f'{{"equipment_id": "hydraulic-rig", "readings": {readings}}}'
    answer = client.post("/v1/diagnoses", content=text)
    assert (answer.status_code, answer.json()["field"]) == (422, "readings.values.PS1[0]")


def test_topology_with_a_loop_to_nowhere_is_refused_with_all_findings(client: httpx.Client):
    topology = rig_equipment().model_dump(mode="json") | {"equipment_id": "broken"}
    topology["connections"] = [
        *topology["connections"],
        {"source": "pump", "target": "pump", "medium": "shaft"},
        {"source": "pump", "target": "nowhere", "medium": "shaft"},
    ]
    answer = client.put("/v1/equipment/broken", json=topology)
    assert answer.status_code == 422
    places = [item["field"] for item in answer.json()["errors"]]
    assert places == ["connections[9]", "connections[10].target"]
    assert client.get("/v1/equipment/broken").status_code == 404


def test_body_of_100_megabytes_is_refused_by_its_announced_length(client: httpx.Client):
    """The body is refused before it is sent: of 100 MB only the first KiB goes out."""
    address = client.base_url
    head = (
        f"POST /v1/diagnoses HTTP/1.1\r\nHost: {address.host}\r\n"
        f"Authorization: {client.headers['authorization']}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100000000\r\n\r\n"
    )
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        connection.sendall(head.encode() + b"x" * 1024)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["type"].rsplit(":", 1)[-1]) == (
            413,
            "too-large",
        )
    whole = client.post("/v1/diagnoses", content=b"x" * 100_000_000)
    assert (whole.status_code, whole.json()["type"].rsplit(":", 1)[-1]) == (413, "too-large")
    assert client.get("/health/live").status_code == 200


def test_readings_with_a_bad_line_keep_the_good_ones(client: httpx.Client):
    machine(client, "rig-lines")
    good = {
        "equipment_id": "rig-lines",
        "sensor_id": "PS1",
        "time": "2026-04-01T00:00:00Z",
        "value": 100.0,
    }
    lines = [
        good,
        good | {"sensor_id": "PX"},
        good | {"time": "2026-04-01T00:00:01"},
        good | {"time": "2026-04-01T00:00:02Z"},
    ]
    answer = client.post(
        "/v1/readings",
        content="\n".join(map(json.dumps, lines)),
        headers={"content-type": "application/x-ndjson"},
    )
    assert answer.json()["accepted"] == 2
    assert [item["line"] for item in answer.json()["rejected"]] == [2, 3]
    only_bad = client.post("/v1/readings", json=[good | {"sensor_id": "PX"}])
    assert (only_bad.status_code, only_bad.json()["field"]) == (422, "sensor_id")


def test_unknown_path_and_method_are_problems(client: httpx.Client):
    for method, path, status in (("GET", "/v2/nothing", 404), ("DELETE", "/v1/equipment", 405)):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (
            status,
            "application/problem+json",
        )


def _versions(client: httpx.Client, ids: list[str]) -> dict[str, str]:
    return {
        equipment_id: client.get(
            "/v1/traffic", params={"equipment_id": equipment_id, "design": "hydraulic-rig"}
        ).json()["version"]
        for equipment_id in ids
    }


def _weights(client: httpx.Client) -> set[float]:
    return {item["weight"] for item in client.get("/v1/traffic").json()["releases"]}


def test_new_weights_move_about_half_of_the_equipment_without_a_failed_request(system: System):
    values, _ = rig_cycle(300)
    readings = inline_readings(values, RIG_START)
    topology = rig_equipment().model_dump(mode="json")
    failures: list[str] = []
    seen: dict[str, set[tuple[bool, str]]] = {}
    moved, stopping = threading.Event(), threading.Event()

    def load() -> None:
        with system.client() as own:
            number = 0
            while not stopping.is_set():
                number = (number + 1) % 40
                equipment_id = f"loaded-{number}"
                body = {
                    "equipment_id": equipment_id,
                    "readings": readings,
                    "equipment": topology
                    | {"equipment_id": equipment_id, "design": "hydraulic-rig"},
                }
                after = moved.is_set()
                answer = own.post("/v1/diagnoses", json=body)
                if answer.status_code != 200:
                    failures.append(answer.text)
                    continue
                seen.setdefault(equipment_id, set()).add((after, answer.json()["model_version"]))

    worker = threading.Thread(target=load)
    worker.start()
    try:
        wait_until(lambda: len(seen) == 40, "an answer for each machine")
        config = system.config()
        ingress = config["applications"][0]["deployments"][0]["user_config"]
        ingress["traffic"]["releases"][0]["weight"] = ingress["traffic"]["releases"][1][
            "weight"
        ] = 50
        with system.client() as client, ThreadPoolExecutor(1) as other:
            deploying = other.submit(system.deploy, config)
            wait_until(lambda: _weights(client) == {50}, "the new weights", limit_s=180)
            deploying.result()
            moved.set()
            ids = [f"machine-{number}" for number in range(1000)]
            first = _versions(client, ids)
            share = Counter(first.values())
            assert 450 < share["2"] < 550
            assert _versions(client, ids[:100]) == {name: first[name] for name in ids[:100]}
        wait_until(
            lambda: all(any(late for late, _ in tuple(pairs)) for pairs in list(seen.values())),
            "an answer for each machine with the new weights",
        )
    finally:
        stopping.set()
        worker.join()
    assert failures == []
    assert len(seen) == 40
    assert {version for pairs in seen.values() for late, version in pairs if not late} >= {"1"}
    after = {name: {version for late, version in pairs if late} for name, pairs in seen.items()}
    assert all(len(versions) <= 1 for versions in after.values()), after
    assert {"1", "2"} <= set().union(*after.values())


def _replicas(system: System, deployment: str) -> int:
    """Return the number of running replicas of a deployment."""
    applications = yaml.safe_load(system.serve("status"))["applications"]
    found = [
        entry["deployments"].get(deployment)
        for entry in applications.values()
        if deployment in entry["deployments"]
    ]
    return max(int(item["replica_states"].get("RUNNING", 0)) for item in found)


def _wait_for_replicas(system: System, deployment: str, expected: int) -> None:
    wait_until(
        lambda: _replicas(system, deployment) == expected,
        f"{expected} replicas of {deployment}",
        limit_s=300,
        pause_s=0.5,
    )


@pytest.mark.parametrize(
    ("application", "name", "target"),
    # builders and models are busy for a small part of a batch's time: any load is above this target
    [(0, "Ingress", 4), (0, "GraphBuilder", 0.02), (1, "Model", 0.02)],
)
def test_deployment_follows_a_step_of_load_and_no_request_fails(
    system: System, application: int, name: str, target: float
):
    """With the shipped bounds; delays are shorter, and the load is above a lower target."""
    config = system.config()
    deployment = next(
        item for item in config["applications"][application]["deployments"] if item["name"] == name
    )
    before = dict(deployment["autoscaling_config"])
    quick = {"target_ongoing_requests": target, "look_back_period_s": 10.5}
    deployment["autoscaling_config"] = (
        before | quick | {"upscale_delay_s": 0.5, "downscale_delay_s": 3}
    )
    system.deploy(config)
    _wait_for_replicas(system, name, 1)  # requests of earlier tests still count as load
    body = {
        "equipment_id": "hydraulic-rig",
        "readings": inline_readings(rig_cycle(0)[0], iso(datetime.now(UTC) - timedelta(hours=1))),
    }
    statuses: Counter[int] = Counter()
    stopping = threading.Event()

    def load() -> None:
        with system.client() as own:
            while not stopping.is_set():
                statuses[own.post("/v1/diagnoses", json=body).status_code] += 1

    with ThreadPoolExecutor(24) as clients:
        for _ in range(24):
            clients.submit(load)
        try:
            _wait_for_replicas(system, name, 2)
        finally:
            stopping.set()
    _wait_for_replicas(system, name, 1)
    deployment["autoscaling_config"] = before
    system.deploy(config)
    assert set(statuses) == {200}


def test_bad_weights_are_refused_and_the_old_ones_stay_in_force(
    system: System, client: httpx.Client
):
    before = client.get("/v1/traffic").json()
    config = system.config()
    first = config["applications"][0]["deployments"][0]["user_config"]["traffic"]["releases"][0]
    weight, first["weight"] = first["weight"], 77
    system.deploy(config)
    reasons = wait_until(lambda: client.get("/health/ready").json()["reasons"], "a reason")
    assert "expected weights that sum to 100" in reasons[0]
    assert client.get("/v1/traffic").json() == before
    first["weight"] = weight
    system.deploy(config)
    wait_until(lambda: client.get("/health/ready").json()["reasons"] == [], "no reason")


def test_killed_postgresql_loses_no_acknowledged_reading_and_comes_back(
    system: System, client: httpx.Client
):
    machine(client, "rig-killed")
    start = datetime(2026, 5, 1, tzinfo=UTC)
    acknowledged: list[int] = []
    killed_at: list[float] = []
    recovered_at: list[float] = []
    (postmaster_file,) = system.var_dir.rglob("postmaster.pid")
    postmaster = int(postmaster_file.read_text().split()[0])

    def kill() -> None:
        wait_until(lambda: len(acknowledged) >= 3, "three acknowledged batches", pause_s=0.01)
        killed_at.append(time.monotonic())
        os.kill(postmaster, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    give_up = time.monotonic() + 180
    number = 0
    while time.monotonic() < give_up and not recovered_at:
        rows = [
            {
                "equipment_id": "rig-killed",
                "sensor_id": "PS1",
                "time": iso(start + timedelta(seconds=number * 20 + second)),
                "value": float(second),
            }
            for second in range(20)
        ]
        try:
            answer = client.post("/v1/readings", json=rows)
        except httpx.HTTPError:
            continue
        if answer.status_code in (200, 202):
            acknowledged.append(number)
            number += 1
            stored = answer.status_code == 200  # else spooled
            if stored and killed_at and time.monotonic() - killed_at[0] > 0.5:
                recovered_at.append(time.monotonic())
        else:
            assert answer.status_code == 503, answer.text
            time.sleep(0.1)
    killer.join()
    assert recovered_at, "the service did not take readings again"
    for last in range(3, len(acknowledged) + 1):
        at = iso(start + timedelta(seconds=20 * last))

        def whole(at: str = at) -> bool:
            found = diagnose(client, equipment_id="rig-killed", at=at)["input"]["coverage"]
            return bool(found == pytest.approx(1 / 17, abs=1e-6))

        wait_until(whole, f"all acknowledged readings before {at}")


def test_live_rig_is_diagnosed_from_arriving_readings(client: httpx.Client):
    """Comes late in this file: a condition that changes makes a component abstain for minutes."""
    listed = client.get("/v1/equipment").json()["equipment"]
    assert "hydraulic-rig" in [item["equipment_id"] for item in listed]

    def diagnosed() -> dict[str, Any] | None:
        body = {"equipment_id": "hydraulic-rig", "explain": True}
        answer = client.post("/v1/diagnoses", json=body)
        found: dict[str, Any] = answer.json()
        return found if answer.status_code == 200 and found["status"] == "ok" else None

    diagnosis = wait_until(diagnosed, "a diagnosis of the live rig", limit_s=300, pause_s=0.5)
    assert diagnosis is not None
    components = {item["component_id"]: item for item in diagnosis["components"]}
    assert set(components) >= LABELLED
    for name, item in components.items():
        assert 0 <= item["interval"][0] <= item["health"] <= item["interval"][1] <= 1, name
        assert item["evidence"], name
    assert all(components[name]["condition"] for name in LABELLED)
    assert diagnosis["input"]["coverage"] > 0.9
    assert diagnosis["input"]["stale_s"] < 70
    ended = datetime.fromisoformat(diagnosis["window"]["end"])
    assert datetime.now(UTC) - ended < timedelta(seconds=70)
    assert ended.second == 0


def readme_commands(word: str) -> list[str]:
    """Return the shell commands of the README and the first tutorial that begin with a word."""
    pages = ("README.md", "docs/tutorials/first-diagnosis.md")
    text = "\n".join((PROJECT_DIR / page).read_text() for page in pages)
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip().startswith(word)]


def test_curl_calls_of_the_readme_answer(system: System):
    calls = readme_commands("curl")
    assert len(calls) >= 3
    for call in calls:
        here = call.replace("http://127.0.0.1:8000", system.url).replace(
            "var/api_key", str(system.var_dir / "api_key")
        )
        done = subprocess.run(
            ["bash", "-c", f"{here} --fail"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, (call, done.stdout, done.stderr)
        assert json.loads(done.stdout)


def test_status_of_the_readme_answers(system: System):
    assert "serve status" in readme_commands("serve status")
    assert "RUNNING" in system.serve("status")
