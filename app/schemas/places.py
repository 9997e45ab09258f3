"""Places in a document and shortened values, for messages.

Invariant: the length of a shown value is bounded for any input.
"""

import itertools
from collections.abc import Mapping, Sequence

_MAX_NAME = 80


def place_of(loc: Sequence[int | str]) -> str:
    """Format a pydantic location as `components[2].sensors[0].unit`; long names are shortened."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            name = part if len(part) <= _MAX_NAME else part[: _MAX_NAME - 3] + "..."
            place += f".{name}" if place else name
    return place


def some_of(names: Sequence[str], limit: int = 20) -> str:
    """List the first names and count the others: `a, b and 3 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def shown(value: object, limit: int = 60) -> str:
    """Return the start of a value's repr.

    Args:
        value: any; of large containers only the first items are formatted.
        limit: most characters.
    """
    if isinstance(value, Mapping):
        value = dict(itertools.islice(value.items(), limit))
    text = (
        repr(value[: limit + 1]) if isinstance(value, str | bytes | list | tuple) else repr(value)
    )
    return text if len(text) <= limit else text[: limit - 3] + "..."
