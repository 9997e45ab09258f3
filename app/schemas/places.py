"""Where in a document something stands, and a short form of what was found there, for messages.

Invariant: what is shown of a value is bounded in length, whatever was sent.
"""

import itertools
from collections.abc import Mapping, Sequence

_MAX_NAME = 80


def place_of(loc: Sequence[int | str]) -> str:
    """Write a pydantic location as a path: `components[2].sensors[0].unit`; long names are cut."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            name = part if len(part) <= _MAX_NAME else part[: _MAX_NAME - 3] + "..."
            place += f".{name}" if place else name
    return place


def some_of(names: Sequence[str], limit: int = 20) -> str:
    """Write out the first names, and how many there are beyond them: `a, b and 3 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def shown(value: object, limit: int = 60) -> str:
    """Return the start of a value's repr.

    Args:
        value: anything; large containers are not walked whole beyond their repr.
        limit: characters at the most.
    """
    if isinstance(value, Mapping):
        value = dict(itertools.islice(value.items(), limit))
    text = (
        repr(value[: limit + 1]) if isinstance(value, str | bytes | list | tuple) else repr(value)
    )
    return text if len(text) <= limit else text[: limit - 3] + "..."
