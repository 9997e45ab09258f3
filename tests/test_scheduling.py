"""Tests that share the running system or the Ray cluster are in one worker."""

from pathlib import Path

import pytest

from tests.scheduling import CLUSTERS, SYSTEM, group_of, place_of
from tests.system import PROJECT_DIR


def files_with(*words: str) -> set[str]:
    """Return the files of tests, but for this one, whose text has one of the words."""
    return {
        str(path.relative_to(PROJECT_DIR))
        for path in (PROJECT_DIR / "tests").rglob("test_*.py")
        if path != Path(__file__) and any(word in path.read_text("utf-8") for word in words)
    }


@pytest.mark.parametrize(
    ("files", "words"),
    [(SYSTEM, ("pytest.mark.system",)), (CLUSTERS, ("local_ray", "without_ray"))],
    ids=["system", "clusters"],
)
def test_group_has_every_file_that_shares_it(files: tuple[str, ...], words: tuple[str, ...]):
    assert files_with(*words) == set(files)
    assert len({group_of(f"{file}::test_x") for file in files}) == 1


def test_system_ends_with_its_last_file_and_other_files_keep_their_order():
    assert SYSTEM[-1] == "tests/test_stop.py"
    places = [place_of(f"{file}::test_x[a::b]") for file in (*SYSTEM, *CLUSTERS, "a.py", "b.py")]
    assert places[:-2] == list(range(len(SYSTEM) + len(CLUSTERS)))
    assert places[-2] == places[-1] == len(places) - 2
