import re

from app.store.statements import SQL_DIRECTORY, queries


def test_every_statement_has_a_name_of_its_own_a_purpose_and_a_text():
    text = "\n".join(path.read_text() for path in SQL_DIRECTORY.glob("*.sql"))
    names = re.findall(r"^-- name:(.*)", text, re.MULTILINE)
    assert sorted(name.strip() for name in names) == sorted(queries())
    assert all(re.search(r"^[^-\n]", statement, re.MULTILINE) for statement in queries().values())


def test_statement_begins_after_its_purpose():
    assert queries()["ping"].startswith("select 1;")


def test_lines_of_sql_have_at_most_100_characters():
    for path in SQL_DIRECTORY.glob("*.sql"):
        assert max(map(len, path.read_text().splitlines())) <= 100, path.name


def test_every_statement_is_used_and_every_used_one_exists():
    used = set()
    for path in SQL_DIRECTORY.parent.glob("*.py"):
        used |= set(
            re.findall(
                r'(?:fetch|once)\(\s*"(\w+)"|(?:named|queries\(\))\["(\w+)"\]', path.read_text()
            )
        )

    assert {first or second for first, second in used} == set(queries())
