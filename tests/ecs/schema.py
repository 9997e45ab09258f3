"""A parser of log lines by the Elastic Common Schema (ECS).

`spec.json` is the specification of ECS loggers (elastic/ecs-logging, `spec/spec.json`).
`fields.csv` has names and types of the field sets that the service uses (elastic/ecs,
`generated/csv/fields.csv`). Both are of Elastic, Apache License 2.0. Fields that ECS does not have
are below `hydraulic`.
"""

import csv
import ipaddress
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OWN = "hydraulic."


def _is_date(value: object) -> bool:
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_CHECKS: dict[str, Callable[[object], bool]] = {
    "boolean": lambda value: isinstance(value, bool),
    "date": _is_date,
    "datetime": _is_date,
    "float": lambda value: isinstance(value, int | float),
    "integer": _is_whole,
    "ip": lambda value: bool(ipaddress.ip_address(str(value))),
    "long": _is_whole,
    "object": lambda value: isinstance(value, dict),
    "string": _is_text,
} | dict.fromkeys(("keyword", "constant_keyword", "match_only_text", "wildcard"), _is_text)
SPEC: dict[str, dict[str, Any]] = json.loads((HERE / "spec.json").read_text())["fields"]
with (HERE / "fields.csv").open(encoding="utf-8") as _file:
    TYPES = {row["field"]: row["type"] for row in csv.DictReader(_file)}


def parse(text: str) -> dict[str, Any]:
    """Parse one line.

    Raises:
        ValueError: it is no line of the schema; says what it has instead.
        AttributeError: it is no object.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError(f"expected each field once, found {[name for name, _ in pairs]}")
        return dict(pairs)

    line: dict[str, Any] = json.loads(text, object_pairs_hook=once)
    for name, of_field in SPEC.items():
        if of_field.get("required") and name not in line:
            raise ValueError(f"expected {name}, found {text[:500]}")
        if "index" in of_field and name in line and list(line)[of_field["index"]] != name:
            raise ValueError(f"expected {name} at {of_field['index']}, found {list(line)}")
        if name in line and not _CHECKS[of_field["type"]](line[name]):
            raise ValueError(f"expected {name} as {of_field['type']}, found {line[name]!r}")
    for name, value in line.items():
        if name.startswith(OWN):
            continue
        if name not in TYPES:
            raise ValueError(f"expected a field of ECS, found {name} in {text[:500]}")
        if not _CHECKS[TYPES[name]](value):
            raise ValueError(f"expected {name} as {TYPES[name]}, found {value!r}")
    return line
