"""Spools readings to disk while the database is away, and stores them in order when it is back.

A record is one accepted body. It is on the disk (fsync) before its caller has an answer; a record
that was cut off by a crash was never answered. While any record waits, later bodies wait behind it,
so that values are stored in the order in which they were accepted. Storing is idempotent: a file is
stored again from its start after a crash, and deleted once all of it is stored.

Each replica writes a directory of its own under `var/spool`, which it locks. A replica also stores
the directories of replicas that have ended. Records that the store refuses, such as of a machine
that was deleted meanwhile, are kept in `refused` beside the directories.
"""

import asyncio
import logging
import os
import random
import secrets
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import orjson

from app.core.errors import (
    HydraulicDiagnosticsError,
    RowsRefused,
    StoreError,
    StoreUnavailable,
)
from app.core.file_locks import open_lock, try_lock
from app.core.tasks import end_tasks
from app.serving.observability.metrics import Metrics
from app.store.readings import Readings

logger = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024 * 1024
"""Of all records that wait on this machine: some 8 million readings."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
ADOPT_S = 10.0
"""Seconds between two looks for directories of replicas that have ended."""
_HEAD = struct.Struct("<II")
_RECORDS, _LOCK, _REFUSED = "records", "lock", "refused"

StoreReadings = Callable[[Sequence[Readings], str | None], Awaitable[None]]


class Spool:
    """The readings of one replica that wait for the database.

    Args:
        directory: of all replicas of this machine; made when it is needed.
        store: stores the readings of a record under the name that replaces others, if any.
        metrics: shows what waits.
        max_bytes: see `MAX_BYTES`.
    """

    def __init__(
        self, directory: Path, store: StoreReadings, metrics: Metrics, max_bytes: int = MAX_BYTES
    ) -> None:
        self._directory = directory
        self._store = store
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._own: Path | None = None
        self._lock_fd = -1
        self._adopted: list[tuple[Path, int]] = []
        self._writing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_waiting = False
        metrics.before_scrape(lambda: metrics.spool_bytes.set(self._waiting_bytes()))

    @property
    def is_waiting(self) -> bool:
        """Whether records of this replica, or adopted ones, wait: later ones belong behind them."""
        return self._is_waiting or bool(self._adopted)

    def start(self) -> None:
        """Start to store what waits, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; what waits stays on the disk for the next replica."""
        if self._task is not None:
            await end_tasks({self._task})
        for _, lock_fd in self._adopted:
            os.close(lock_fd)
        self._adopted.clear()
        if self._own is not None:
            if not self._is_waiting:
                await asyncio.to_thread(_remove, self._own)
            os.close(self._lock_fd)
            self._own = None

    @property
    def is_alive(self) -> bool:
        """Whether its background work has not ended by itself."""
        return self._task is None or not self._task.done()

    async def put(self, blocks: Sequence[Readings], replaced_by: str | None) -> None:
        """Write a record; it is on the disk on return.

        Raises:
            StoreUnavailable: the spool is full, or the disk can't be written.
        """
        record = await asyncio.to_thread(_encoded, blocks, replaced_by)
        async with self._writing:
            try:
                await asyncio.to_thread(self._append, record)
            except OSError as error:
                logger.exception("spool not written")
                raise StoreUnavailable(
                    "expected the database, found it away and no disk to keep readings meanwhile: "
                    "send them again later"
                ) from error
            self._is_waiting = True
        self._metrics.spooled.inc(sum(len(block.sensor_ids) for block in blocks))
        self._wake.set()

    def _append(self, record: bytes) -> None:
        own = self._own or self._make_own()
        waiting = self._waiting_bytes()
        if waiting + len(record) > self._max_bytes:
            raise StoreUnavailable(
                f"expected at most {self._max_bytes} bytes of readings to wait for the database, "
                f"found {waiting}: send them again when it is back"
            )
        path = own / _RECORDS
        is_new = not path.exists()
        with path.open("ab") as file:
            whole = file.tell()
            try:
                file.write(record)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, whole)  # a part would hide the records after it
                raise
        if is_new:
            _sync(own)

    def _waiting_bytes(self) -> int:
        """Return the bytes of all replicas' records on this machine."""
        total = 0
        for path in self._directory.glob(f"*/{_RECORDS}"):
            with suppress(FileNotFoundError):  # stored meanwhile by its replica
                total += path.stat().st_size
        return total

    def _make_own(self) -> Path:
        own = self._directory / f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        own.mkdir(parents=True, mode=0o700)
        self._lock_fd = open_lock(own / _LOCK)
        try_lock(self._lock_fd)
        _sync(self._directory)
        self._own = own
        return own

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await asyncio.to_thread(self._adopt)
                await self._drain()
                pause_s = FIRST_PAUSE_S
            except StoreUnavailable:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            except Exception:
                # a task that ends would never store what waits
                logger.exception("spool not stored")
                await asyncio.sleep(LONGEST_PAUSE_S)
            try:
                async with asyncio.timeout(ADOPT_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _adopt(self) -> None:
        """Lock the directories of replicas that have ended, oldest first."""
        known = {self._own, *(path for path, _ in self._adopted)}
        for path in sorted(self._directory.glob(f"*/{_RECORDS}")):
            if path.parent in known:
                continue
            lock_fd = open_lock(path.parent / _LOCK)
            if try_lock(lock_fd):
                self._adopted.append((path.parent, lock_fd))
                logger.warning("readings adopted", extra={"directory": path.parent.name})
            else:
                os.close(lock_fd)

    async def _drain(self) -> None:
        while self._adopted:
            path, lock_fd = self._adopted[0]
            try:
                await self._store_file(path / _RECORDS, 0)
                await asyncio.to_thread(_remove, path)
            except FileNotFoundError:
                logger.info("adopted readings are gone", extra={"directory": path.name})
            del self._adopted[0]
            os.close(lock_fd)
        self._wake.clear()
        if self._own is None or not self._is_waiting:
            return
        path, stored = self._own / _RECORDS, 0
        while True:
            stored = await self._store_file(path, stored)
            async with self._writing:
                if path.stat().st_size <= stored:
                    path.unlink()
                    self._is_waiting = False
                    logger.info("readings stored that had waited")
                    return

    async def _store_file(self, path: Path, start: int) -> int:
        """Store the records of a file from a position on; return where the last whole one ends."""
        while (found := await asyncio.to_thread(_record_at, path, start)) is not None:
            record, end = found
            blocks, replaced_by = await asyncio.to_thread(_decoded, record)
            try:
                await self._store(blocks, replaced_by)
            except StoreUnavailable:
                raise
            except HydraulicDiagnosticsError as error:
                if isinstance(error, StoreError) and not isinstance(error, RowsRefused):
                    # not the record's fault: it waits until an operator has mended the database
                    logger.warning("spool refused", extra={"reason": error.message})
                    raise StoreUnavailable(error.message) from error
                # no caller waits any more; an operator can look into it
                await asyncio.to_thread(self._keep_refused, record)
                names = sorted({block.equipment_id for block in blocks})
                logger.exception(
                    "readings refused that had waited",
                    extra={"equipment": names[:10], "reason": error.message},
                )
            start = end
        return start

    def _keep_refused(self, record: bytes) -> None:
        with (self._directory / _REFUSED).open("ab") as file:
            file.write(_HEAD.pack(len(record), zlib.crc32(record)) + record)
            file.flush()
            os.fsync(file.fileno())


def _encoded(blocks: Sequence[Readings], replaced_by: str | None) -> bytes:
    listed = []
    for equipment_id, sensor_ids, times_us, values in blocks:
        places = {name: place for place, name in enumerate(dict.fromkeys(sensor_ids))}
        sensor_R = np.array([places[each] for each in sensor_ids], np.int32)
        columns = (sensor_R, np.asarray(times_us, np.int64), np.asarray(values, np.float64))
        listed.append((equipment_id, list(places), *columns))
    record = orjson.dumps((replaced_by, listed), option=orjson.OPT_SERIALIZE_NUMPY)
    return _HEAD.pack(len(record), zlib.crc32(record)) + record


def _decoded(record: bytes) -> tuple[list[Readings], str | None]:
    replaced_by, listed = orjson.loads(record)
    blocks = [
        Readings(
            equipment_id,
            [names[place] for place in sensor_R],
            np.array(times_us, np.int64),
            np.array(values, np.float64),
        )
        for equipment_id, names, sensor_R, times_us, values in listed
    ]
    return blocks, replaced_by


def _record_at(path: Path, start: int) -> tuple[bytes, int] | None:
    """Return the record at a position of a file and where it ends; None after the last whole one.

    A crash may have cut off the last one. Another may be being written.
    """
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        length, checksum = _HEAD.unpack(head)
        record = file.read(length)
    if len(record) < length or zlib.crc32(record) != checksum:
        return None
    return record, start + _HEAD.size + length


def _remove(directory: Path) -> None:
    for name in (_RECORDS, _LOCK):
        (directory / name).unlink(missing_ok=True)
    directory.rmdir()


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
