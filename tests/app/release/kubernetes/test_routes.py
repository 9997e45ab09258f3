"""The admin routes on a RayService: real routes, keys, operations and history; a fake cluster."""

import asyncio
from typing import Any

import httpx
import pytest

from app.core.settings import Settings
from app.release.service import ReleaseService
from app.store.store import Store
from tests.app.release.fake_cluster import FakeCluster
from tests.app.release.kubernetes.conftest import RELEASER, stored
from tests.kuberay import Operator
from tests.kubernetes_api import ApiServer


@pytest.fixture
def release_service(
    store: Store, settings: Settings, operator: Operator, cluster: FakeCluster
) -> ReleaseService:
    return ReleaseService(settings, store, lambda: "unused")


@pytest.fixture(autouse=True)
async def _applied(operator: Operator, cluster: FakeCluster) -> None:
    async with asyncio.timeout(30):
        while not cluster.weights:
            await asyncio.sleep(0.02)


def weights(first: float, second: float, **more: Any) -> dict[str, Any]:
    return {"weights": {"1": first, "2": second}} | more


async def test_weights_and_their_rollback_are_in_the_resource_and_in_the_history(
    client: httpx.AsyncClient, store: Store, cluster: FakeCluster, server: ApiServer, text: str
):
    answer = await client.put("/v1/traffic", json=weights(90, 10, reason="a try"))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["state"], answer.json()["weights"]) == ("done", {"1": 90, "2": 10})
    assert cluster.weights == {"1": 90, "2": 10}
    assert "weight: 90" in stored(server)
    event = (await store.list_releases())[0]
    assert (event.action, event.actor, event.reason) == ("split", "test", "a try")

    stale = {"if-match": answer.headers["etag"]}
    answer = await client.post("/v1/traffic/rollback")
    assert (answer.status_code, answer.json()["weights"]) == (200, {"1": 100, "2": 0})
    assert stored(server) == text
    answer = await client.put("/v1/traffic", json=weights(50, 50), headers=stale)
    assert (answer.status_code, "found it changed" in answer.json()["detail"]) == (409, True)


async def test_promotion_shadow_and_removal(
    client: httpx.AsyncClient, store: Store, cluster: FakeCluster, server: ApiServer
):
    dry = await client.post("/v1/models/2/promote", params={"dry_run": "true"}, json={})
    assert "+                weight: 100" in dry.json()["said"]
    answer = await client.post("/v1/models/2/promote", json={"steps": [10, 100]})
    assert (answer.status_code, cluster.weights) == (200, {"1": 0, "2": 100}), answer.text
    answer = await client.post("/v1/models/1/shadow", json={})
    assert (answer.status_code, cluster.shadows) == (200, ["1"]), answer.text
    await client.post("/v1/models/1/shadow", json={"enabled": False})
    answer = await client.post("/v1/models/1/retire", json={"reason": "old"})
    assert (answer.status_code, answer.json()["weights"]) == (200, {"2": 100}), answer.text
    assert "model-1" not in stored(server)
    assert [event.action for event in await store.list_releases()][:3] == [
        "retire",
        "shadow off",
        "shadow",
    ]


async def test_missing_right_or_resource_is_501_and_an_absent_server_is_503(
    client: httpx.AsyncClient,
    server: ApiServer,
    cluster: FakeCluster,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("app.release.kubernetes.api.RETRY_S", 0.1)
    rights = server.rights[RELEASER]
    server.rights[RELEASER] = rights - {"rayservices patch"}
    answer = await client.put("/v1/traffic", json=weights(90, 10))
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (
        501,
        "releases-elsewhere",
    )
    assert "bind the Role of docs/how-to/release.md" in answer.json()["detail"]
    server.rights[RELEASER] = rights
    server.down = True
    answer = await client.put("/v1/traffic", json=weights(90, 10))
    assert (answer.status_code, "status 503" in answer.json()["detail"]) == (503, True)
    server.down = False
    server.delete("rayservices", "plant", "diagnostics")
    answer = await client.put("/v1/traffic", json=weights(90, 10))
    assert (answer.status_code, "correct HYDRAULIC_RAYSERVICE" in answer.json()["detail"]) == (
        501,
        True,
    )
    assert cluster.weights == {"1": 100, "2": 0}


async def test_one_of_two_requests_at_a_time_is_refused(
    client: httpx.AsyncClient, cluster: FakeCluster
):
    cluster.apply_s = 0.5
    answers = await asyncio.gather(
        *(client.put("/v1/traffic", json=weights(100 - each, each)) for each in (10, 20))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    refused = next(answer.json()["detail"] for answer in answers if answer.status_code == 409)
    assert "another command at work" in refused or "found it changed" in refused
