"""ASGI middleware for deadlines that callers give: `X-Request-Timeout-Ms`.

The work of a request that passes its deadline is cancelled, down to the statement of the database
and the call of the model, and the answer is 504. Direct routes are cancelled by the disconnect
monitor, which watches them anyway; all others here. A response that has begun is cut off.
"""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import DeadlineExceeded, InputError
from app.schemas.places import shown
from app.serving.fastpath.disconnect_monitor import DEADLINE, TIMEOUT_S, is_monitored
from app.serving.http.problems import problem_of, problem_response

HEADER = b"x-request-timeout-ms"
ANSWERS_ITEMS = "/v1/diagnoses/batch"
"""Path whose unanswered items get an error of their own at the deadline."""
MAX_TIMEOUT_MS = int(TIMEOUT_S * 1000)


class Deadlines:
    """Cancels requests at the deadline that their caller gave.

    Args:
        api: the application.
    """

    def __init__(self, api: ASGIApp) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        given = next((value for name, value in scope.get("headers", ()) if name == HEADER), None)
        if given is None:
            await self._api(scope, receive, send)
            return
        try:
            timeout_s = timeout_of(given)
        except InputError as error:
            await problem_response(problem_of(error, scope["trace_id"]))(scope, receive, send)
            return
        deadline = scope[DEADLINE] = asyncio.get_running_loop().time() + timeout_s
        if is_monitored(scope) or scope["path"].endswith(ANSWERS_ITEMS):
            await self._api(scope, receive, send)
        else:
            await _until(deadline, timeout_s, self._api, scope, receive, send)


def timeout_of(value: bytes) -> float:
    """Return the seconds of a header's value.

    Raises:
        InputError: it is no whole number of milliseconds from 1 to `MAX_TIMEOUT_MS`.
    """
    text = value.decode("latin-1").strip()
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 9) or not int(text):
        raise InputError(
            f"expected whole milliseconds from 1 to {MAX_TIMEOUT_MS}, found {shown(text)}: correct "
            "it, or leave the header out",
            HEADER.decode(),
        )
    return min(int(text), MAX_TIMEOUT_MS) / 1000


def too_late(timeout_s: float) -> DeadlineExceeded:
    """Return the error of a request whose deadline has passed."""
    return DeadlineExceeded(
        f"expected an answer within {timeout_s:g} s, found none until then: allow more time, or "
        "request less"
    )


async def _until(
    deadline: float,
    timeout_s: float,
    api: Callable[[Scope, Receive, Send], Awaitable[None]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    begun = False

    async def note(message: Message) -> None:
        nonlocal begun
        begun = True
        await send(message)

    try:
        async with asyncio.timeout_at(deadline):
            await api(scope, receive, note)
    except TimeoutError:
        if begun:
            raise
        problem = problem_of(too_late(timeout_s), scope["trace_id"])
        await problem_response(problem)(scope, receive, send)
