"""`X-Request-Timeout-Ms` limits a request and cancels its work, down to the model and the store."""

import asyncio
import time

import httpx
import pytest

from app.core.errors import InputError
from app.serving.http.deadlines import MAX_TIMEOUT_MS, timeout_of
from app.serving.http.routes import common
from app.serving.ingress.deployment import Service
from app.serving.rpc.messages import ScoreCall
from app.store.store import Store
from tests.app.serving.conftest import LocalClient
from tests.app.serving.http.test_app import ready, rig_request


def after(milliseconds: object) -> dict[str, str]:
    return {"X-Request-Timeout-Ms": str(milliseconds)}


@pytest.mark.parametrize("value", [b"0", b"-1", b"1.5", b"", b"soon", b"\xb2", b"1e3", b"9" * 10])
def test_header_that_is_no_positive_whole_number_is_refused(value: bytes):
    with pytest.raises(InputError, match="expected whole milliseconds from 1 to 60000"):
        timeout_of(value)


def test_header_is_capped_by_the_longest_time_of_a_request():
    assert timeout_of(b" 250 ") == 0.25
    assert timeout_of(b"999999999") == MAX_TIMEOUT_MS / 1000


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_invalid_header_is_a_problem_that_names_it(client: httpx.AsyncClient, method: str):
    path = "/v1/diagnoses" if method == "POST" else "/v1/models"
    answer = await client.request(method, path, headers=after("soon"), json={})
    assert (answer.status_code, answer.json()["field"]) == (422, "x-request-timeout-ms")


async def test_late_diagnosis_is_cancelled_at_the_model_and_no_failure_of_the_version(
    client: httpx.AsyncClient,
    local: LocalClient,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
):
    await ready(client)
    ended: list[str] = []

    async def hang(_: ScoreCall) -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    monkeypatch.setattr(local.servers["model-1"], "score", hang)
    for _ in range(4):  # one more than open a circuit
        began = time.monotonic()
        answer = await client.post("/v1/diagnoses", json=rig_request(), headers=after(3000))
        assert answer.status_code == 504, answer.text
        assert answer.json()["type"].endswith(":deadline")
        assert time.monotonic() - began < 60
    async with asyncio.timeout(30):
        while len(ended) < 4:
            await asyncio.sleep(0.01)
    assert not service.router.circuit_is_open("1")
    assert service.metrics.failed_versions.labels("1")._value.get() == 0


async def test_late_statement_is_cancelled_in_the_database(
    client: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
):
    async def sleep(*_: object, **__: object) -> None:
        async with store._database.session() as session:
            await session.fetch("select pg_sleep(600)")

    monkeypatch.setattr(store, "equipment_page", sleep)
    answer = await client.get("/v1/equipment", headers=after(200))
    assert answer.status_code == 504, answer.text
    still = "select count(*) from pg_stat_activity where query like 'select pg_sleep(600)%' "
    async with store._database.session() as session, asyncio.timeout(30):
        while await session.fetchval(still + "and state = 'active'"):
            await asyncio.sleep(0.01)


async def test_items_of_a_batch_that_are_late_have_the_error_of_their_own(
    client: httpx.AsyncClient, local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    await ready(client)

    async def hang(_: ScoreCall) -> None:
        await asyncio.sleep(600)

    monkeypatch.setattr(local.servers["model-1"], "score", hang)
    answer = await client.post(
        "/v1/diagnoses/batch", json={"items": [rig_request()] * 2}, headers=after(200)
    )
    lines = answer.text.splitlines()
    assert answer.status_code == 200
    assert ['"status":504' in line for line in lines] == [True, True, False]


async def test_body_that_stops_is_a_timeout_of_the_body_and_not_of_a_version(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(common, "BODY_PAUSE_S", 0.05)
    may_end = asyncio.Event()

    async def stopping():  # type: ignore[no-untyped-def]
        yield b'{"equipment_id":'
        await may_end.wait()

    for path in ("/v1/diagnoses", "/v1/diagnoses/batch", "/v1/readings"):
        answer = await client.post(path, content=stopping())
        assert answer.status_code == 408, answer.text
        assert answer.json()["type"].endswith(":body-timeout")


async def test_body_of_a_batch_that_drips_is_a_timeout(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(common, "BODY_S", 0.2)

    async def dripping():  # type: ignore[no-untyped-def]
        for _ in range(1_000):
            yield b" "
            await asyncio.sleep(0.01)

    answer = await client.post("/v1/diagnoses/batch", content=dripping())
    assert answer.status_code == 408, answer.text
    assert "the whole body within 0.2 s" in answer.json()["detail"]
