"""Trainings over HTTP: real routes, keys and command lines; jobs are those of a fake cluster."""

import json
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from app.cli.main import main
from app.core.settings import Settings
from app.release import trainings
from app.release.service import ReleaseService
from app.store.store import Store
from tests.app.release.fake_cluster import FakeCluster, serving
from tests.machines import make_machine
from train.config import TrainConfig

ORDER: dict[str, Any] = {
    "equipment_ids": ["press-1", "press-2"],
    "start": "2026-01-01T00:00:00Z",
    "settings": {"epochs": 5, "learning_rate": 0.02, "split": "time", "workers": "1:4"},
    "reason": "more data",
}


@pytest.fixture
async def release_service(
    store: Store, cluster: FakeCluster, tmp_path: Path
) -> AsyncIterator[ReleaseService]:
    for equipment_id in ("press-1", "press-2"):
        await store.put_equipment(make_machine(equipment_id))
    settings = Settings(
        var_dir=tmp_path,
        dsn=SecretStr("postgresql://ann:secret-word@db/x"),
        api_key=SecretStr("k" * 32),
    )
    with serving(cluster) as port:
        address = f"http://127.0.0.1:{port}"
        yield ReleaseService(settings, store, lambda: address, lambda: "10.0.0.1:6379")


async def started(client: httpx.AsyncClient, order: dict[str, Any] = ORDER) -> str:
    answer = await client.post("/v1/trainings", json=order)
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["training_id"]
    assert answer.headers["location"] == f"/v1/trainings/{found}"
    return found


async def test_training_is_a_job_with_the_arguments_of_the_request_and_no_secret(
    client: httpx.AsyncClient,
    cluster: FakeCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    training_id = await started(client)
    job = cluster.jobs[training_id]
    assert job["runtime_env"] == {
        "env_vars": {"HYDRAULIC_VAR_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    }
    assert "secret-word" not in json.dumps(job)
    address, *words = shlex.split(job["entrypoint"])
    assert address == "RAY_ADDRESS=10.0.0.1:6379"
    place = words.index("&&")
    train, register = words[:place], words[place + 1 :]
    assert train[:5] == [sys.executable, "-m", "app.cli.main", "train", "start"]
    configs: list[TrainConfig] = []
    monkeypatch.setattr(
        "train.jobs.start.train", lambda options, config, command: configs.append(config) or 0
    )
    assert main(train[3:]) == 0
    (config,) = configs
    assert (config.equipment, config.epochs, config.learning_rate) == ("press-1,press-2", 5, 0.02)
    assert (config.split, config.workers) == ("time", "1:4")
    assert config.start is not None
    assert config.start.isoformat() == "2026-01-01T00:00:00+00:00"
    out = tmp_path / "checkpoints" / "trainings" / training_id
    assert register == [
        sys.executable, "-m", "app.release.registration", str(out),
        "--result", f"{out}.json",
    ]  # fmt: skip

    found = (await client.get(f"/v1/trainings/{training_id}")).json()
    assert (found["status"], found["requested_by"], found["version"]) == ("pending", "test", None)
    assert found["request"]["reason"] == "more data"
    cluster.jobs[training_id] |= {"status": "SUCCEEDED", "end_time": 1_767_225_700_000}
    out.parent.mkdir(parents=True)
    Path(f"{out}.json").write_text(json.dumps({"version": "3", "created": True}))
    found = (await client.get(f"/v1/trainings/{training_id}")).json()
    assert (found["status"], found["version"]) == ("succeeded", "3")
    assert found["ended_at"] == "2026-01-01T00:01:40Z"


async def test_trainings_are_listed_newest_first_in_pages_without_other_jobs(
    client: httpx.AsyncClient, cluster: FakeCluster
):
    started_ids = [await started(client, {"design": "press"}) for _ in range(3)]
    cluster.jobs["other"] = {"submission_id": "other", "status": "RUNNING", "metadata": None}
    cluster.jobs["driver"] = {"submission_id": None, "status": "RUNNING"}
    first = (await client.get("/v1/trainings", params={"limit": 2})).json()
    assert [each["training_id"] for each in first["trainings"]] == started_ids[:0:-1]
    cursor = {"limit": 2, "cursor": first["next_cursor"]}
    second = (await client.get("/v1/trainings", params=cursor)).json()
    assert [each["training_id"] for each in second["trainings"]] == started_ids[:1]
    assert second["next_cursor"] is None


async def test_log_is_bounded_and_a_training_is_cancelled_once(
    client: httpx.AsyncClient, cluster: FakeCluster
):
    training_id = await started(client)
    cluster.job_log = "".join(f"epoch {number}\n" for number in range(9))
    found = (await client.get(f"/v1/trainings/{training_id}/log", params={"lines": 2})).json()
    assert (found["lines"], found["complete"]) == (["epoch 7", "epoch 8"], False)
    answer = await client.post(f"/v1/trainings/{training_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    cluster.jobs[training_id]["end_time"] = 1
    again = (await client.post(f"/v1/trainings/{training_id}/cancel")).json()
    assert again["ended_at"] == "1970-01-01T00:00:00.001000Z"


async def test_unknown_training_and_another_job_are_not_found(
    client: httpx.AsyncClient, cluster: FakeCluster
):
    cluster.jobs["training-0123456789ab"] = {
        "submission_id": "training-0123456789ab",
        "status": "RUNNING",
        "metadata": {"hydraulic": "training"},
    }
    for training_id in ("training-0123456789ab", "training-ba9876543210"):
        for method, verb in (("GET", ""), ("GET", "/log"), ("POST", "/cancel")):
            answer = await client.request(method, f"/v1/trainings/{training_id}{verb}")
            assert answer.status_code == 404, answer.text
            assert answer.json()["type"].endswith(":unknown-training")
    assert cluster.jobs["training-0123456789ab"]["status"] == "RUNNING"


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"equipment_ids": ["press-1"], "design": "press"},
        {"equipment_ids": ["press-1; rm -rf /"]},
        {"equipment_ids": ["--design"]},
        {"design": "press", "settings": {"studies": ["no-message-passing"]}},
        {"design": "press", "settings": {"workers": "2 && true"}},
        {"design": "press", "settings": {"epochs": 100_000}},
        {"design": "press", "command": "sh"},
        {"design": "press", "start": "2026-01-02T00:00Z", "end": "2026-01-01T00:00Z"},
    ],
)
async def test_invalid_request_starts_nothing(
    client: httpx.AsyncClient, cluster: FakeCluster, order: dict[str, Any]
):
    answer = await client.post("/v1/trainings", json=order)
    assert (answer.status_code, cluster.jobs) == (422, {})


@pytest.mark.parametrize(
    ("order", "field", "message"),
    [
        ({"equipment_ids": ["press-1", "press-9"]}, "equipment_ids[1]", "found 'press-9'"),
        ({"design": "crane"}, "design", "found 'crane', of which there are none"),
    ],
)
async def test_training_on_unknown_machines_is_refused_at_once(
    client: httpx.AsyncClient, cluster: FakeCluster, order: dict[str, Any], field: str, message: str
):
    answer = await client.post("/v1/trainings", json=order)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert message in answer.json()["detail"]
    assert cluster.jobs == {}


async def test_training_without_its_extra_or_with_many_others_is_refused(
    client: httpx.AsyncClient, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(trainings.MOST_RUNNING):
        await started(client)
    answer = await client.post("/v1/trainings", json=ORDER)
    assert (answer.status_code, "wait for one, or cancel it" in answer.json()["detail"]) == (
        409,
        True,
    )
    monkeypatch.setattr(trainings, "NEEDED", ("json", "no_such_module"))
    answer = await client.post("/v1/trainings", json=ORDER)
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (
        409,
        "training-refused",
    )
    assert "found no no_such_module: install the project" in answer.json()["detail"]


async def test_cluster_that_does_not_answer_is_503(
    client: httpx.AsyncClient, release_service: ReleaseService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(release_service.trainings, "_dashboard", lambda: "http://127.0.0.1:1")
    answer = await client.get("/v1/trainings")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["type"].endswith(":cluster-unavailable")


async def test_trainings_need_an_admin_key(
    client: httpx.AsyncClient, store: Store, cluster: FakeCluster
):
    reader = (await store.create_key("reader", ["read", "diagnose", "ingest"])).secret
    headers = {"authorization": f"Bearer {reader}"}
    for method, path in (
        ("POST", "/v1/trainings"),
        ("GET", "/v1/trainings"),
        ("GET", "/v1/trainings/training-0123456789ab"),
        ("GET", "/v1/trainings/training-0123456789ab/log"),
        ("POST", "/v1/trainings/training-0123456789ab/cancel"),
    ):
        answer = await client.request(method, path, json=ORDER, headers=headers)
        assert answer.status_code == 403
    assert cluster.jobs == {}
