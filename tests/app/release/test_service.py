"""Releases over HTTP: real routes, keys, operations, file and history; a fake cluster."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.core.settings import Settings
from app.release import promotion
from app.release.config.edits import without_version
from app.release.config.file import ConfigFile
from app.release.service import ReleaseService
from app.store.store import Store
from tests.app.release.fake_cluster import FakeCluster, serving


@pytest.fixture
def file(path: Path, cluster: FakeCluster) -> Iterator[Path]:
    """The file that the cluster runs."""
    with serving(cluster) as port:
        path.write_text(path.read_text().replace("port: 8000", f"port: {port}"))
        cluster.put(yaml.safe_load(path.read_text()))
        yield path


@pytest.fixture
def release_service(store: Store, file: Path, tmp_path: Path) -> ReleaseService:
    port = yaml.safe_load(file.read_text())["http_options"]["port"]
    settings = Settings(serve_config=file, var_dir=tmp_path / "var")
    return ReleaseService(settings, store, lambda: f"http://127.0.0.1:{port}")


def weights(first: float, second: float, **more: Any) -> dict[str, Any]:
    return {"weights": {"1": first, "2": second}} | more


async def test_weights_are_put_in_force_and_the_key_s_name_is_in_the_history(
    client: httpx.AsyncClient, store: Store, cluster: FakeCluster, file: Path
):
    answer = await client.put("/v1/traffic", json=weights(90, 10, reason="a try"))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["state"], body["weights"]) == ("done", {"1": 90, "2": 10})
    assert cluster.weights == {"1": 90, "2": 10}
    read = ConfigFile(file).read()
    assert (body["digest"], answer.headers["etag"]) == (read.digest, f'"{read.digest}"')
    assert "in force after" in body["said"][-1]
    event = (await store.list_releases())[0]
    assert (event.action, event.actor, event.reason, event.version) == (
        "split",
        "test",
        "a try",
        "2",
    )

    answer = await client.post("/v1/traffic/rollback")
    assert (answer.status_code, answer.json()["weights"]) == (200, {"1": 100, "2": 0})
    assert cluster.weights == {"1": 100, "2": 0}
    assert (await store.list_releases())[0].action == "rollback"


async def test_dry_run_returns_the_difference_and_changes_nothing(
    client: httpx.AsyncClient, store: Store, cluster: FakeCluster, file: Path
):
    before = file.read_text()
    answer = await client.put("/v1/traffic", params={"dry_run": "true"}, json=weights(90, 10))
    assert (answer.status_code, answer.json()["state"]) == (200, "would_change")
    assert "+                weight: 90" in answer.json()["said"]
    assert (file.read_text(), cluster.calls, await store.list_releases()) == (before, [], [])


async def test_one_of_two_requests_with_the_same_digest_is_refused(
    client: httpx.AsyncClient, cluster: FakeCluster
):
    seen = (
        await client.put("/v1/traffic", params={"dry_run": "true"}, json=weights(90, 10))
    ).headers["etag"]
    cluster.apply_s = 0.2
    answers = await asyncio.gather(
        *(
            client.put(
                "/v1/traffic", json=weights(100 - second, second), headers={"if-match": seen}
            )
            for second in (10, 20)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refused["type"].endswith(":release-conflict")
    assert "another command at work" in refused["detail"] or "found it changed" in refused["detail"]
    answer = await client.put("/v1/traffic", json=weights(50, 50), headers={"if-match": seen})
    assert (answer.status_code, "found it changed" in answer.json()["detail"]) == (409, True)
    answer = await client.post("/v1/traffic/rollback", headers={"if-match": seen})
    assert answer.status_code == 409
    answer = await client.put("/v1/traffic", json=weights(50, 50), headers={"if-match": "x"})
    assert (answer.status_code, answer.json()["field"]) == (422, "If-Match")


async def test_concurrent_command_is_named(
    client: httpx.AsyncClient, file: Path, cluster: FakeCluster
):
    with ConfigFile(file).locked("deploy 3 by ann"):
        answer = await client.put("/v1/traffic", json=weights(90, 10))
    assert (answer.status_code, "deploy 3 by ann" in answer.json()["detail"]) == (409, True)
    assert cluster.weights == {"1": 100, "2": 0}


async def test_file_that_is_not_what_runs_is_refused(
    client: httpx.AsyncClient, file: Path, cluster: FakeCluster
):
    file.write_text(
        file.read_text().replace("max_ongoing_requests: 256", "max_ongoing_requests: 128")
    )
    for answer in (
        await client.put("/v1/traffic", json=weights(90, 10)),
        await client.post("/v1/traffic/rollback", json={}),
        await client.post("/v1/models/3/deploy"),
    ):
        assert answer.status_code == 409
        assert "application 'diagnostics' differs" in answer.json()["detail"]
    assert cluster.calls == []


@pytest.mark.parametrize("gone", [True, False])
async def test_absent_or_read_only_file_is_501(
    client: httpx.AsyncClient, file: Path, cluster: FakeCluster, gone: bool
):
    if gone:
        file.unlink()
    else:
        # root may write everywhere; a directory can't be opened by anybody
        (file.parent / f".{file.name}.lock").mkdir()
    answer = await client.put("/v1/traffic", json=weights(90, 10))
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (
        501,
        "releases-elsewhere",
    )
    assert "HYDRAULIC_SERVE_CONFIG" in answer.json()["detail"]
    assert cluster.weights == {"1": 100, "2": 0}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (weights(90, 20), "sum to 100, found 110"),
        ({"weights": {"1": "x"}}, "expected a number"),
        ({"weights": {}}, "sum to 100, found 0"),
        (weights(100, 0, raeson="x"), "check its spelling"),
    ],
)
async def test_invalid_request_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], message: str
):
    answer = await client.put("/v1/traffic", json=body)
    assert (answer.status_code, message in answer.json()["detail"]) == (422, True), answer.text


async def test_version_that_is_not_released_or_does_not_answer_gets_no_weight(
    client: httpx.AsyncClient, cluster: FakeCluster
):
    answer = await client.put("/v1/traffic", json={"weights": {"9": 100}})
    assert (answer.status_code, "found '9': the file has 1, 2" in answer.json()["detail"]) == (
        409,
        True,
    )
    cluster.silent.add("2")
    answer = await client.put("/v1/traffic", json=weights(0, 100))
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (
        422,
        "release-refused",
    )
    assert cluster.weights == {"1": 100, "2": 0}


async def test_keys_without_the_scope_change_nothing(
    client: httpx.AsyncClient, store: Store, cluster: FakeCluster
):
    reader = (await store.create_key("reader", ["read", "diagnose", "ingest"])).secret
    for headers, status in (
        ({"authorization": f"Bearer {reader}"}, 403),
        ({"authorization": ""}, 401),
    ):
        for method, where in (
            ("PUT", "/v1/traffic"),
            ("POST", "/v1/traffic/rollback"),
            ("POST", "/v1/models/3/deploy"),
            ("POST", "/v1/models/2/promote"),
            ("POST", "/v1/models/2/shadow"),
            ("POST", "/v1/models/2/retire"),
        ):
            answer = await client.request(method, where, json=weights(90, 10), headers=headers)
            assert answer.status_code == status
    assert cluster.calls == []


async def test_shipped_version_is_checked_and_deployed(
    client: httpx.AsyncClient,
    cluster: FakeCluster,
    file: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
):
    whole = file.read_text()
    file.write_text(without_version(whole, "2"))
    cluster.put(yaml.safe_load(file.read_text()))
    answer = await client.post("/v1/models/77/deploy")
    assert (
        answer.status_code,
        "version 77 was refused: expected version 77" in answer.json()["detail"],
    ) == (422, True)
    answer = await client.post("/v1/models/2/deploy", json={"reason": "back"})
    assert answer.status_code == 200, answer.text
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(whole)
    assert (await store.list_releases())[0].reason == "back"
    assert cluster.applications["model-2"]["args"]["checkpoint"] == "app/weights/2"
    answer = await client.post("/v1/models/2/deploy")
    assert (answer.status_code, "retire it first" in answer.json()["detail"]) == (409, True)


async def test_promotion_walks_its_steps_and_is_recorded(
    client: httpx.AsyncClient, store: Store, cluster: FakeCluster, file: Path
):
    before = file.read_text()
    order = {"steps": [10, 100], "reason": "better"}
    dry = await client.post("/v1/models/2/promote", params={"dry_run": "true"}, json=order)
    assert (dry.status_code, dry.json()["state"]) == (200, "would_change")
    assert "+                weight: 10" in dry.json()["said"]
    assert (file.read_text(), cluster.calls) == (before, [])
    seen = {"if-match": dry.headers["etag"]}

    answer = await client.post("/v1/models/2/promote", json=order, headers=seen)
    assert (answer.status_code, answer.json()["state"]) == (200, "done"), answer.text
    assert answer.json()["said"][-1] == "version 2 was promoted"
    assert cluster.weights == {"1": 0, "2": 100}
    events = await store.list_releases()
    assert [(event.action, event.actor, event.reason) for event in events[:2]] == [
        ("promote", "test", "better"),
        ("step", "test", "better"),
    ]
    for verb in ("promote", "shadow", "retire"):
        answer = await client.post(f"/v1/models/1/{verb}", headers=seen)
        assert (answer.status_code, "found it changed" in answer.json()["detail"]) == (409, True)
    answer = await client.post("/v1/models/9/promote")
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (
        404,
        "unknown-version",
    )


async def test_guard_that_can_not_be_decided_restores_the_weights(
    client: httpx.AsyncClient, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(promotion, "POLL_S", 0.01)
    order = {"steps": [10, 100], "hold_s": 0.03, "guards": ["errors<1%"]}
    answer = await client.post("/v1/models/2/promote", json=order)
    assert answer.status_code == 422
    assert "rolled back at weight 10: errors<1% can't be decided" in answer.json()["detail"]
    assert cluster.weights == {"1": 100, "2": 0}


@pytest.mark.parametrize(
    ("order", "field", "message"),
    [
        ({"guards": ["errors<1%"]}, "hold_s", "say how long each step holds"),
        ({"guards": ["speed<1%"], "hold_s": 1}, "", "found 'speed'"),
        ({"steps": [50, 10]}, "", "expected steps that rise, found 50, 10"),
        ({"steps": [0]}, "steps[0]", "greater than 0"),
    ],
)
async def test_invalid_promotion_is_refused(
    client: httpx.AsyncClient, cluster: FakeCluster, order: dict[str, Any], field: str, message: str
):
    answer = await client.post("/v1/models/2/promote", json=order)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert message in answer.json()["detail"]
    assert cluster.calls == []


async def test_one_promotion_at_a_time_and_a_replica_that_stops_ends_it(
    client: httpx.AsyncClient, cluster: FakeCluster, release_service: ReleaseService
):
    order = {"steps": [10, 100], "hold_s": 3600}
    first = asyncio.create_task(client.post("/v1/models/2/promote", json=order))
    while cluster.weights != {"1": 90, "2": 10}:
        await asyncio.sleep(0.02)
    answer = await client.post("/v1/models/1/promote")
    assert (answer.status_code, "found that of version 2" in answer.json()["detail"]) == (409, True)
    await release_service.close()
    assert cluster.weights == {"1": 100, "2": 0}
    first.cancel()


async def test_shadow_begins_and_ends_and_a_version_without_weight_is_removed(
    client: httpx.AsyncClient, cluster: FakeCluster, store: Store
):
    answer = await client.post("/v1/models/2/shadow", json={"reason": "compare"})
    assert answer.status_code == 200, answer.text
    assert cluster.shadows == ["2"]
    answer = await client.post("/v1/models/2/retire")
    assert (answer.status_code, "not to be a shadow" in answer.json()["detail"]) == (409, True)
    answer = await client.post("/v1/models/2/shadow", json={"enabled": False})
    assert (answer.status_code, cluster.shadows) == (200, [])

    answer = await client.post("/v1/models/1/retire")
    assert (answer.status_code, "without weight, found 100" in answer.json()["detail"]) == (
        409,
        True,
    )
    answer = await client.post("/v1/models/2/retire", json={"reason": "old"})
    assert (answer.status_code, answer.json()["weights"]) == (200, {"1": 100}), answer.text
    assert "model-2" not in cluster.applications
    events = await store.list_releases()
    assert [(event.action, event.reason) for event in events[:3]] == [
        ("retire", "old"),
        ("shadow off", ""),
        ("shadow", "compare"),
    ]


async def done(store: Store) -> None:
    """Wait until a release is recorded in the history."""
    for _ in range(200):
        if "split" in [event.action for event in await store.list_releases()]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the release was not recorded")


async def test_release_continues_when_its_caller_disconnects(
    client: httpx.AsyncClient, cluster: FakeCluster, store: Store
):
    cluster.apply_s = 0.5
    request = asyncio.create_task(client.put("/v1/traffic", json=weights(40, 60)))
    while "apply" not in cluster.calls:
        await asyncio.sleep(0.02)
    request.cancel()
    await done(store)
    assert cluster.weights == {"1": 40, "2": 60}


async def test_long_release_is_answered_as_running(
    client: httpx.AsyncClient, cluster: FakeCluster, store: Store, file: Path
):
    file.write_text(file.read_text().replace("request_timeout_s: 60", "request_timeout_s: 1"))
    cluster.apply_s = 2.0
    answer = await client.put("/v1/traffic", json=weights(40, 60))
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    await done(store)
    assert cluster.weights == {"1": 40, "2": 60}


async def test_registered_versions_are_listed_without_those_that_are_deployed(
    client: httpx.AsyncClient, cluster: FakeCluster
):
    deployed = (await client.get("/v1/models")).json()["models"]
    assert [(each["version"], each["state"]) for each in deployed] == [
        ("1", "deployed"),
        ("2", "deployed"),
    ]
    assert (await client.get("/v1/models", params={"state": "registered"})).json()["models"] == []


async def test_changes_of_releases_are_listed_in_pages_newest_first(
    client: httpx.AsyncClient, cluster: FakeCluster
):
    await client.put("/v1/traffic", json=weights(90, 10, reason="a try"))
    await client.put("/v1/traffic", json={"design": "hydraulic-rig", "weights": {"2": 100}})
    first = (await client.get("/v1/traffic/history", params={"limit": 2})).json()
    assert [event["action"] for event in first["events"]] == ["split", "split"]
    newest = first["events"][0]
    assert (newest["weights"], newest["designs"]) == (
        {"1": 90, "2": 10},
        {"hydraulic-rig": {"2": 100}},
    )
    cursor = {"limit": 2, "cursor": first["next_cursor"]}
    second = (await client.get("/v1/traffic/history", params=cursor)).json()
    assert [event["action"] for event in second["events"]] == ["found"]
    assert second["next_cursor"] is None


async def test_weights_of_a_design_end_with_an_order_without_any(
    client: httpx.AsyncClient, cluster: FakeCluster
):
    order = {"design": "hydraulic-rig", "weights": {"1": 50, "2": 50}}
    answer = await client.put("/v1/traffic", json=order)
    assert answer.json()["designs"] == cluster.designs == {"hydraulic-rig": {"1": 50, "2": 50}}
    answer = await client.put("/v1/traffic", json=order | {"weights": {}})
    assert (answer.status_code, answer.json()["designs"], cluster.designs) == (200, {}, {})
