"""Headers and bodies of requests."""

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.core.errors import LimitExceeded
from app.serving.http.routes.common import headers_of, read_body


class Parts:
    """The messages of a request, as a server returns them."""

    def __init__(self, *messages: Message) -> None:
        self.left = list(messages)

    async def receive(self) -> Message:
        return self.left.pop(0)


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_first_header_of_a_repeated_name_is_used():
    scope = {
        "headers": [(b"x-api-key", b"first"), (b"host", b"caf\xe9"), (b"x-api-key", b"second")]
    }
    assert headers_of(scope) == {"x-api-key": "first", "host": "café"}


async def test_body_is_read_to_its_end_only():
    parts = Parts(
        part(b"ab", more=True),
        part(b"", more=True),
        part(b"c", more=False),
        part(b"other", more=False),
    )
    assert await read_body({}, parts.receive, 3) == b"abc"
    assert len(parts.left) == 1
    assert await read_body({}, Parts({"type": "http.request"}).receive, 3) == b""


async def test_body_above_its_limit_is_refused_at_once():
    parts = Parts(part(b"abc", more=True), part(b"d", more=True), part(b"e", more=False))
    with pytest.raises(LimitExceeded, match="at most 3 bytes, found more"):
        await read_body({}, parts.receive, 3)
    assert len(parts.left) == 1
    with pytest.raises(LimitExceeded, match="at most 3 bytes, found 4"):
        await read_body({"content-length": "4"}, Parts().receive, 3)


async def test_disconnected_client_is_no_short_body():
    with pytest.raises(ClientDisconnect):
        await read_body({}, Parts(part(b"a", more=True), {"type": "http.disconnect"}).receive, 3)
