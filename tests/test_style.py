"""Rules of STYLE.md that no linter knows: plain words, short lines, short files, few modules.

Run with `-s` to see every place, also where a bound still allows some.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.system import PROJECT_DIR

MOST_PRIVATE_WORDS = 4
MOST_LONG_LINES = 0
MOST_LONG_FILES = 0
"""How many places the whole tree may have; lower a bound when the tree has fewer."""

LINE_LENGTH = 100
FILE_LENGTH = 400
TEXTS = {".py", ".md", ".sql", ".yaml", ".toml"}
FIXED = ("app/weights/", "app/store/migrations/")
"""Reports of trained versions, and migrations, whose text is verified by its digest."""
DEFINING = {"DESIGN.md", "STYLE.md", "tests/test_style.py"}
"""Files that have to name the words."""

_PRIVATE = re.compile(
    # words of their own and parts of names: `asked_by`, `AskedFor`, but not "tasked"
    r"(?<![A-Za-z])(?i:told|asked|stands|whoever|of\s+ours|what\s+there\s+is|is\s+held\s+to"
    r"|comes\s+out)(?![a-z])|(?<=[a-z])(?:Told|Asked|Stands|Whoever)(?![a-z])"
)


def tracked_files() -> list[Path]:
    """Return the text files of the repository that people write, relative to it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(
        command, cwd=PROJECT_DIR, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [
        Path(name)
        for name in sorted(set(listed))
        if Path(name).suffix in TEXTS
        and not name.startswith(FIXED)
        and (PROJECT_DIR / name).is_file()
    ]


def text_of(path: Path) -> str:
    return (PROJECT_DIR / path).read_text(encoding="utf-8")


def private_words(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line number and the words of each place."""
    for found in _PRIVATE.finditer(text):
        yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].split())


def long_lines(text: str, *, has_tables: bool) -> Iterator[tuple[int, str]]:
    """Yield the number and the length of each line that is too long, but for rows of tables."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LINE_LENGTH and not (has_tables and line.lstrip().startswith("|")):
            yield number, f"{len(line)} characters"


def check(places: Iterable[str], most: int, rule: str) -> None:
    """Print the places and fail when there are more than `most`."""
    found = list(places)
    print(f"{rule}: {len(found)} places, at most {most} allowed", *found, sep="\n")
    assert len(found) <= most, f"{rule}: expected at most {most} places, found {len(found)}"


def test_a_part_of_a_name_and_a_broken_phrase_are_found():
    text = "asked_by = AskedFor()  # untold, tasked, standstill\nhasAsked = isTold"
    assert [word for _, word in private_words(text)] == ["asked", "Asked", "Asked", "Told"]
    assert list(private_words("what\n    there is")) == [(1, "what there is")]


def test_prose_and_names_have_no_private_words():
    check(
        (
            f"{path}:{number}: {word}"
            for path in tracked_files()
            if str(path) not in DEFINING
            for number, word in private_words(text_of(path))
        ),
        MOST_PRIVATE_WORDS,
        "private words of STYLE.md 3 (say who does what, in standard terms)",
    )


def test_lines_are_short():
    check(
        (
            f"{path}:{number}: {length}"
            for path in tracked_files()
            for number, length in long_lines(text_of(path), has_tables=path.suffix == ".md")
        ),
        MOST_LONG_LINES,
        f"lines above {LINE_LENGTH} characters (STYLE.md 4)",
    )


def test_files_are_short():
    lengths = {
        path: len(text_of(path).splitlines())
        for path in tracked_files()
        if path.parts[0] in {"app", "train", "cluster"} and path.suffix in {".py", ".sql"}
    }
    check(
        (f"{path}: {length} lines" for path, length in lengths.items() if length > FILE_LENGTH),
        MOST_LONG_FILES,
        f"files above {FILE_LENGTH} lines (STYLE.md 15: split them by idea)",
    )


def test_app_has_one_top_level_module():
    modules = {path.name for path in (PROJECT_DIR / "app").glob("*.py")}
    assert modules == {"__init__.py", "main.py"}, "put a new module into a package (STYLE.md 14)"
