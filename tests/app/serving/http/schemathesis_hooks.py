"""What schemathesis has to know of this interface, which it loads in a process of its own."""

import json
from typing import Any
from urllib.parse import urlencode

import jsonschema_rs
import schemathesis

NDJSON = "application/x-ndjson"
LONGEST_QUERY = 8_000
"""Servers refuse longer addresses themselves, before the application."""
RIG = "hydraulic-rig"


@schemathesis.serializer(NDJSON)
def to_ndjson(ctx: Any, value: Any) -> bytes:
    """Return the text that was made for a body."""
    return str(value).encode("utf-8", "replace")


@schemathesis.deserializer(NDJSON)
def from_ndjson(ctx: Any, response: Any) -> Any:
    """Return the first line; the schema is that of a line. `every_line_fits` checks all."""
    return json.loads(response.content.splitlines()[0])


@schemathesis.check
def every_line_fits(ctx: Any, response: Any, case: Any) -> None:
    """Check every line of an NDJSON response, and that the summary, and it alone, is the last."""
    if not response.headers.get("content-type", [""])[0].startswith(NDJSON):
        return
    document = case.operation.schema.raw_schema
    described = document["paths"][case.operation.path][case.operation.method.lower()]
    schema = described["responses"][str(response.status_code)]["content"][NDJSON]["schema"]
    line_schema = jsonschema_rs.validator_for({**schema, "components": document["components"]})
    lines = [json.loads(line) for line in response.content.splitlines()]
    for line in lines:
        error = next(line_schema.iter_errors(line), None)
        assert error is None, f"{line}: {error}"
    assert ["summary" in line for line in lines] == [False] * (len(lines) - 1) + [True]
    assert sorted(line["index"] for line in lines[:-1]) == list(range(len(lines) - 1))


@schemathesis.hook
def filter_query(ctx: Any, query: Any) -> bool:
    """Make no address that is too long for servers."""
    return not isinstance(query, dict) or len(urlencode(query, doseq=True)) < LONGEST_QUERY


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: Any) -> None:
    """Keep the machine that the examples name: a deletion of it names another one."""
    is_deletion = (case.operation.method.upper(), case.operation.path) == (
        "DELETE",
        "/v1/equipment/{equipment_id}",
    )
    if is_deletion and case.path_parameters.get("equipment_id") == RIG:
        case.path_parameters["equipment_id"] = f"{RIG}-2"
