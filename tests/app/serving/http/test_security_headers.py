"""Headers of responses, redirections and request ids."""

import re

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.serving.http.request_ids import RequestIds
from app.serving.http.serve_errors import middlewares


@pytest.mark.parametrize(
    "path", ["/v1/equipment", "/v1/nothing", "/docs", "/openapi.json", "/metrics", "/"]
)
async def test_each_response_has_the_security_headers(client: httpx.AsyncClient, path: str):
    answer = await client.get(path)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("no-store" in answer.headers.get("cache-control", "")) == path.startswith("/v1/")


async def test_diagnosis_and_its_errors_are_not_stored_by_caches(client: httpx.AsyncClient):
    answer = await client.post("/v1/diagnoses", json={"equipment_id": "none"})
    assert answer.status_code == 404
    assert answer.headers["cache-control"] == "no-store"


async def test_page_of_the_documentation_runs_its_own_scripts_only(client: httpx.AsyncClient):
    answer = await client.get("/docs")
    policy = answer.headers["content-security-policy"]
    scripts = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    assert len(scripts) == len(re.findall("'sha256-[^']{44}'", policy)) == 1
    assert "script-src 'self' 'sha256-" in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]
    assert "on" + "load=" not in answer.text
    assert not re.search(r'(?:src|href)="(?!/)', answer.text)


@pytest.mark.parametrize(
    "path", ["/", "/docs/", "/v1/equipment/", "/v1/keys/", "/docs/assets", "//evil.example/"]
)
async def test_no_redirection_is_made_of_the_host_header(client: httpx.AsyncClient, path: str):
    answer = await client.request(
        "GET",
        f"http://test{path}",
        headers={"host": "evil.example", "x-forwarded-host": "evil.example"},
    )
    assert "evil.example" not in answer.headers.get("location", "")
    assert answer.headers.get("location", "/").startswith("/")
    assert (answer.status_code == 307) == (path == "/")


async def test_root_leads_to_the_documentation(client: httpx.AsyncClient):
    assert (await client.get("/")).headers["location"] == "/docs"


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        (b"01JABC.def_ghi-42", True),
        (b"a" * 64, True),
        (b"a" * 65, False),
        (b"", False),
        (b'"}{"level":"ERROR', False),
        (b"a b", False),
        (b"\xff\xfe", False),
        (b"a\nb", False),
    ],
)
async def test_request_id_is_passed_on_if_it_is_one(sent: bytes, passed: bool):
    found: list[tuple[bytes, bytes]] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        found.extend(scope["headers"])
        await PlainTextResponse("")(scope, receive, send)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: object) -> None:
        pass

    scope = {"type": "http", "headers": [(b"host", b"x"), (b"x-request-id", sent)]}
    await RequestIds(inner)(scope, receive, send)
    assert found == [(b"host", b"x"), *([(b"x-request-id", sent)] if passed else [])]


def test_request_ids_are_filtered_before_serve_reads_them():
    assert middlewares()[-1].cls is RequestIds
