import re

import pytest

from app.core.errors import StoreError
from app.store.statements import SQL_DIRECTORY, queries, read_statements


def test_statements_are_found_by_name():
    text = (
        "-- a remark\n\n-- name: one\n-- The first.\nselect 1;\n\n"
        "-- name: two\n-- The second.\n-- with a remark\nselect 2;\n"
    )

    assert read_statements(text, "x.sql") == {
        "one": "select 1;",
        "two": "-- with a remark\nselect 2;",
    }


@pytest.mark.parametrize(
    "text",
    [
        "-- name:\n-- P.\nselect 1;\n",
        "-- name: a\nselect 1;\n",
        "-- name: a\n-- P.\n\n",
        "-- name: a",
    ],
    ids=["no name", "no purpose", "no text", "nothing"],
)
def test_incomplete_statement_is_refused(text: str):
    with pytest.raises(StoreError, match="expected '-- name: NAME'"):
        read_statements(text, "x.sql")


def test_lines_of_sql_have_at_most_100_characters():
    for path in SQL_DIRECTORY.glob("*.sql"):
        assert max(map(len, path.read_text().splitlines())) <= 100, path.name


def test_second_statement_of_a_name_is_refused():
    with pytest.raises(StoreError, match="found 'a' twice"):
        read_statements("-- name: a\n-- P.\nselect 1;\n-- name: a\n-- P.\nselect 2;\n", "x.sql")


def test_every_statement_is_used_and_every_used_one_exists():
    used = set()
    for path in SQL_DIRECTORY.parent.glob("*.py"):
        used |= set(
            re.findall(
                r'(?:fetch|once)\(\s*"(\w+)"|(?:named|queries\(\))\["(\w+)"\]', path.read_text()
            )
        )

    assert {first or second for first, second in used} == set(queries())
