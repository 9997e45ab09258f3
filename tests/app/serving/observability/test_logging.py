"""Where log lines go: to standard error, and in a replica also to its log file."""

import logging
import logging.handlers
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from app.serving.http import access_log
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


def test_in_a_replica_all_lines_are_in_its_file_and_access_lines_nowhere_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    file = logging.handlers.RotatingFileHandler(tmp_path / "replica.log")
    buffer = logging.handlers.MemoryHandler(capacity=1000, target=file)
    logging.getLogger("ray.serve").addHandler(buffer)
    configure_logging("INFO")
    logging.getLogger(ACCESS_LOGGER).info("access")
    logging.getLogger("app.test").info("first key made")
    lines = (tmp_path / "replica.log").read_text().splitlines()
    assert [orjson.loads(line)["event"] for line in lines] == ["access", "first key made"]
    file.close()


def test_access_logger_is_the_one_that_writes_access_lines():
    assert access_log.logger.name == ACCESS_LOGGER
