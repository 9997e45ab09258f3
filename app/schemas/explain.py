"""Says pydantic's errors in the project's words: what was expected, what was found, what to do.

No text of pydantic reaches a caller: it names Python's types and classes. A `ValueError` of a
validator of this project keeps its message, which says all of this already.
"""

from collections.abc import Mapping
from typing import Any

from app.schemas.places import shown

_TIME = "a time with its zone, such as 2026-01-31T12:00:00Z"
_EXPECTED: Mapping[str, str] = {
    "bool": "true or false",
    "bytes": "text",
    "dataclass": "an object",
    "date": _TIME,
    "datetime": _TIME,
    "decimal": "a number",
    "dict": "an object",
    "float": "a number",
    "int": "a whole number",
    "iterable": "a list",
    "list": "a list",
    "mapping": "an object",
    "missing": "this field, found none: add it",
    "model": "an object",
    "none": "null",
    "set": "a list",
    "string": "text",
    "time": _TIME,
    "timezone": _TIME,
    "tuple": "a list",
    "url": "an address such as https://host/path",
    "uuid": "a UUID",
}
"""By the first word of an error's type: what the field should have been."""

_MESSAGES: Mapping[str, str] = {
    "extra_forbidden": "no such field, found {found}: check its spelling or leave it out",
    "finite_number": "a finite number, found {found}: correct it, or give null for a missing value",
    "greater_than": "a number greater than {gt}, found {found}: correct it",
    "greater_than_equal": "a number of at least {ge}, found {found}: correct it",
    "less_than": "a number less than {lt}, found {found}: correct it",
    "less_than_equal": "a number of at most {le}, found {found}: correct it",
    "multiple_of": "a multiple of {multiple_of}, found {found}: correct it",
    "string_too_short": "at least {min_length} characters, found {found}: lengthen it",
    "string_too_long": "at most {max_length} characters, found {found}: shorten it",
    "too_short": "at least {min_length} item(s), found {actual_length}: add some",
    "too_long": "at most {max_length} item(s), found more: send less at once",
    "literal_error": "{expected}, found {found}: use one of them",
    "union_tag_invalid": "one of {expected_tags} as {discriminator}, found '{tag}': correct it",
    "union_tag_not_found": "a field {discriminator}, found none: add it",
    "enum": "{expected}, found {found}: use one of them",
}
_PATTERNS: Mapping[str, str] = {
    "._:-": "an id of 1 to 64 letters, digits and ._:- that begins with a letter or digit",
    "._-": "a version of 1 to 32 letters, digits and ._- that begins with a letter or digit",
    r"\x00": "text without control characters",
    "cuda": "auto, cpu, cuda or cuda:0",
}
"""By a part of the pattern."""


def explain(item: Mapping[str, Any]) -> str:
    """Return the message of one error.

    Args:
        item: of `ValidationError.errors()`, with its context.
    """
    kind, context = str(item["type"]), item.get("ctx", {})
    if kind == "value_error":
        return str(context.get("error", "expected another value: correct it"))
    if kind == "json_invalid":
        return f"expected JSON, found text that does not parse: {_cause(item)}"
    if kind == "string_pattern_mismatch":
        expected = next(
            (text for part, text in _PATTERNS.items() if part in context["pattern"]),
            f"text of the form {context['pattern']}",
        )
        return f"expected {expected}, found {shown(item['input'])}: correct it"
    if kind in _MESSAGES:
        values = {name: _whole(value) for name, value in context.items()}
        return "expected " + _MESSAGES[kind].format_map(values | {"found": shown(item["input"])})
    if (own := str(item["msg"])).startswith("expected "):
        return f"{own}, found {shown(item['input'])}: correct it"
    expected = _EXPECTED.get(kind.partition("_")[0], "a value as /docs describes it")
    found = "" if kind == "missing" else f", found {shown(item['input'])}: correct it"
    return f"expected {expected}{found}"


def _cause(item: Mapping[str, Any]) -> str:
    cause = item.get("ctx", {}).get("error") or item["msg"]
    return str(cause).removeprefix("Invalid JSON: ")


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
