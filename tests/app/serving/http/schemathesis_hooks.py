"""What schemathesis has to know of NDJSON, which it loads in a process of its own."""

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def to_ndjson(ctx: Any, value: Any) -> bytes:
    """Return the text that was made for a body."""
    return str(value).encode("utf-8", "replace")


@schemathesis.deserializer("application/x-ndjson")
def from_ndjson(ctx: Any, response: Any) -> Any:
    """Return the first line that is an error, else the first line; the schema is that of a line."""
    lines = [json.loads(line) for line in response.content.splitlines()]
    return next((line for line in lines if "error" in line), lines[0])
