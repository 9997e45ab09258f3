"""A replica's log file: access lines are written together, all other lines at once."""

import asyncio
import logging
import logging.handlers
import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from app.serving.fastpath import replica_log
from app.serving.fastpath.replica_log import ReplicaLogHandler
from app.serving.observability.logging import JsonFormatter

ACCESS = "test.access"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replica.log"


@pytest.fixture
def loggers(path: Path) -> Iterator[logging.Logger]:
    """The parent of loggers whose lines go to the file."""
    file = logging.handlers.RotatingFileHandler(path, maxBytes=400, backupCount=1)
    handler = ReplicaLogHandler(file, gathered=ACCESS)
    handler.setFormatter(JsonFormatter())
    parent = logging.getLogger("test")
    parent.setLevel(logging.INFO)
    parent.propagate = False
    parent.addHandler(handler)
    yield parent
    parent.removeHandler(handler)
    parent.propagate = True
    file.close()


def events(path: Path) -> list[str]:
    return [orjson.loads(line)["event"] for line in path.read_text().splitlines()]


def test_lines_outside_an_event_loop_are_written_at_once_and_the_file_is_rotated(
    loggers: logging.Logger, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(replica_log, "LINES_PER_CHECK", 2)
    logging.getLogger(ACCESS).info("a" * 300)
    assert events(path) == ["a" * 300]
    loggers.info("b" * 100)
    assert events(path) == ["b" * 100]
    assert events(path.with_name("replica.log.1")) == ["a" * 300]


async def test_access_lines_of_an_event_loop_are_written_together(
    loggers: logging.Logger, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(replica_log, "GATHER_S", 0.05)
    for round_ in range(2):
        for number in range(3):
            logging.getLogger(ACCESS).info("access %d", 3 * round_ + number)
        async with asyncio.timeout(30):
            while len(events(path)) < 3 * (round_ + 1):
                assert len(events(path)) == 3 * round_
                await asyncio.sleep(0.001)
    assert events(path) == [f"access {number}" for number in range(6)]


async def test_other_lines_are_written_at_once_after_the_waiting_ones(
    loggers: logging.Logger, path: Path
):
    logging.getLogger(ACCESS).info("access")
    loggers.warning("version failed")
    assert events(path) == ["access", "version failed"]


async def test_number_of_waiting_lines_is_bounded(
    loggers: logging.Logger, path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(replica_log, "MAX_GATHERED", 2)
    for _ in range(3):
        logging.getLogger(ACCESS).info("access")
    assert len(events(path)) == 2
    loggers.handlers[0].flush()  # as logging does at the end of a process
    assert len(events(path)) == 3


async def test_line_that_can_not_be_formatted_loses_no_other(loggers: logging.Logger, path: Path):
    logging.getLogger(ACCESS).info("access")
    loggers.warning("file", extra={"path": os.fsdecode(b"\xff.csv")})  # orjson takes no surrogates
    assert events(path) == ["access"]
