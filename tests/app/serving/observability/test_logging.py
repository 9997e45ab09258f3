"""Where log lines go: to standard error, and in a replica to its own file."""

import asyncio
import logging
import logging.handlers
import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from app.serving.observability import logging as module
from app.serving.observability.logging import ACCESS_LOGGER, configure_logging


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    loggers = [logging.getLogger("app"), logging.getLogger("ray.serve")]
    kept = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers.clear()
    yield
    for logger, handlers, level, propagate in kept:
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


def test_outside_a_replica_each_line_is_an_object_on_standard_error(
    capsys: pytest.CaptureFixture[str],
):
    configure_logging("INFO")
    configure_logging("INFO")
    logging.getLogger("app.test").info("event", extra={"count": 3})
    (line,) = capsys.readouterr().err.splitlines()
    assert orjson.loads(line)["event"] == "event"
    assert orjson.loads(line)["count"] == 3


def test_in_a_replica_all_is_in_its_file_and_access_lines_are_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "LINES_A_LOOK", 2)
    file = logging.handlers.RotatingFileHandler(
        tmp_path / "replica.log", maxBytes=100, backupCount=1
    )
    buffer = logging.handlers.MemoryHandler(capacity=1000, target=file)
    logging.getLogger("ray.serve").addHandler(buffer)
    configure_logging("INFO")
    logging.getLogger(ACCESS_LOGGER).info("access")
    # written at once, although Serve's own lines wait in its buffer
    (line,) = (tmp_path / "replica.log").read_text().splitlines()
    assert orjson.loads(line)["event"] == "access"
    logging.getLogger("app.test").info("first key made")
    assert "first key made" in (tmp_path / "replica.log").read_text()
    assert "access" in (tmp_path / "replica.log.1").read_text()
    file.close()


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Path]:
    file = logging.handlers.RotatingFileHandler(tmp_path / "replica.log")
    logging.getLogger("ray.serve").addHandler(file)
    configure_logging("INFO")
    yield tmp_path / "replica.log"
    file.close()


async def test_access_lines_of_an_event_loop_are_written_together_soon(
    written: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "GATHER_S", 0.05)
    access = logging.getLogger(ACCESS_LOGGER)
    for number in range(3):
        access.info("access %d", number)
    assert written.read_text() == ""
    await asyncio.sleep(0.2)
    assert [orjson.loads(line)["event"] for line in written.read_text().splitlines()] == [
        "access 0",
        "access 1",
        "access 2",
    ]
    access.info("access 3")
    await asyncio.sleep(0.2)
    assert "access 3" in written.read_text()


async def test_other_lines_wait_for_nothing_and_come_after_what_waits(written: Path):
    logging.getLogger(ACCESS_LOGGER).info("access")
    logging.getLogger("app.test").warning("version failed")
    assert [orjson.loads(line)["event"] for line in written.read_text().splitlines()] == [
        "access",
        "version failed",
    ]


async def test_so_many_access_lines_wait_and_no_more(
    written: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MAX_GATHERED", 2)
    for _ in range(3):
        logging.getLogger(ACCESS_LOGGER).info("access")
    assert len(written.read_text().splitlines()) == 2
    logging.getLogger("app").handlers[0].flush()  # as logging does at the end of a process
    assert len(written.read_text().splitlines()) == 3


async def test_line_that_can_not_be_formatted_loses_no_other(written: Path):
    logging.getLogger(ACCESS_LOGGER).info("access")
    logging.getLogger("app.test").warning(
        "file", extra={"path": os.fsdecode(b"\xff.csv")}
    )  # orjson takes no surrogates
    assert [orjson.loads(line)["event"] for line in written.read_text().splitlines()] == ["access"]


def test_access_logger_is_the_one_that_writes_access_lines():
    from app.serving.http import access_log

    assert access_log.logger.name == ACCESS_LOGGER
