"""Readings of one replica: ingest, replacement and deletion, and statistics for charts.

Whatever changes a machine's readings voids its cached responses on this replica.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from app.core.errors import InputError, ReadingError, StoreUnavailable, UnknownEquipment
from app.schemas.equipment import Equipment
from app.schemas.places import some_of
from app.schemas.reading_columns import ReadBody
from app.schemas.reading_formats import ReadingOptions
from app.schemas.readings import (
    MAX_LISTED_REJECTED,
    BinnedReadings,
    IngestAnswer,
    IntervalAnswer,
    ReadingChange,
    SensorBins,
)
from app.serving.http.bodies import Upload
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.ingest import Columns, Parsed, check_body, read_in_turns
from app.serving.ingress.ingest_worker import IngestWorker, ReadOrder
from app.serving.ingress.quotas import Quotas
from app.serving.ingress.spool import Spool
from app.serving.observability.metrics import Metrics
from app.store.readings import BinOfSensor, Ingested, Readings
from app.store.store import Store

logger = logging.getLogger(__name__)

MAX_IN_LOOP_BYTES = 256 * 1024
"""Of a body that is read on the event loop, in turns with others: some 2,500 lines, 25 ms."""
MAX_CHANGED = timedelta(days=31)
"""Longest interval of a replacement or deletion: it is one transaction."""
MAX_CHART_POINTS = 50_000
"""Most bins of all sensors together: each is a row of the database's answer."""
MAX_EXACT = timedelta(days=1)
"""Longest interval whose readings are read; of a longer one the grid is."""
MAX_GRID_BINS = 3_000_000
"""Most bins of the grid of one chart, 35 days at 1 s: reading them takes seconds."""
_MICROSECOND = timedelta(microseconds=1)


class ReadingService:
    """Stores, replaces and reads readings.

    Args:
        store: the database; may be away.
        registry: the machines.
        metrics: counts readings.
        quotas: of the installation.
        spool_directory: see `Spool`.
        now: UTC clock.
    """

    def __init__(
        self,
        store: Store,
        registry: EquipmentRegistry,
        metrics: Metrics,
        quotas: Quotas,
        spool_directory: Path,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._quotas = quotas
        self._now = now
        self._worker = IngestWorker()
        self._spool = Spool(spool_directory, self._store_spooled, metrics)

    def start(self) -> None:
        """Start to store what is spooled, in the running event loop."""
        self._spool.start()

    async def ingest(
        self,
        upload: Upload,
        options: ReadingOptions,
        replaced_by: str | None = None,
    ) -> IngestAnswer:
        """Store a body of readings; acknowledged readings are committed, or spooled to disk.

        Args:
            upload: body of the request.
            options: of the request.
            replaced_by: the name under which other stored values are replaced; None keeps them.
        """
        self._quotas.check_readings()
        began = time.perf_counter()
        parsed = await self._parse(upload, options)
        self._metrics.ingest_seconds.labels("parse").observe(time.perf_counter() - began)
        blocks = [_block(each, columns) for each, columns in parsed.columns.items()]
        began = time.perf_counter()
        stored = await self._stored(blocks, replaced_by) if blocks else Ingested(0, 0)
        result = stored or Ingested(0, 0)
        spooled = sum(len(block.sensor_ids) for block in blocks) if stored is None else 0
        if stored is not None and blocks:
            self._metrics.ingest_seconds.labels("store").observe(time.perf_counter() - began)
            now_us = self._now().timestamp() * 1e6
            for columns in parsed.columns.values():
                lag_s = max(0.0, now_us - max(columns.times_us)) / 1e6
                self._metrics.ingest_lag_seconds.observe(lag_s)
        self._metrics.ingest_readings.observe(
            parsed.rejected_count
            + sum(len(columns.times_us) for columns in parsed.columns.values())
        )
        for block in blocks:
            self._registry.note_change(block.equipment_id)
        for outcome, count in (
            ("accepted", result.accepted),
            ("duplicate", result.duplicates),
            ("conflict", len(result.conflicts)),
            ("replaced", result.replaced),
            ("spooled", spooled),
            ("rejected", parsed.rejected_count),
        ):
            self._metrics.readings.labels(outcome).inc(count)
        listed = parsed.rejected_count == len(parsed.rejected)
        return IngestAnswer(
            accepted=result.accepted,
            duplicates=result.duplicates,
            conflicts=len(result.conflicts),
            conflict_lines=_lines(result.conflicts, list(parsed.columns.values())),
            replaced=result.replaced,
            spooled=spooled,
            rejected=parsed.rejected,
            rejected_count=None if listed else parsed.rejected_count,
        )

    async def replace(
        self,
        equipment_id: str,
        interval: tuple[datetime, datetime],
        upload: Upload,
        ignore_columns: frozenset[str],
        actor: str,
    ) -> IntervalAnswer:
        """Replace a machine's readings of an interval by those of a body, all or nothing.

        Raises:
            ReadingError: a reading is rejected; nothing has changed.
            QuotaExceeded: as many readings as the quota are stored.
        """
        self._quotas.check_readings()
        await self._check_changed(equipment_id, interval)
        options = ReadingOptions(equipment_id, ignore_columns, interval)
        parsed = await self._parse(upload, options)
        if parsed.rejected:
            first = parsed.rejected[0]
            raise ReadingError(
                f"line {first.line}: {first.reason}; {parsed.rejected_count} in all are rejected, "
                "and nothing was replaced",
                first.field,
            )
        block = _block(equipment_id, parsed.columns.get(equipment_id, Columns.empty()))
        return await self._write_interval(block, interval, actor)

    async def delete(
        self, equipment_id: str, interval: tuple[datetime, datetime], actor: str
    ) -> IntervalAnswer:
        """Delete a machine's readings of an interval."""
        await self._check_changed(equipment_id, interval)
        return await self._write_interval(_block(equipment_id, Columns.empty()), interval, actor)

    async def changes(
        self, equipment_id: str, before: int | None, limit: int
    ) -> list[ReadingChange]:
        """Return recorded changes of a machine's readings, newest first.

        Args:
            equipment_id: of the machine, which may have been deleted.
            before: only changes with a smaller id; None for all.
            limit: most changes.
        """
        return await self._store.reading_changes(equipment_id, before, limit)

    async def binned(
        self,
        equipment_id: str,
        interval: tuple[datetime, datetime],
        sensor_ids: Sequence[str],
        bins: int,
    ) -> BinnedReadings:
        """Return statistics of sensors in bins of an interval.

        Args:
            equipment_id: of the machine.
            interval: [start, end).
            sensor_ids: of the machine; empty for all.
            bins: most bins.

        Raises:
            InputError: a sensor is unknown, or the answer or the interval is too large.
        """
        equipment = await self._registry.known_topology(equipment_id)
        units = {each.sensor.sensor_id: each.sensor.unit for each in equipment.sensors}
        unknown = [each for each in sensor_ids if each not in units]
        if unknown:
            raise InputError(
                f"expected sensors of '{equipment_id}', found {some_of(unknown)}: there are "
                f"{some_of(sorted(units))}",
                "sensors",
            )
        chosen = list(dict.fromkeys(sensor_ids)) or list(units)
        if bins * len(chosen) > MAX_CHART_POINTS:
            raise InputError(
                f"expected at most {MAX_CHART_POINTS} bins of all sensors together, found {bins} "
                f"of {len(chosen)} sensors: lower `bins` or name fewer `sensors`",
                "bins",
            )
        start, end = interval
        length = end - start
        longest = MAX_GRID_BINS * timedelta(microseconds=equipment.grid_us)
        if length > max(longest, MAX_EXACT):
            raise InputError(
                f"expected an interval of at most {longest // timedelta(days=1)} days for bins of "
                f"{equipment.grid_s:g} s, found {length // timedelta(days=1)} days: request it in "
                "parts",
                "end",
            )
        width = -(-(length // _MICROSECOND) // bins) * _MICROSECOND
        count = -(-length // width)
        of_grid = length > MAX_EXACT
        rows = await self._store.bin_readings(
            equipment_id, chosen, interval, width, of_grid=of_grid
        )
        made = {each: _empty_bins(each, units[each], count) for each in chosen}
        for row in rows:
            _fill(made[row.sensor_id], (row.start - start) // width, row)
        return BinnedReadings(
            equipment_id=equipment_id,
            start=start,
            end=end,
            bin_s=width / timedelta(seconds=1),
            bins=count,
            source="grid" if of_grid else "readings",
            sensors=list(made.values()),
        )

    async def _check_changed(self, equipment_id: str, interval: tuple[datetime, datetime]) -> None:
        await self._registry.topology(equipment_id)
        start, end = interval
        if end - start > MAX_CHANGED:
            raise InputError(
                f"expected an interval of at most {MAX_CHANGED.days} days, found "
                f"{(end - start) // timedelta(days=1)}: change it in parts",
                "end",
            )

    async def _write_interval(
        self, block: Readings, interval: tuple[datetime, datetime], actor: str
    ) -> IntervalAnswer:
        result = await self._store.replace_interval(block, *interval, actor)
        self._registry.note_change(block.equipment_id)
        return IntervalAnswer(removed=result.removed, written=result.written)

    async def _parse(self, upload: Upload, options: ReadingOptions) -> Parsed:
        """Read a body, a large or a compressed one in a process of its own, and check it."""
        read = await self._read(upload, options)
        return await check_body(read, self._find, self._now(), options)

    async def _read(self, upload: Upload, options: ReadingOptions) -> ReadBody:
        first = bytearray()
        async for part in upload.parts:
            first += part
            if upload.encoding or len(first) > MAX_IN_LOOP_BYTES:
                break
        else:
            return await read_in_turns(bytes(first), upload.content_type, options)

        async def parts() -> AsyncIterator[bytes]:
            yield bytes(first)
            async for part in upload.parts:
                yield part

        order = ReadOrder(upload.content_type, upload.encoding, upload.limit, options)
        return await self._worker.read(parts(), order)

    @property
    def is_alive(self) -> bool:
        """Whether its background work has not ended by itself."""
        return self._spool.is_alive

    async def close(self) -> None:
        """End the process that reads large bodies; what is spooled stays on the disk."""
        await self._worker.close()
        await self._spool.close()

    async def _stored(self, blocks: Sequence[Readings], replaced_by: str | None) -> Ingested | None:
        """Store readings; None if they are spooled instead, since the database is away."""
        if not self._spool.is_waiting:
            try:
                return await self._store.ingest_many(blocks, replaced_by=replaced_by)
            except StoreUnavailable as error:
                logger.warning("readings spooled", extra={"reason": error.message})
        await self._spool.put(blocks, replaced_by)
        return None

    async def _store_spooled(self, blocks: Sequence[Readings], replaced_by: str | None) -> None:
        await self._store.ingest_many(blocks, replaced_by=replaced_by)
        for block in blocks:
            self._registry.note_change(block.equipment_id)

    async def _find(self, equipment_id: str) -> Equipment | UnknownEquipment:
        try:
            return await self._registry.topology(equipment_id)
        except UnknownEquipment as error:
            return error


def _block(equipment_id: str, columns: Columns) -> Readings:
    return Readings(equipment_id, columns.sensor_ids, columns.times_us, columns.values)


def _lines(positions: Sequence[int], blocks: Sequence[Columns]) -> list[int]:
    """Return the first lines of readings by their positions over all blocks."""
    found: list[int] = []
    begin, index = 0, 0
    for columns in blocks:
        end = begin + len(columns.lines)
        while index < len(positions) and positions[index] < end:
            found.append(int(columns.lines[positions[index] - begin]))
            index += 1
        begin = end
    return sorted(found)[:MAX_LISTED_REJECTED]


def _empty_bins(sensor_id: str, unit: str, count: int) -> SensorBins:
    return SensorBins(
        sensor_id=sensor_id,
        unit=unit,
        mean=[None] * count,
        min=[None] * count,
        max=[None] * count,
        count=[0] * count,
    )


def _fill(bins: SensorBins, index: int, row: BinOfSensor) -> None:
    bins.mean[index] = row.mean
    bins.min[index] = row.least
    bins.max[index] = row.largest
    bins.count[index] = row.readings
