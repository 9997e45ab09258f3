"""Locks and marks of directories in use."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from train.data.artifact_locks import exclusive, in_use

LONG_AGO = 1_000_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file in a directory that was used long ago."""
    directory = tmp_path / "windows"
    directory.mkdir()
    path = directory / "head"
    path.touch()
    os.utime(directory, (LONG_AGO, LONG_AGO))
    return path


def test_use_is_shared_and_prevents_an_exclusive_lock(file: Path) -> None:
    with in_use(file) as first, in_use(file) as second:
        assert (first, second) == (True, True)
        with exclusive(file) as is_locked:
            assert not is_locked
    with exclusive(file) as is_locked:
        assert is_locked


def test_directory_is_marked_at_both_ends_of_its_use(file: Path) -> None:
    with in_use(file):
        assert file.parent.stat().st_mtime > LONG_AGO
        os.utime(file.parent, (LONG_AGO, LONG_AGO))
    assert file.parent.stat().st_mtime > LONG_AGO


def test_failing_block_marks_its_end_too(file: Path) -> None:
    def fail() -> None:
        with in_use(file):
            os.utime(file.parent, (LONG_AGO, LONG_AGO))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert file.parent.stat().st_mtime > LONG_AGO
    with exclusive(file) as is_locked:
        assert is_locked


def test_exclusive_lock_marks_and_creates_nothing(file: Path) -> None:
    with exclusive(file):
        pass
    with exclusive(file.with_name("other")) as is_locked:
        assert not is_locked
    with in_use(file.with_name("other")) as is_there:
        assert not is_there
    assert file.parent.stat().st_mtime == LONG_AGO
    assert list(file.parent.iterdir()) == [file]


def test_use_during_removal_finds_nothing(file: Path) -> None:
    found: list[bool] = []
    opened = threading.Event()

    def use() -> None:
        opened.set()
        with in_use(file) as is_there:
            found.append(is_there)

    with exclusive(file) as is_locked:
        assert is_locked
        user = threading.Thread(target=use)
        user.start()
        opened.wait(5)
        user.join(0.2)  # it has the file open by now and waits for the lock
        assert user.is_alive()
        file.parent.rename(file.parent.with_name("aside"))
    user.join(5)
    assert found == [False]


def test_lock_survives_the_rename_of_a_preparation(file: Path) -> None:
    place = file.parent.with_name("place")
    with in_use(file):
        file.write_text("written")
        file.replace(file.with_name("whole"))
        file.parent.rename(place)
        with exclusive(place / "whole") as is_locked:
            assert not is_locked


def test_killed_process_releases_its_lock(file: Path) -> None:
    use = (
        "import sys, pathlib, train.data.artifact_locks as locks\n"
        "with locks.in_use(pathlib.Path(sys.argv[1])): print('on', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", use, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "on\n"
        with exclusive(file) as is_locked:
            assert not is_locked
        user.kill()
        user.wait(5)
        with exclusive(file) as is_locked:
            assert is_locked
