"""Configures structured logs: one JSON object a line, an event and its fields.

In a replica all lines go to the replica's log file, which Ray's dashboard shows, and all but the
access lines also to standard error, which `serve run` prints. Elsewhere all lines go to standard
error. Nothing but the access line is logged per request at INFO.
"""

import logging
import logging.handlers
import sys
from datetime import UTC, datetime

import orjson

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


class _ReplicaFormatter(JsonFormatter):
    """Formats the project's records as JSON, and Serve's own as before, for their common file."""

    def __init__(self, of_serve: logging.Formatter | None) -> None:
        super().__init__()
        self._of_serve = of_serve or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        if record.name.startswith("app."):
            return super().format(record)
        return self._of_serve.format(record)


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
    file = _replica_file()
    # Serve replaces sys.stderr by a stream that walks the whole stack for each line
    terminal = logging.StreamHandler(sys.stderr if file is None else sys.__stderr__)
    terminal.setFormatter(JsonFormatter())
    logger.addHandler(terminal)
    if file is not None:
        # one handler writes the lines of both, so that its lock and its rotation cover both
        file.setFormatter(_ReplicaFormatter(file.formatter))
        logger.addHandler(file)
        terminal.addFilter(lambda record: record.name != ACCESS_LOGGER)


def _replica_file() -> logging.handlers.RotatingFileHandler | None:
    """Return Serve's handler of the replica's log file, without its buffer; None elsewhere."""
    for handler in logging.getLogger("ray.serve").handlers:
        file = getattr(handler, "target", handler)
        if isinstance(file, logging.handlers.RotatingFileHandler):
            return file
    return None
