"""Formats log records as JSON of the Elastic Common Schema (ECS), one object a line.

Every process of the service writes this schema: its own lines, and those of Ray Serve, whose JSON
formatter `cluster/ray_settings.py` replaces by `EcsFormatter`. Names with a dot are flat keys, as
the ECS logging specification allows. What ECS has no name for is under `hydraulic`.

Own code, and not `ecs-logging` of Elastic: a line takes 40 us there and 8 us here, which is 3 % of
a request's CPU time, and a field whose name is also a part of another's loses the whole line.
"""

import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version

import orjson

ECS_VERSION = "8.17.0"
SERVICE = "hydraulic-diagnostics"
MAX_FIELD_CHARACTERS = 16_000
"""Of a text; a longer one is cut, so that a line never holds a request's body."""

_TRACES: ContextVar[tuple[str, ...]] = ContextVar("traces", default=())

# what the project's and Serve's lines call a field, and its name in ECS
_NAMES = {
    "trace_id": "trace.id",
    "method": "http.request.method",
    "status": "http.response.status_code",
    "request_id": "http.request.id",
    "duration_s": "event.duration",
    "actor": "user.name",
    "file": "file.path",
    "reason": "error.message",
    "error": "error.type",
    "sqlstate": "error.code",
    "process": "process.pid",
    "node_id": "host.id",
}
# attributes of every record, and Ray's own that say nothing about the event
_OMITTED = frozenset(vars(logging.makeLogRecord({}))) | {
    "actor_id",
    "actor_name",
    "asctime",
    "job_id",
    "log_to_stderr",
    "message",
    "serve_access_log",
    "skip_context_filter",
    "task_func_name",
    "task_id",
    "task_name",
    "taskName",
    "timestamp_ns",
    "worker_id",
}
_HIDDEN = frozenset(
    {"api_key", "authorization", "cookie", "dsn", "password", "secret", "token", "x_api_key"}
)
_SECRETS = re.compile(
    r"(?P<address>//)[^/\s\"@]*@"
    r"|(?P<header>\b(?:Bearer|Basic)\s+|\bx-api-key[\"']?\s*[:=]\s*[\"']?)[^\s\"',;$]+"
    r"|(?P<key>\bhd_)[\w-]{16,}"
    r"|(?P<field>\bpassword[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&]+",
    re.IGNORECASE,
)
_HINTS = ("//", "hd_", "earer", "EARER", "asic ", "-key", "-KEY", "-Key", "assword", "ASSWORD")
"""One of them is in each text that `_SECRETS` finds; looking for them is fast."""

_identity: dict[str, object] = {}
_static = ""
_lock = threading.Lock()


@contextmanager
def traces_of(trace_ids: tuple[str, ...]) -> Iterator[None]:
    """Name these traces in each line that is logged inside: those of the requests worked on."""
    token = _TRACES.set(trace_ids)
    try:
        yield
    finally:
        _TRACES.reset(token)


def current_traces() -> tuple[str, ...]:
    """Return the trace ids of the requests that are worked on."""
    return _TRACES.get()


def identify(**fields: object) -> None:
    """Add fields to all later lines of this process, such as its deployment and its replica."""
    global _static  # noqa: PLW0603 - read for each line, written once or twice in a process
    with _lock:
        _identity.update({_NAMES.get(name) or _own(name): each for name, each in fields.items()})
        _static = ""


class EcsFormatter(logging.Formatter):
    """Formats a record: its event, and the fields given by `extra`.

    Fields that ECS knows by another name are renamed (`_NAMES`); a name with a dot stays; others
    get the prefix `hydraulic.`. Passwords and keys are replaced by `[hidden]`.
    """

    def set_additional_log_standard_attrs(self, names: object) -> None:
        """Ignore Serve's choice of additional attributes; the schema has no room for them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        message = record.getMessage()
        line: dict[str, object] = {
            "@timestamp": datetime.fromtimestamp(record.created, UTC),
            "log.level": record.levelname.lower(),
            "message": message,
            "ecs.version": ECS_VERSION,
            "log.logger": record.name,
        }
        if record.name.startswith("app."):
            line["event.action"] = _action_of(str(record.msg))
        traces = _TRACES.get()
        if traces:
            line["trace.id"] = traces[0]
            if len(traces) > 1:
                line["hydraulic.trace_ids"] = traces
        for name, value in vars(record).items():
            if name not in _OMITTED and not name.startswith("_"):
                _add(line, name, value)
        if record.exc_info and record.exc_info[0] is not None:
            line["error.type"] = record.exc_info[0].__name__
            line.setdefault("error.message", str(record.exc_info[1]))
            line["error.stack_trace"] = self.formatException(record.exc_info)
        text = _dumped(line).decode()
        if len(text) > MAX_FIELD_CHARACTERS or any(hint in text for hint in _HINTS):
            text = _dumped({name: _shown(value) for name, value in line.items()}).decode()
        return text[:-1] + (_static or _make_static())


def _add(line: dict[str, object], name: str, value: object) -> None:
    if name == "ray_serve_extra_fields" and isinstance(value, Mapping):
        for inner, each in value.items():
            _add(line, str(inner), each)
        return
    if value is None:
        return
    if name in _HIDDEN:
        value = "[hidden]"
    if name == "duration_s" and isinstance(value, int | float):
        value = round(value * 1e9)
    known = _NAMES.get(name) or _own(name)
    if known not in _identity:
        line[known] = value


@cache
def _own(name: str) -> str:
    return name if "." in name else f"hydraulic.{name}"


@lru_cache(1_000)
def _action_of(event: str) -> str:
    """Return an event as a word: `first key made` is `first-key-made`."""
    return re.sub(r"[^a-z0-9]+", "-", without_secrets(event).lower()).strip("-")[:80]


def _shown(value: object) -> object:
    """Return a value without passwords and keys, and not longer than a line may be."""
    if isinstance(value, str):
        text = value if len(value) <= MAX_FIELD_CHARACTERS else value[:MAX_FIELD_CHARACTERS] + "..."
        return without_secrets(text)
    if isinstance(value, int | float | datetime | tuple):
        return value
    if isinstance(value, Mapping):
        return {
            str(name): "[hidden]" if name in _HIDDEN else _shown(each)
            for name, each in value.items()
        }
    if isinstance(value, list | set | frozenset):
        return [_shown(each) for each in value]
    return without_secrets(str(value))


def without_secrets(text: str) -> str:
    """Replace passwords in addresses, authorisation headers and API keys by `[hidden]`."""
    return _SECRETS.sub(_hide, text)


def _hide(found: re.Match[str]) -> str:
    if found["address"]:
        return "//[hidden]@"
    return f"{found['header'] or found['key'] or found['field']}[hidden]"


def _dumped(line: Mapping[str, object]) -> bytes:
    options = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(line, default=str, option=options)
    except TypeError:  # single surrogates, which UTF-8 can't encode, or a very large number
        return orjson.dumps({name: _encodable(each) for name, each in line.items()}, option=options)


def _encodable(value: object) -> object:
    if isinstance(value, float | datetime) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


def _make_static() -> str:
    """Return what ends each line of this process: who wrote it."""
    global _static  # noqa: PLW0603 - see `identify`
    with _lock:
        fields: dict[str, object] = {
            "service.name": SERVICE,
            "service.version": _service_version(),
            "service.node.name": f"process-{os.getpid()}",
            "process.pid": os.getpid(),
        }
        _static = "," + _dumped(fields | _identity)[1:].decode()
    return _static


@cache
def _service_version() -> str:
    try:
        return version(SERVICE)
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
