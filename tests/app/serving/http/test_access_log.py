"""The line, the trace id and the metrics of each request."""

import logging
from types import SimpleNamespace

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.serving.http.access_log import AccessLog
from app.serving.observability.logging import ACCESS_LOGGER, JsonFormatter
from app.serving.observability.metrics import Metrics

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    scope["route"] = SimpleNamespace(path="/v1/diagnoses")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def request(metrics: Metrics) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    parent = f"00-{TRACE}-b7ad6b7169203331-01".encode()
    await AccessLog(api, metrics)(
        {"type": "http", "method": "POST", "headers": [(b"traceparent", parent)]}, receive, send
    )
    return sent


async def test_request_has_one_line_with_its_route_status_time_and_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    logger, lines = logging.getLogger(ACCESS_LOGGER), []
    caplog.set_level(logging.INFO, ACCESS_LOGGER)
    monkeypatch.setattr(
        logger, "handle", lambda record: lines.append(orjson.loads(JsonFormatter().format(record)))
    )
    sent = await request(Metrics())
    assert (b"x-trace-id", TRACE.encode()) in sent[0]["headers"]
    (line,) = lines
    assert line.pop("time")
    assert 0 <= line.pop("ms") < 1000
    assert line == {
        "level": "INFO",
        "logger": ACCESS_LOGGER,
        "event": "access",
        "method": "POST",
        "route": "/v1/diagnoses",
        "status": 200,
        "trace_id": TRACE,
    }


async def test_no_line_is_made_above_its_level(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, ACCESS_LOGGER)
    await request(Metrics())
    assert caplog.records == []


async def test_requests_are_counted_by_route_and_status():
    metrics = Metrics()
    await request(metrics)
    await request(metrics)
    text = metrics.exposition().decode()
    assert (
        'hydraulic_http_requests_total{method="POST",route="/v1/diagnoses",status="200"} 2.0'
        in text
    )
    assert 'hydraulic_http_request_seconds_count{route="/v1/diagnoses"} 2.0' in text
