"""The statements by name, their parameters and their rows.

Statements are named in `sql/*.sql`: each follows `-- name: NAME` and a line with its purpose.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

Row: TypeAlias = asyncpg.Record

SQL_DIRECTORY = Path(__file__).parent / "sql"
_STATEMENT = re.compile(r"^-- name: (\w+)\n-- .+\n((?:(?!-- name: ).*\n)+)", re.MULTILINE)


@cache
def queries() -> Mapping[str, str]:
    """Return all statements by name."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(SQL_DIRECTORY.glob("*.sql"))]
    return {name: text.strip() for name, text in _STATEMENT.findall("\n".join([*texts, ""]))}


def first_value(rows: list[Row]) -> Any:
    """Return the first column of the first row; None when there is no row."""
    return rows[0][0] if rows else None


def columns_of(rows: Iterable[Iterable[object]], width: int = 0) -> list[list[object]]:
    """Transpose rows into the array parameters of a statement.

    Args:
        rows: of equal width.
        width: number of columns when there are no rows.
    """
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
