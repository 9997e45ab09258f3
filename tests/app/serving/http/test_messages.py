"""No message of any route shows Python: types, reprs, or texts of libraries."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx

from app.demo.rig.equipment import rig_equipment
from tests.app.serving.http.test_app import ready

PYTHON = re.compile(
    r"\b(None|True|False|NoneType|dict|tuple|nan|inf)\b|found b['\"]|[\[(]b['\"]|<class|instance of"
    r"|[Ii]nput should|object at 0x|\w+Error\b|datetime\.|[Pp]ydantic|[Vv]alue error|codec"
    r"|JSON serializable|invalid literal|unhashable|dataclass|__"
)

RIG = rig_equipment().model_dump(mode="json")
NESTED = "[" * 300 + "]" * 300
BODIES: tuple[str | bytes, ...] = (
    *("", " ", "{", "[", "null", "true", "3", "1e999", "NaN", '"text"', "[]", "{}", "[null]"),
    *("[3]", '[{"a": 1}]', '{"": 1}', '{"a": {"b": [1, null, true]}}', NESTED, "a: b", "a: *b"),
    *("a: !!int x", "a: !!python/object:os.system x", "!!binary aGVsbG8=: 1", "? [1]\n: 2"),
    *(b"\xff\xfe", b"\x00", b'{"a": "\xff"}', '{"equipment_id": "\\ud800"}', "a,b\n1,2"),
)
VALUES = (None, True, 3, -1.5, 1e300, "", "x y", "\ud83d\u0000", [], {}, [None], {"a": None})
"""For every field of every body."""

QUERIES = ("x", "-1", "5", "", "null", "2026-01-01", "a" * 600, "%ff", "\u00e4")


def bodies(schema: dict[str, Any], schemas: dict[str, Any]) -> Iterator[Any]:
    """Yield objects of a schema with one field changed to each value."""
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rsplit("/", 1)[-1]]
    for option in schema.get("anyOf", ()):
        yield from bodies(option, schemas)
    known = {"equipment_id": "hydraulic-rig", "sensor_id": "PS1", "value": 1.0}
    for name, value in itertools.product(schema.get("properties", ()), VALUES):
        yield known | {name: value}
        yield RIG | {name: value}


def texts(part: object) -> Iterator[str]:
    """Yield every text in a JSON value."""
    if isinstance(part, str):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from texts(each)


def check(answer: httpx.Response, sent: object) -> None:
    """Check that a failure is a problem document in plain words."""
    found: Any = []
    if answer.status_code < 400:
        # lines of a batch, and readings that were refused
        if answer.headers.get("content-type", "") == "application/x-ndjson":
            found = [json.loads(line).get("error", []) for line in answer.text.splitlines()]
        elif '"rejected"' in answer.text:
            found = answer.json()["rejected"]
    else:
        assert answer.headers["content-type"] == "application/problem+json", (sent, answer.text)
        found = answer.json()
        assert found["status"] == answer.status_code != 500, (answer.request.url, sent)
        assert found["trace_id"] == answer.headers["x-trace-id"]
        assert "expected" in found["detail"] or ": " in found["detail"], (sent, found["detail"])
    for text in texts(found):
        seen = PYTHON.search(text)
        assert seen is None, f"{answer.request.method} {answer.url}\n{sent!r}\n{seen[0]}: {text}"


async def test_messages_show_no_python(client: httpx.AsyncClient):
    await ready(client)
    document = (await client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    sent = 0
    for path, method, operation in [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]:
        target = re.sub(r"\{version\}", "9", re.sub(r"\{\w+_id\}|\{\w+\}", "nobody", path))
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query":
                for value in QUERIES:
                    answer = await client.request(method, target, params={parameter["name"]: value})
                    check(answer, {parameter["name"]: value})
                    sent += 1
        for key in ("", "Bearer ", "Basic x", "Bearer unknown"):
            answer = await client.request(method, target, headers={"authorization": key})
            check(answer, key)
        content = operation.get("requestBody", {}).get("content", {})
        for kind, described in content.items():
            made = bodies(described["schema"], schemas) if kind == "application/json" else ()
            for body in itertools.chain(BODIES, made):
                raw = body if isinstance(body, str | bytes) else json.dumps(body)
                headers = {"content-type": kind}
                check(await client.request(method, target, headers=headers, content=raw), body)
                sent += 1
    assert sent > 1_000


async def test_messages_of_paths_methods_and_types_show_no_python(client: httpx.AsyncClient):
    for method, path in (("GET", "/v1/nothing"), ("PATCH", "/v1/readings"), ("GET", "/%00")):
        check(await client.request(method, path), path)
    for kind in ("", "x", "application/xml", "text/csv; charset=utf-16", "\u00ff"):
        headers = {"content-type": kind.encode("latin-1")}
        check(await client.post("/v1/readings", content=b"a", headers=headers), kind)
