"""Configures where log lines go, and which: levels of modules, a share of the access lines.

In a replica all lines go to the replica's log file, which Ray's dashboard shows, and all but the
access lines also to standard error, which `serve run` prints. Elsewhere all lines go to standard
error. Nothing but the access line is logged per request at INFO. `ecs` has their schema.
"""

import asyncio
import logging
import logging.handlers
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.serving.observability.ecs import EcsFormatter, identify

logger = logging.getLogger(__name__)

ACCESS_LOGGER = "app.serving.http.access_log"
GATHER_S = 0.2
"""Longest time that an access line waits."""
MAX_GATHERED = 1_000
"""Lines that wait at most."""

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Module = Annotated[str, StringConstraints(pattern=r"^app(\.[a-z_]+)*$")]


class LogConfig(BaseModel):
    """Which lines a process writes: `logging` of a deployment's `user_config`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    levels: Annotated[
        Mapping[Module, Level], Field(description="by module, such as app.store: DEBUG")
    ] = {}
    access_share: Annotated[
        float,
        Field(ge=0, le=1, description="of the access lines of requests that succeeded"),
    ] = 1.0


class ReplicaConfig(BaseModel):
    """`user_config` of a deployment that has nothing else to change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    logging: LogConfig = LogConfig()


class _FileFormatter(EcsFormatter):
    """Leaves the project's lines, which are formatted already."""

    def format(self, record: logging.LogRecord) -> str:
        return str(record.msg) if record.name == "app" else super().format(record)


class _ReplicaFile(logging.Handler):
    """Writes the project's lines to the replica's log file, by Serve's own handler of that file.

    So one lock and one rotation cover the lines of both. Access lines in an event loop wait up to
    `GATHER_S` and are written together: the rotating handler formats a line twice and looks at the
    file for each write, which cost 6 % of the throughput at 128 connections.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(EcsFormatter())
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
            if not isinstance(file.formatter, _FileFormatter):
                # also of the handler that Serve makes when its log level changes
                file.setFormatter(_FileFormatter())
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


class _Applied:
    """What is in force in this process; the logging module is one for the process too."""

    level = "INFO"
    config = LogConfig()
    share_limit = 1 << 32
    """Access lines are written of traces whose first 32 bits are below it."""


def configure_logging(level: str, **identity: object) -> None:
    """Send the project's log lines to the replica's log file and standard error as JSON.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        identity: fields of all lines of this process.
    """
    _Applied.level = level
    logger = logging.getLogger("app")
    logger.setLevel(level)
    logger.propagate = False
    identify(**_place(), **identity)
    if any(isinstance(handler.formatter, EcsFormatter) for handler in logger.handlers):
        return
    in_replica = _replica_file() is not None
    # Serve replaces sys.stderr by a stream that walks the whole stack for each line
    terminal = logging.StreamHandler(sys.__stderr__ if in_replica else sys.stderr)
    terminal.setFormatter(EcsFormatter())
    logger.addHandler(terminal)
    if in_replica:
        logger.addHandler(_ReplicaFile())
        terminal.addFilter(lambda record: record.name != ACCESS_LOGGER)


def apply_log_config(config: LogConfig) -> None:
    """Put a configuration into force; modules that it no longer names inherit their level again."""
    for name in _Applied.config.levels.keys() - config.levels.keys():
        logging.getLogger(name).setLevel(_Applied.level if name == "app" else logging.NOTSET)
    for name, level in config.levels.items():
        logging.getLogger(name).setLevel(level)
    _Applied.config = config
    _Applied.share_limit = round(config.access_share * (1 << 32))


def reconfigure_logging(user_config: Mapping[str, Any]) -> None:
    """Apply the `user_config` of a deployment that has nothing else to change; never raises."""
    try:
        config = ReplicaConfig.model_validate(user_config)
    except ValidationError as error:
        # the reason needs no traceback
        logger.error("user_config refused", extra={"reason": str(error)})  # noqa: TRY400
        return
    apply_log_config(config.logging)


def writes_access(trace_id: str, *, failed: bool) -> bool:
    """Return whether the access line of a request is written: always that of a failed one.

    The choice depends on the trace id alone, so that all lines of a request are there or none.
    """
    return failed or int(trace_id[:8], 16) < _Applied.share_limit


def _place() -> dict[str, object]:
    """Return the replica of this process, by the names of Serve's own lines."""
    if _replica_file() is None:
        return {}
    # imported here: commands log too, and do not need what Serve imports
    from ray import serve
    from ray.serve.exceptions import RayServeException

    try:
        context = serve.get_replica_context()
    except RayServeException:  # a file that is not that of a replica
        return {}
    return {
        "service.node.name": context.replica_id.unique_id,
        "application": context.app_name,
        "deployment": context.deployment,
        "replica": context.replica_id.unique_id,
    }


def _replica_file() -> logging.handlers.RotatingFileHandler | None:
    """Return Serve's handler of the replica's log file, without its buffer; None elsewhere."""
    for handler in logging.getLogger("ray.serve").handlers:
        file = getattr(handler, "target", handler)
        if isinstance(file, logging.handlers.RotatingFileHandler):
            return file
    return None
