"""The line, the trace id and the metrics of each request."""

import logging
from types import SimpleNamespace

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.serving.http.access_log import AccessLog
from app.serving.observability.ecs import ECS_VERSION, EcsFormatter
from app.serving.observability.logging import ACCESS_LOGGER, LogConfig, apply_log_config
from app.serving.observability.metrics import Metrics
from app.store.caller import NOBODY, SERVICE, Caller, current_caller, set_caller
from tests.scrape import samples

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def request(metrics: Metrics, trace: str = TRACE, status: int = 200) -> list[Message]:
    sent: list[Message] = []

    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = SimpleNamespace(path="/v1/diagnoses")
        assert current_caller() == NOBODY
        set_caller(Caller("north", "line 3"))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    parent = f"00-{trace}-b7ad6b7169203331-01".encode()
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
        logger, "handle", lambda record: lines.append(orjson.loads(EcsFormatter().format(record)))
    )
    sent = await request(Metrics())
    assert (b"x-trace-id", TRACE.encode()) in sent[0]["headers"]
    (line,) = lines
    assert line.pop("@timestamp")
    assert 0 <= line.pop("event.duration") < 1e9
    assert {name: line[name] for name in line if not name.startswith(("service", "process"))} == {
        "log.level": "info",
        "log.logger": ACCESS_LOGGER,
        "message": "access",
        "ecs.version": ECS_VERSION,
        "event.action": "access",
        "event.outcome": "success",
        "http.request.method": "POST",
        "hydraulic.route": "/v1/diagnoses",
        "user.name": "line 3",
        "http.response.status_code": 200,
        "trace.id": TRACE,
    }
    assert current_caller() == SERVICE


async def test_share_of_the_access_lines_keeps_those_of_failed_requests(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    logger, statuses = logging.getLogger(ACCESS_LOGGER), []
    caplog.set_level(logging.INFO, ACCESS_LOGGER)
    monkeypatch.setattr(logger, "handle", lambda record: statuses.append(record.status))
    apply_log_config(LogConfig(access_share=0.25))
    try:
        for number in range(400):
            await request(Metrics(), f"{number * (1 << 32) // 400:08x}" + TRACE[8:])
        assert statuses == [200] * 100
        statuses.clear()
        for number in range(4):
            await request(Metrics(), f"{0xF0000000 + number:08x}" + TRACE[8:], status=503)
    finally:
        apply_log_config(LogConfig())
    assert statuses == [503] * 4


async def test_no_line_is_made_above_its_level(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING, ACCESS_LOGGER)
    await request(Metrics())
    assert caplog.records == []


async def test_requests_are_counted_by_route_and_status():
    metrics = Metrics()
    await request(metrics)
    await request(metrics)
    found = samples(metrics.exposition().decode())
    of_route = 'hydraulic_http_requests_total{method="POST",route="/v1/diagnoses",status="200"}'
    assert found[of_route] == 2.0
    assert found['hydraulic_http_request_seconds_count{route="/v1/diagnoses"}'] == 2.0
