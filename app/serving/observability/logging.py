"""Configures structured logs: one JSON object a line, an event and its fields.

In a replica all lines go to the replica's log file, which Ray's dashboard shows, and all but the
access lines also to standard error, which `serve run` prints. Elsewhere all lines go to standard
error. Nothing but the access line is logged per request at INFO.
"""

import asyncio
import logging
import logging.handlers
import sys
from contextlib import nullcontext
from datetime import UTC, datetime

import orjson

ACCESS_LOGGER = "app.serving.http.access_log"
GATHER_S = 0.2
"""Longest time that an access line waits."""
MAX_GATHERED = 1_000
"""Lines that wait at most."""

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


class _ReplicaFormatter(logging.Formatter):
    """Leaves the project's lines, which are JSON already, and formats Serve's own as before."""

    def __init__(self, of_serve: logging.Formatter | None) -> None:
        super().__init__()
        self._of_serve = of_serve or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return str(record.msg) if record.name == "app" else self._of_serve.format(record)


class _ReplicaFile(logging.Handler):
    """Writes the project's lines to the replica's log file, by Serve's own handler of that file.

    So one lock and one rotation cover the lines of both. Access lines in an event loop wait up to
    `GATHER_S` and are written together: the rotating handler formats a line twice and looks at the
    file for each write, which cost 6 % of the throughput at 128 connections.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self._lines: list[str] = []
        self._scheduled_in: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
        except Exception:  # noqa: BLE001 - a record that can't be formatted loses no other
            self.handleError(record)
        may_wait = record.name == ACCESS_LOGGER and len(self._lines) < MAX_GATHERED
        if not (may_wait and self._schedule_flush()):
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait."""
        with self.lock or nullcontext():
            file = _replica_file()
            if file is None:  # while Serve exchanges its handler
                del self._lines[:-MAX_GATHERED]
                return
            lines, self._lines = self._lines, []
            if not lines:
                return
            if not isinstance(file.formatter, _ReplicaFormatter):
                # also of the handler that Serve makes when its log level changes
                file.setFormatter(_ReplicaFormatter(file.formatter))
            file.handle(logging.makeLogRecord({"name": "app", "msg": "\n".join(lines)}))

    def _schedule_flush(self) -> bool:
        """Flush soon in the running event loop; return False if none runs in this thread."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if self._scheduled_in is not loop:
            self._scheduled_in = loop
            loop.call_later(GATHER_S, self._flush_from_loop)
        return True

    def _flush_from_loop(self) -> None:
        self._scheduled_in = None
        self.flush()


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
    in_replica = _replica_file() is not None
    # Serve replaces sys.stderr by a stream that walks the whole stack for each line
    terminal = logging.StreamHandler(sys.__stderr__ if in_replica else sys.stderr)
    terminal.setFormatter(JsonFormatter())
    logger.addHandler(terminal)
    if in_replica:
        logger.addHandler(_ReplicaFile())
        terminal.addFilter(lambda record: record.name != ACCESS_LOGGER)


def _replica_file() -> logging.handlers.RotatingFileHandler | None:
    """Return Serve's handler of the replica's log file, without its buffer; None elsewhere."""
    for handler in logging.getLogger("ray.serve").handlers:
        file = getattr(handler, "target", handler)
        if isinstance(file, logging.handlers.RotatingFileHandler):
            return file
    return None
