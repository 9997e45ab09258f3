"""Configures structured logs: one JSON object a line, an event and its fields.

In a replica all lines go to the replica's log file, which Ray's dashboard shows, and all but the
access lines also to standard error, which `serve run` prints. Elsewhere all lines go to standard
error. Nothing but the access line is logged per request at INFO.
"""

import logging
import sys
from datetime import UTC, datetime

import orjson

from app.serving.fastpath.replica_log import ReplicaLogHandler, replica_log_file

ACCESS_LOGGER = "app.serving.http.access_log"

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON: time, level, logger, event, and the fields given by `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {
            key: value
            for key, value in vars(record).items()
            if key not in _STANDARD and not key.startswith("_")
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure_logging(level: str) -> None:
    """Send the project's log lines to the replica's log file and standard error as JSON.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
    """
    logger = logging.getLogger("app")
    logger.setLevel(level)
    logger.propagate = False
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers):
        return
    file = replica_log_file()
    # Serve replaces sys.stderr by a stream that walks the whole stack for each line
    terminal = logging.StreamHandler(sys.stderr if file is None else sys.__stderr__)
    handlers: list[logging.Handler] = [terminal]
    if file is not None:
        handlers.insert(0, ReplicaLogHandler(file, gathered=ACCESS_LOGGER))
        terminal.addFilter(lambda record: record.name != ACCESS_LOGGER)
    for handler in handlers:
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
