"""How the response of a batch ends: with a line for each item and a summary, or visibly cut off."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import httpx
import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.core.errors import WindowError
from app.serving.fastpath.disconnect_monitor import ARRIVED, TIMEOUT_S
from app.serving.http import batch_stream
from app.serving.http.access_log import AccessLog
from app.serving.http.batch_stream import BatchStream, Outcome, limit_of
from app.serving.observability.metrics import Metrics
from tests.app.serving.conftest import LocalClient
from tests.app.serving.http.test_app import ready, rig_request

TRACE = "0" * 31 + "1"
REQUEST: Scope = {"type": "http", "method": "POST", "headers": [], "asgi": {"spec_version": "2.3"}}

Pairs = list[tuple[int, Outcome]]


class Reader:
    """The client's side: keeps what is sent, and can stop to read or leave."""

    def __init__(self, reads: int = 1_000_000) -> None:
        self.messages: list[Message] = []
        self.gone = asyncio.Event()
        self._reads = reads

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if len(self.messages) > self._reads:
            await asyncio.Event().wait()
        self.messages.append(message)

    @property
    def ended(self) -> bool:
        last = self.messages[-1]
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    @property
    def lines(self) -> list[dict[str, object]]:
        body = b"".join(message.get("body", b"") for message in self.messages[1:])
        return [orjson.loads(line) for line in body.splitlines()]


class Outcomes:
    """Outcomes that a test gives; knows whether it was closed."""

    def __init__(self, *groups: Pairs | Exception, endless: bool = False) -> None:
        self._groups = groups
        self._endless = endless
        self.closed = asyncio.Event()

    async def __call__(self) -> AsyncGenerator[Pairs, None]:
        try:
            for group in self._groups:
                if isinstance(group, Exception):
                    raise group
                yield group
            while self._endless:
                await asyncio.sleep(0)
                yield [(0, b"{}")]
        finally:
            self.closed.set()


async def run(outcomes: Outcomes, count: int, reader: Reader, metrics: Metrics) -> None:
    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        await BatchStream(outcomes(), count, TRACE)(scope, receive, send)

    await AccessLog(api, metrics)(dict(REQUEST), reader.receive, reader.send)


def statuses(metrics: Metrics) -> list[str]:
    (family,) = metrics.requests.collect()
    return [each.labels["status"] for each in family.samples if each.name.endswith("_total")]


async def test_last_line_counts_the_items():
    reader, metrics = Reader(), Metrics()
    bad = WindowError("expected readings, found none", "at")
    await run(Outcomes([(2, b"{}"), (0, bad)], [(1, b"{}")]), 3, reader, metrics)
    assert [line.get("index") for line in reader.lines] == [2, 0, 1, None]
    assert reader.lines[-1] == {"summary": {"items": 3, "diagnosed": 2, "failed": 1}}
    assert reader.ended
    assert statuses(metrics) == ["200"]


async def test_items_that_an_internal_error_left_have_it_in_a_line(
    caplog: pytest.LogCaptureFixture,
):
    reader = Reader()
    await run(Outcomes([(1, b"{}")], KeyError("secret")), 3, reader, Metrics())
    assert [line.get("index") for line in reader.lines] == [1, 0, 2, None]
    assert ["internal" in str(line["error"]) for line in reader.lines[1:3]] == [True, True]
    assert reader.lines[-1] == {"summary": {"items": 3, "diagnosed": 1, "failed": 2}}
    assert "secret" not in str(reader.lines)
    assert "batch not answered" in caplog.text


async def test_client_that_stops_reading_ends_the_work_and_is_not_counted_as_answered(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(batch_stream, "STALLED_S", 0.05)
    outcomes, reader, metrics = Outcomes(endless=True), Reader(reads=3), Metrics()
    async with asyncio.timeout(10.0):
        await run(outcomes, 5, reader, metrics)
    assert outcomes.closed.is_set()
    assert not reader.ended
    assert statuses(metrics) == ["499"]


@pytest.mark.parametrize("how", ["disconnects", "is cancelled by Serve"])
async def test_client_that_leaves_ends_the_work_and_is_not_counted_as_answered(how: str):
    outcomes, reader, metrics = Outcomes(endless=True), Reader(), Metrics()
    task = asyncio.create_task(run(outcomes, 5, reader, metrics))
    while len(reader.messages) < 3:
        await asyncio.sleep(0)
    if how == "disconnects":
        reader.gone.set()
    else:
        task.cancel()
    await asyncio.wait({task}, timeout=10.0)
    assert task.done()
    assert outcomes.closed.is_set()
    assert not reader.ended
    assert statuses(metrics) == ["499"]


async def test_response_that_fails_after_its_start_is_a_500_in_the_log(
    caplog: pytest.LogCaptureFixture,
):
    async def api(_: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("unexpected")

    reader, metrics = Reader(), Metrics()
    with caplog.at_level(logging.ERROR), pytest.raises(KeyError):
        await AccessLog(api, metrics)(dict(REQUEST), reader.receive, reader.send)
    assert statuses(metrics) == ["500"]


def test_batch_ends_before_serve_would_cut_it():
    assert limit_of({}) < TIMEOUT_S
    assert limit_of({ARRIVED: 1.0}) > 5 * TIMEOUT_S


async def test_every_item_over_http_has_a_line(client: httpx.AsyncClient):
    items = [{"equipment_id": "nobody"}, {"at": 3}, {"equipment_id": "nobody"}]
    answer = await client.post("/v1/diagnoses/batch", json={"items": items})
    *lines, summary = [orjson.loads(line) for line in answer.text.splitlines()]
    assert sorted(line["index"] for line in lines) == [0, 1, 2]
    assert summary == {"summary": {"items": 3, "diagnosed": 0, "failed": 3}}


async def test_stream_at_its_limit_ends_with_a_line_for_every_item(
    client: httpx.AsyncClient, local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batch_stream, "MARGIN_S", TIMEOUT_S - 1.0)
    await ready(client)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(local, "score", hang)
    items = [rig_request(), {"at": 3}, rig_request(1)]
    answer = await client.post("/v1/diagnoses/batch", json={"items": items})
    *lines, summary = [orjson.loads(line) for line in answer.text.splitlines()]
    kinds = {line["index"]: line["error"]["type"].rsplit(":", 1)[-1] for line in lines}
    assert kinds == {0: "deadline", 1: "invalid-input", 2: "deadline"}
    assert summary == {"summary": {"items": 3, "diagnosed": 0, "failed": 3}}
