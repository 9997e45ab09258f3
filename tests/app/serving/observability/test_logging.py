"""Where log lines go: to standard error, and in a replica also to its log file."""

import asyncio
import logging
import logging.handlers
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from app.serving.http import access_log
from app.serving.observability.logging import (
    ACCESS_LOGGER,
    configure_logging,
    reconfigure_logging,
    writes_access,
)


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
    assert orjson.loads(line)["message"] == "event"
    assert orjson.loads(line)["hydraulic.count"] == 3


@pytest.fixture
def replica_log(tmp_path: Path) -> Iterator[Path]:
    """Serve's log file of a replica, which is replaced after 3000 bytes."""
    path = tmp_path / "replica.log"
    file = logging.handlers.RotatingFileHandler(path, maxBytes=3000, backupCount=1)
    file.setFormatter(logging.Formatter("serve %(message)s"))
    buffer = logging.handlers.MemoryHandler(capacity=2, target=file)
    logging.getLogger("ray.serve").addHandler(buffer)
    configure_logging("INFO")
    yield path
    file.close()


def events(path: Path) -> list[str]:
    return [orjson.loads(line)["message"] for line in path.read_text().splitlines()]


def test_in_a_replica_all_lines_are_in_its_file_and_access_lines_nowhere_else(
    replica_log: Path, capfd: pytest.CaptureFixture[str]
):
    logging.getLogger(ACCESS_LOGGER).info("access")
    logging.getLogger("app.test").info("first key made")
    assert events(replica_log) == ["access", "first key made"]


def test_lines_of_serve_have_the_schema_too(replica_log: Path):
    logging.getLogger("app.test").info("event")
    for _ in range(2):
        logging.getLogger("ray.serve").warning("started")
    assert events(replica_log) == [
        "event",
        "started",
        "started",
    ]


def test_levels_of_modules_change_and_return():
    configure_logging("INFO")
    store, pool = logging.getLogger("app.store"), logging.getLogger("app.store.pool")
    assert not pool.isEnabledFor(logging.DEBUG)
    reconfigure_logging({"logging": {"levels": {"app.store": "DEBUG", "app": "ERROR"}}})
    assert pool.isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("app.model").isEnabledFor(logging.WARNING)
    reconfigure_logging({"logging": {"levels": {"app.store": "DEBUG"}}})
    assert logging.getLogger("app.model").isEnabledFor(logging.INFO)
    reconfigure_logging({"logging": {}})
    assert (store.level, pool.isEnabledFor(logging.DEBUG)) == (logging.NOTSET, False)


@pytest.mark.parametrize(
    "config",
    [
        {"logging": {"levels": {"app.store": "LOUD"}}},
        {"logging": {"levels": {"ray": "DEBUG"}}},
        {"logging": {"access_share": 1.5}},
        {"loging": {}},
    ],
)
def test_configuration_that_is_refused_leaves_the_one_before(
    config: dict[str, object], capsys: pytest.CaptureFixture[str]
):
    configure_logging("INFO")
    reconfigure_logging({"logging": {"levels": {"app.store": "DEBUG"}, "access_share": 0.0}})
    try:
        reconfigure_logging(config)
        assert logging.getLogger("app.store").level == logging.DEBUG
        assert not writes_access("0" * 32, failed=False)
    finally:
        reconfigure_logging({"logging": {}})
    (line,) = capsys.readouterr().err.splitlines()
    assert orjson.loads(line)["event.action"] == "user-config-refused"


def test_lines_after_a_rotation_are_in_the_new_file(replica_log: Path):
    logger = logging.getLogger(ACCESS_LOGGER)
    logger.info("a" * 2000)
    logger.info("b" * 1500)
    assert events(replica_log.with_name("replica.log.1")) == ["a" * 2000]
    assert events(replica_log) == ["b" * 1500]


class _Unprintable:
    def __str__(self) -> str:
        raise ValueError("no text")


def test_line_that_can_not_be_formatted_loses_no_other(replica_log: Path):
    logger = logging.getLogger("app.test")
    logger.info("before")
    logger.warning("file", extra={"path": _Unprintable()})
    logger.info("after")
    assert events(replica_log) == ["before", "after"]


async def test_access_lines_in_an_event_loop_wait_and_go_with_the_next_other_line(
    replica_log: Path,
):
    access = logging.getLogger(ACCESS_LOGGER)
    access.info("one")
    access.info("two")
    assert events(replica_log) == []
    logging.getLogger("app.test").info("event")
    assert events(replica_log) == ["one", "two", "event"]
    access.info("three")
    async with asyncio.timeout(30):
        while "three" not in events(replica_log):
            await asyncio.sleep(0.01)


async def test_access_lines_that_wait_are_written_when_the_process_ends(replica_log: Path):
    logging.getLogger(ACCESS_LOGGER).info("last")
    for handler in logging.getLogger("app").handlers:  # as logging.shutdown does
        handler.flush()
    assert events(replica_log) == ["last"]


def test_lines_go_to_the_handler_that_serve_made_last(replica_log: Path, tmp_path: Path):
    serve = logging.getLogger("ray.serve")
    serve.handlers.clear()
    file = logging.handlers.RotatingFileHandler(tmp_path / "later.log")
    serve.addHandler(file)
    logging.getLogger("app.test").info("event")
    file.close()
    assert events(tmp_path / "later.log") == ["event"]
    assert replica_log.read_text() == ""


def test_lines_wait_while_serve_exchanges_its_handler(replica_log: Path):
    serve = logging.getLogger("ray.serve")
    handlers = serve.handlers[:]
    serve.handlers.clear()
    logging.getLogger("app.test").info("meanwhile")
    serve.handlers[:] = handlers
    logging.getLogger("app.test").info("after")
    assert events(replica_log) == ["meanwhile", "after"]


def test_access_logger_is_the_one_that_writes_access_lines():
    assert access_log.logger.name == ACCESS_LOGGER
