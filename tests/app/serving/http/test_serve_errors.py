"""Errors that Ray Serve answers itself become problem documents."""

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from app.serving.http.problems import MEDIA_TYPE
from app.serving.http.serve_errors import ServeErrors

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def answer_of(response: Response | Exception, path: str = "/v1/models") -> httpx.Response:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(response, Exception):
            raise response
        await response(scope, receive, send)

    transport = httpx.ASGITransport(ServeErrors(inner), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path, headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})


@pytest.mark.parametrize(
    ("status", "slug"),
    [(404, "not-served"), (408, "timeout"), (500, "internal"), (503, "overloaded")],
)
async def test_plain_text_error_becomes_a_problem(status: int, slug: str):
    answer = await answer_of(PlainTextResponse("Request 1 timed out after 60s.", status))
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)
    assert (problem["type"].rsplit(":", 1)[-1], problem["trace_id"]) == (slug, TRACE)
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_exception_before_a_response_becomes_a_problem():
    answer = await answer_of(RuntimeError("secret"))
    assert (answer.status_code, answer.json()["status"]) == (500, 500)
    assert "secret" not in answer.text


async def test_answers_of_the_application_and_successes_stay_as_they_are():
    for response in (JSONResponse({"ready": False}, 503), PlainTextResponse("metrics")):
        answer = await answer_of(response)
        assert answer.content == bytes(response.body)
        assert answer.status_code == response.status_code


async def test_health_checks_of_serve_stay_as_they_are():
    assert (await answer_of(PlainTextResponse("draining", 503), "/-/healthz")).text == "draining"
