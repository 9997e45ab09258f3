"""What the commands read from their command lines in the same way.

Invariant: what can't be used is refused with what was expected and what was found.
"""

import argparse
from datetime import UTC, datetime


def time_argument(text: str) -> datetime:
    """Read an ISO 8601 time with its zone, for `type=` of an argument; UTC.

    Raises:
        ArgumentTypeError: it is none, or has no zone.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected an ISO 8601 time such as 2025-01-01T00:00Z, found '{text}'"
        ) from error
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"expected a time with its zone, found '{text}': add Z for UTC"
        )
    return found.astimezone(UTC)
