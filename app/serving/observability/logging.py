"""Structured logs: one JSON object a line, an event and its fields.

In a replica all goes to the replica's own log file of Serve, which the dashboard shows, and all but the access lines to standard
error too, which `serve run` prints; elsewhere all goes to standard error.
Invariant: configured here alone; nothing is logged per request at INFO but the access line, and no other line waits.
"""

import asyncio
import logging
import logging.handlers
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime

import orjson

ACCESS_LOGGER = "app.serving.http.access_log"
LINES_A_LOOK = 200
GATHER_S = 0.2
"""Access lines of so long are written together: a write for each request made the requests beside it wait for the interpreter."""
MAX_GATHERED = 1_000

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
    """Send the project's loggers to the replica's log file and standard error as JSON.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
    """
    logger = logging.getLogger("app")
    logger.setLevel(level)
    logger.propagate = False
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logger.handlers):
        return
    file = _file_of_the_replica()
    if file is not None:
        replica = _ReplicaFile(file)
        replica.setFormatter(JsonFormatter())
        logger.addHandler(replica)
    # Serve puts a stream in the place of sys.stderr that looks at the whole stack for each line
    terminal = logging.StreamHandler(sys.stderr if file is None else sys.__stderr__)
    terminal.setFormatter(JsonFormatter())
    if file is not None:
        terminal.addFilter(lambda record: record.name != ACCESS_LOGGER)
    logger.addHandler(terminal)


class _ReplicaFile(logging.Handler):
    """Writes lines into Serve's own log file of a replica, where Serve's lines wait for a thousand of them.

    Lines are written at once and in their order, but for access lines in an event loop, which wait for `GATHER_S` while it runs.
    Serve's handler looks at the file before every line whether it has become too long; here once in `LINES_A_LOOK`.
    """

    def __init__(self, file: logging.handlers.RotatingFileHandler) -> None:
        super().__init__()
        self._file = file
        self._lines = 0
        self._gathered: list[logging.LogRecord] = []
        self._due_in: asyncio.AbstractEventLoop | None = None
        """Event loop that will flush."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, and what waits before it; or let it wait."""
        self._gathered.append(record)
        if (
            record.name != ACCESS_LOGGER
            or len(self._gathered) >= MAX_GATHERED
            or not self._will_flush()
        ):
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self.lock or nullcontext():
            records, self._gathered = self._gathered, []
            if records:
                self._write(records)

    def _will_flush(self) -> bool:
        """See to it that the running event loop flushes soon, and tell whether it will."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # none runs in this thread
            return False
        if self._due_in is not loop:
            self._due_in = loop
            # left to fire when another line was flushed meanwhile, maybe by another thread, which could not cancel it
            loop.call_later(GATHER_S, self._due)
        return True

    def _due(self) -> None:
        self._due_in = None
        self.flush()

    def _write(self, records: Sequence[logging.LogRecord]) -> None:
        lines = "".join([self._line(record) for record in records])
        try:
            with self._file.lock or nullcontext():
                looks, self._lines = self._lines // LINES_A_LOOK, self._lines + len(records)
                if self._lines // LINES_A_LOOK > looks and self._file.shouldRollover(records[-1]):
                    self._file.doRollover()
                if self._file.stream is not None:  # closed while the replica stops
                    self._file.stream.write(lines)
                    self._file.stream.flush()
        except Exception:  # noqa: BLE001 - a line that can't be written fails no request; logging tells it as it tells its own
            self.handleError(records[-1])

    def _line(self, record: logging.LogRecord) -> str:
        """Return a record's line; nothing, told as logging tells its own errors, when it can't be formatted."""
        try:
            return f"{self.format(record)}\n"
        except Exception:  # noqa: BLE001 - whatever is in a record, those beside it are written
            self.handleError(record)
            return ""


def _file_of_the_replica() -> logging.handlers.RotatingFileHandler | None:
    """Return the handler of Serve's own log file, without the buffer in front of it; None outside a replica."""
    for handler in logging.getLogger("ray.serve").handlers:
        file = getattr(handler, "target", handler)
        if isinstance(file, logging.handlers.RotatingFileHandler):
            return file
    return None
