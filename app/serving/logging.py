"""Structured logs: one JSON object a line, an event and its fields.

In a replica all goes to the replica's own log file of Serve, which the dashboard shows, and all but the access lines to standard
error too, which `serve run` prints; elsewhere all goes to standard error.
Invariant: configured here alone; nothing is logged per request at INFO but the access line.
"""

import logging
import sys
from datetime import UTC, datetime

import orjson

ACCESS_LOGGER = "app.serving.access_log"

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
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD and not key.startswith("_")}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure_logging(level: str) -> None:
    """Send the project's loggers to the replica's log file and standard error as JSON.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
    """
    logger = logging.getLogger("app")
    logger.setLevel(level)
    logger.propagate = False
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers):
        return
    files = _files_of_the_replica()
    for file in files:
        logger.addHandler(file)
    # Serve puts a stream in the place of sys.stderr that looks at the whole stack for each line
    terminal = logging.StreamHandler(sys.__stderr__ if files else sys.stderr)
    terminal.setFormatter(JsonFormatter())
    if files:
        terminal.addFilter(lambda record: record.name != ACCESS_LOGGER)
    logger.addHandler(terminal)


def _files_of_the_replica() -> list[logging.Handler]:
    """Return the handlers of Serve's own log files, without the buffers in front of them; none outside a replica."""
    handlers = (getattr(handler, "target", handler) for handler in logging.getLogger("ray.serve").handlers)
    return [handler for handler in handlers if isinstance(handler, logging.FileHandler)]
