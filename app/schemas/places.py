"""Places in a document and shortened values, for messages.

Invariant: the length of a shown value is bounded for any input.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal

_MAX_NAME = 80


def place_of(loc: Sequence[int | str]) -> str:
    """Format a pydantic location as `components[2].sensors[0].unit`; long names are shortened."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part != "[key]":  # pydantic's mark of an invalid key, which is named already
            name = part if len(part) <= _MAX_NAME else part[: _MAX_NAME - 3] + "..."
            place += f".{name}" if place else name
    return place


def some_of(names: Sequence[str], limit: int = 20) -> str:
    """List the first names and count the others: `a, b and 3 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def shown(value: object, limit: int = 60) -> str:
    """Return the start of a value as a caller wrote it: text in quotes, other values as JSON.

    Args:
        value: any; of large containers only the first items are formatted.
        limit: most characters.
    """
    text = ""
    for part in [_quoted(value, "'", limit)] if isinstance(value, str | bytes) else _json(value):
        text += part
        if len(text) > limit:
            return text[: limit - 3] + "..."
    return text


def _json(value: object) -> Iterator[str]:
    if value is None or isinstance(value, bool | int | float):
        yield json.dumps(value)
    elif isinstance(value, str | bytes):
        yield _quoted(value, '"')
    elif isinstance(value, Mapping):
        yield from _listed("{}", ((_json(str(key)), _json(item)) for key, item in value.items()))
    elif isinstance(value, list | tuple):
        yield from _listed("[]", ((_json(item),) for item in value))
    elif isinstance(value, date | time | Decimal):
        yield str(value)
    else:
        yield "a value that is not JSON"


def _listed(brackets: str, items: Iterable[Iterable[Iterator[str]]]) -> Iterator[str]:
    yield brackets[0]
    for number, item in enumerate(items):
        yield ", " if number else ""
        for position, part in enumerate(item):
            yield ": " if position else ""
            yield from part
    yield brackets[1]


def _quoted(value: str | bytes, quote: str, limit: int = _MAX_NAME) -> str:
    start = value[: limit + 1]
    text = start.decode("utf-8", "replace") if isinstance(start, bytes) else start
    return quote + "".join(map(_printable, text)) + quote


def _printable(character: str) -> str:
    # as in JSON: escapes keep messages on one line, and single surrogates can't be encoded
    return character if character.isprintable() else json.dumps(character)[1:-1]
