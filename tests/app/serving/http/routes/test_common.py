"""Headers and bodies of requests."""

from datetime import UTC, datetime
from unittest.mock import MagicMock

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from app.core.errors import InputError, LimitExceeded
from app.serving.http.app import build_api
from app.serving.http.routes.common import cursor_of, read_body, read_cursor


class Parts:
    """The messages of a request, as a server returns them."""

    def __init__(self, *messages: Message) -> None:
        self.left = list(messages)

    async def receive(self) -> Message:
        return self.left.pop(0)

    def request(self, *headers: tuple[bytes, bytes]) -> Request:
        return Request({"type": "http", "headers": headers}, self.receive)


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_body_is_read_to_its_end_only():
    parts = Parts(
        part(b"ab", more=True),
        part(b"", more=True),
        part(b"c", more=False),
        part(b"other", more=False),
    )
    assert await read_body(parts.request(), 3) == b"abc"
    assert len(parts.left) == 1
    assert await read_body(Parts({"type": "http.request"}).request(), 3) == b""


async def test_body_above_its_limit_is_refused_at_once():
    parts = Parts(part(b"abc", more=True), part(b"d", more=True), part(b"e", more=False))
    with pytest.raises(LimitExceeded, match="at most 3 bytes, found more"):
        await read_body(parts.request(), 3)
    assert len(parts.left) == 1
    with pytest.raises(LimitExceeded, match="at most 3 bytes, found 4"):
        await read_body(Parts().request((b"content-length", b"4")), 3)


async def test_disconnected_client_is_no_short_body():
    with pytest.raises(ClientDisconnect):
        await read_body(Parts(part(b"a", more=True), {"type": "http.disconnect"}).request(), 3)


def test_cursor_returns_the_place_it_was_made_from():
    place = (datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC), "press-1")
    assert read_cursor(cursor_of(*place), tuple[datetime, str]) == place
    assert read_cursor(None, tuple[datetime, str]) is None


@pytest.mark.parametrize("cursor", ["", "x", "%", "ä", cursor_of("a"), cursor_of(1, "a")])
def test_cursor_of_no_answer_is_refused(cursor: str):
    with pytest.raises(InputError, match="expected `next_cursor` of an earlier answer, found '"):
        read_cursor(cursor, tuple[str, str])


@pytest.mark.parametrize(
    ("request_line", "detail"),
    [
        (
            "POST /v1/readings?on_conflct=replace",
            "ignore_columns, on_conflict, found 'on_conflct': did you mean 'on_conflict'?",
        ),
        ("GET /v1/keys?offset=3", "cursor, limit, tenant, found 'offset': correct its name"),
        ("POST /v1/diagnoses?explain=true", "expected no query parameters, found 'explain'"),
        ("GET /health/live?x", "expected no query parameters, found"),
        ("GET /v1/equipment/x/readings/changes?limit=3&%ff=", "expected query parameters of"),
    ],
)
async def test_unknown_query_parameter_is_refused(request_line: str, detail: str):
    method, target = request_line.split()
    transport = httpx.ASGITransport(build_api(MagicMock()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.request(method, target)
    assert answer.status_code == 422, answer.text
    assert detail in answer.json()["detail"]
    assert answer.json()["field"]


async def test_every_route_refuses_unknown_query_parameters():
    api = build_api(MagicMock())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(api), base_url="http://test"
    ) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        for path, methods in paths.items():
            for method in methods:
                answer = await client.request(method, path, params={"no_such_name": "1"})
                assert (answer.status_code, answer.json()["field"]) == (422, "no_such_name"), path
