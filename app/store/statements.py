"""Loads named SQL statements: `sql/*.sql`, each under `-- name:` and a line with its purpose.

Invariant: no statement is put together from text; values travel as parameters.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from app.core.errors import StoreError

SQL_DIRECTORY = Path(__file__).parent / "sql"
_HEAD = re.compile(
    r"^-- name:[ \t]*(?P<name>\S*)[ \t]*\n-- (?P<purpose>\S[^\n]*)\n(?P<text>.*)\Z", re.DOTALL
)


def read_statements(text: str, where: str) -> Mapping[str, str]:
    """Split a file into its statements by name.

    Args:
        text: the file; text before the first `-- name:` is a comment.
        where: the file's name, for messages.

    Raises:
        StoreError: a statement has no name, purpose or text, or two have the same name.
    """
    statements: dict[str, str] = {}
    for part in re.split(r"(?m)^(?=-- name:)", text)[1:]:
        head = _HEAD.match(part)
        first = part.split("\n", 1)[0]
        if head is None or not head["name"] or not head["text"].strip():
            raise StoreError(
                f"expected '-- name: NAME', a line '-- PURPOSE' and a statement in {where}, found "
                f"'{first}' without: add them"
            )
        if head["name"] in statements:
            raise StoreError(
                f"expected each name once in {where}, found '{head['name']}' twice: rename one"
            )
        statements[head["name"]] = head["text"].strip()
    return statements


@cache
def queries() -> Mapping[str, str]:
    """Return all statements by name."""
    files = sorted(SQL_DIRECTORY.glob("*.sql"))
    return read_statements("\n".join(path.read_text(encoding="utf-8") for path in files), "sql/")
