"""Reads large bodies of readings in a process of its own: `python -m` this module.

The event loop of the ingress goes on meanwhile, at a higher priority, and the memory that a body
takes is returned: the process ends after a large one, and when there is none for a while. A request
that is cancelled ends the process. Messages are frames: four bytes of length, then the bytes.
"""

import asyncio
import contextlib
import gc
import logging
import os
import struct
import sys
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

import orjson

from app.core import errors
from app.core.errors import HydraulicDiagnosticsError, Overloaded
from app.core.settings import PROJECT_DIR
from app.schemas.reading_columns import ReadBody, SensorColumns, read_columns
from app.schemas.reading_formats import ReadingOptions
from app.schemas.readings import RejectedLine
from app.serving.http.encodings import decompressed

logger = logging.getLogger(__name__)

NICENESS = 5
IDLE_S = 30.0
"""How long the process waits for the next body."""
LARGE_BYTES = 4 * 1024 * 1024
"""Of a body after which the process ends."""
MAX_WAITING = 8
"""Bodies that wait for the process, of which nothing but the first part was read."""
_LENGTH = struct.Struct("<I")
_COLUMNS = ("sensor_R", "times_us_R", "values_R", "lines_R")


@dataclass(frozen=True, slots=True)
class ReadOrder:
    """How a body is to be read.

    Args:
        content_type: of the body.
        encoding: one of `encodings.ENCODINGS`, or empty.
        limit: bytes, before and after decompression.
        options: of the request.
    """

    content_type: str
    encoding: str
    limit: int
    options: ReadingOptions

    def to_json(self) -> bytes:
        """Return the order as JSON."""
        options = self.options
        return orjson.dumps(
            {
                "content_type": self.content_type,
                "encoding": self.encoding,
                "limit": self.limit,
                "equipment_id": options.equipment_id,
                "ignore_columns": sorted(options.ignore_columns),
                "interval": options.interval,
            }
        )

    @classmethod
    def from_json(cls, text: bytes) -> "ReadOrder":
        """Return the order of a JSON text."""
        found = orjson.loads(text)
        interval = found["interval"]
        if interval is not None:
            start, end = map(datetime.fromisoformat, interval)
            interval = (start, end)
        options = ReadingOptions(
            found["equipment_id"], frozenset(found["ignore_columns"]), interval
        )
        return cls(found["content_type"], found["encoding"], found["limit"], options)


class IngestWorker:
    """The process, started when it is needed; reads one body at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None

    async def read(self, parts: AsyncIterator[bytes], order: ReadOrder) -> ReadBody:
        """Read a body that arrives in parts.

        Raises:
            HydraulicDiagnosticsError: the body can't be read; see `read_columns`.
            Overloaded: too many bodies wait.
        """
        if self._waiting >= MAX_WAITING:
            raise Overloaded(
                f"expected at most {MAX_WAITING} large bodies to wait, found as many: try again in "
                "a few seconds, or send smaller parts"
            )
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            if self._idle is not None:
                self._idle.cancel()
            return await self._read(parts, order)
        finally:
            self._turn.release()

    async def close(self) -> None:
        """End the process."""
        if self._idle is not None:
            self._idle.cancel()
        await self._end()

    async def _read(self, parts: AsyncIterator[bytes], order: ReadOrder) -> ReadBody:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await _start()
        assert process.stdin is not None
        assert process.stdout is not None
        size = 0
        try:
            _write(process.stdin, order.to_json())
            async for part in parts:
                if not part:
                    continue
                size += len(part)
                _check_size(size, order.limit)
                _write(process.stdin, part)
                await process.stdin.drain()
            _write(process.stdin, b"")
            await process.stdin.drain()
            head = orjson.loads(await _frame(process.stdout))
            found = _error_of(head) or _body_of(head, await _frame(process.stdout))
        except (OSError, asyncio.IncompleteReadError) as error:
            await self._end()
            raise Overloaded(
                "expected the process that reads large bodies to go on, found it ended: try again, "
                "or send smaller parts"
            ) from error
        except BaseException:
            await self._end()  # it is in the middle of a body
            raise
        if head["bytes"] > LARGE_BYTES:
            await self._end()
        else:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(IDLE_S, self._kill)
        if isinstance(found, Exception):
            raise found
        return found

    def _kill(self) -> None:
        if self._process is not None and not self._turn.locked():
            process, self._process = self._process, None
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise errors.LimitExceeded(
            f"expected a body of at most {limit} bytes, found more: send it in parts", "body"
        )


async def _start() -> asyncio.subprocess.Process:
    # Ray's settings keep freed memory, which here is to be returned
    environment = {name: each for name, each in os.environ.items() if "MALLOC" not in name}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=PROJECT_DIR,
        env=environment,
        limit=2**20,
    )


def _write(stream: asyncio.StreamWriter, frame: bytes) -> None:
    stream.write(_LENGTH.pack(len(frame)))
    stream.write(frame)


async def _frame(stream: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    return await stream.readexactly(length)


def _error_of(head: dict[str, Any]) -> HydraulicDiagnosticsError | None:
    if "error" not in head:
        return None
    kind: type[HydraulicDiagnosticsError] = getattr(errors, head["error"])
    return kind(head["message"], head["field"])


def _body_of(head: dict[str, Any], data: bytes) -> ReadBody:
    columns: dict[str, SensorColumns] = {}
    place = 0
    for equipment_id, sensor_ids, rows in head["equipment"]:
        made = columns[equipment_id] = SensorColumns(sensor_ids)
        for name in _COLUMNS:
            column: array[Any] = getattr(made, name)
            end = place + rows * column.itemsize
            column.frombytes(memoryview(data)[place:end])
            place = end
    rejected = [RejectedLine.model_construct(**each) for each in head["rejected"]]
    return ReadBody(columns, rejected, head["rejected_count"], tuple(head["wide_sensors"]))


def _read_order(source: BinaryIO) -> tuple[ReadOrder, bytes] | None:
    frames = []
    while True:
        head = source.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        if not length:
            break
        frames.append(source.read(length))
    return ReadOrder.from_json(frames[0]), b"".join(frames[1:])


def _answer(order: ReadOrder, body: bytes) -> tuple[dict[str, Any], bytes]:
    head: dict[str, Any] = {"bytes": len(body)}
    try:
        if order.encoding:
            body = decompressed(body, order.encoding, order.limit)
            head["bytes"] = len(body)
        reading = read_columns(body, order.content_type, order.options)
        while True:
            try:
                next(reading)
            except StopIteration as end:
                found: ReadBody = end.value
                break
    except HydraulicDiagnosticsError as error:
        refused = {"error": type(error).__name__, "message": error.message, "field": error.field}
        return head | refused, b""
    head |= {
        "equipment": [
            (name, columns.sensor_ids, len(columns.lines_R))
            for name, columns in found.columns.items()
        ],
        "rejected": [each.model_dump() for each in found.rejected],
        "rejected_count": found.rejected_count,
        "wide_sensors": found.wide_sensors,
    }
    data = b"".join(
        getattr(columns, name).tobytes() for columns in found.columns.values() for name in _COLUMNS
    )
    return head, data


def main() -> None:
    """Answer orders from standard input until it ends."""
    os.nice(NICENESS)
    gc.disable()  # rows have no cycles
    while (order := _read_order(sys.stdin.buffer)) is not None:
        head, data = _answer(*order)
        del order
        for frame in (orjson.dumps(head), *([] if "error" in head else [data])):
            sys.stdout.buffer.write(_LENGTH.pack(len(frame)))
            sys.stdout.buffer.write(frame)
        sys.stdout.buffer.flush()
        del head, data
        gc.collect()


if __name__ == "__main__":
    main()
