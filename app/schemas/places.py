"""Where in a document something stands, and a short form of what was found there, for messages.

Invariant: what is shown of a value is bounded in length, whatever was sent.
"""

from collections.abc import Sequence


def place_of(loc: Sequence[int | str]) -> str:
    """Write a pydantic location as a path: `components[2].sensors[0].unit`."""
    place = ""
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            place += f".{part}" if place else part
    return place


def shown(value: object, limit: int = 60) -> str:
    """Return the start of a value's repr.

    Args:
        value: anything; large containers are not walked whole beyond their repr.
        limit: characters at the most.
    """
    text = repr(value[: limit + 1]) if isinstance(value, str | bytes | list | tuple) else repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
