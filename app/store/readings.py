"""Writes readings and updates the grid.

Invariant: after every call the bins that it touched equal the means of all their readings, whether
these came late, out of order, repeatedly or concurrently. The first value written for a sensor and
time is kept, unless a caller replaces it under a name, which is recorded.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.core.errors import ReadingError, UnknownEquipment
from app.schemas.readings import ReadingAction, ReadingChange
from app.store.partitions import Repository, months_of
from app.store.statements import queries

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
"""Readings outside [EARLIEST, LATEST) are refused: a wrong unit of time makes many partitions."""

CHUNK = 50_000
"""Most readings of one transaction. More are sorted in a thread: that takes a tenth of a second."""

_LARGEST = float(np.finfo(np.float32).max)
_EARLIEST_US = int(EARLIEST.timestamp()) * 1_000_000
_LATEST_US = int(LATEST.timestamp()) * 1_000_000


class Readings(NamedTuple):
    """R readings of one equipment, in any order.

    Args:
        equipment_id: registered.
        sensor_ids: [R] sensor of each reading.
        times_us: [R] microseconds since 1970-01-01T00:00Z.
        values: [R] in the sensor's unit, finite as float32.
    """

    equipment_id: str
    sensor_ids: Sequence[str]
    times_us: ArrayLike
    values: ArrayLike


class Ingested(NamedTuple):
    """What became of the readings; each counts once.

    Args:
        accepted: new.
        duplicates: stored already with this value.
        conflicts: positions, over all blocks and in order, of those whose sensor and time has
            another value, which was kept.
        replaced: stored in place of another value.
    """

    accepted: int
    duplicates: int
    conflicts: tuple[int, ...] = ()
    replaced: int = 0


class BinOfSensor(NamedTuple):
    """Statistics of one sensor's readings in the bin that begins at `start`."""

    sensor_id: str
    start: datetime
    mean: float
    least: float
    largest: float
    readings: int


class Replaced(NamedTuple):
    """How many readings were in an interval before, and how many are in it now."""

    removed: int
    written: int


class _Columns(NamedTuple):
    series: list[tuple[str, str]]
    series_R: NDArray[np.int64]
    times_us_R: NDArray[np.int64]
    values_R: NDArray[np.float64]

    def sensor_of(self, reading: int) -> str:
        """Return the sensor id of a reading."""
        return self.series[int(self.series_R[reading])][1]


class _Ordered(NamedTuple):
    """Readings in the order of the table's key, one of each key.

    Args:
        columns: of the U readings to write.
        order_R: where each of all readings was given, in the order of the key.
        kept_R: index in `columns` of the reading of the same key.
        values_R: in the order of the key.
    """

    columns: _Columns
    order_R: NDArray[np.int64]
    kept_R: NDArray[np.int64]
    values_R: NDArray[np.float64]

    def differing(self, stored_U: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the positions of the given readings whose value is not the stored one."""
        return np.sort(self.order_R[self.values_R != stored_U[self.kept_R]])


class ReadingRepository(Repository):
    """Readings of equipment."""

    async def ingest(
        self, equipment_id: str, sensor_ids: Sequence[str], times_us: ArrayLike, values: ArrayLike
    ) -> Ingested:
        """Write readings of one equipment; see `ingest_many`."""
        return await self.ingest_many([Readings(equipment_id, sensor_ids, times_us, values)])

    async def ingest_many(
        self, blocks: Sequence[Readings], *, replaced_by: str | None = None
    ) -> Ingested:
        """Write readings of several equipment; when it returns, they are committed.

        It may be repeated: stored readings count as duplicates. Up to `CHUNK` readings are one
        transaction.

        Args:
            blocks: the readings.
            replaced_by: the name under which other stored values are replaced, and earlier ones of
                the same key in `blocks`; None keeps the first value.

        Raises:
            ReadingError: lengths differ, a value is not finite as float32, a time is out of range,
                or a sensor is not the equipment's; nothing is written.
            UnknownEquipment: an equipment is not registered; nothing is written.
            StoreUnavailable: the database can't be reached; earlier chunks may be written.
        """
        given = sum(len(block.sensor_ids) for block in blocks)
        if given > CHUNK:
            ordered = await asyncio.to_thread(_ordered, blocks, last_wins=replaced_by is not None)
        else:
            ordered = _ordered(blocks, last_wins=replaced_by is not None)
        columns = ordered.columns
        stored_U = columns.values_R.copy()
        accepted = replaced = 0
        for start in range(0, len(stored_U), CHUNK):
            chunk = slice(start, start + CHUNK)
            rows = await self._partitions.write(
                months_of(columns.times_us_R[chunk]),
                lambda chunk=chunk: self._database.fetch(  # type: ignore[misc]
                    "write_readings", *_parameters(columns, chunk), replaced_by
                ),
            )
            if not rows:
                raise await self._unknown_series(columns, chunk)
            accepted += rows[0]["accepted"]
            if replaced_by is None:
                numbers = np.asarray(rows[0]["conflicting"], np.int64)
                stored_U[start + numbers - 1] = rows[0]["stored"]
            else:
                replaced += len(rows[0]["conflicting"])
        differing = ordered.differing(stored_U)
        if replaced_by is not None:
            replaced += len(differing)
            return Ingested(accepted, given - accepted - replaced, replaced=replaced)
        return Ingested(accepted, given - accepted - len(differing), tuple(differing.tolist()))

    async def replace_interval(
        self, block: Readings, start: datetime, end: datetime, actor: str
    ) -> Replaced:
        """Replace all readings of an equipment in [start, end) in one transaction, and record it.

        Other writers to the equipment wait meanwhile.

        Args:
            block: the new readings, all of the interval; none deletes the interval.
            start: timezone-aware.
            end: timezone-aware.
            actor: who does it.

        Raises:
            ReadingError: as `ingest_many`, or a sensor and time has two values.
            UnknownEquipment: the equipment is not registered.
        """
        ordered = await asyncio.to_thread(_ordered, [block], last_wins=False)
        columns, written = ordered.columns, len(ordered.columns.values_R)
        differing = ordered.differing(columns.values_R)
        if differing.size:
            place = int(differing[0])
            raise ReadingError(
                f"expected one value for each sensor and time, found two of sensor "
                f"'{block.sensor_ids[place]}': leave one out",
                "value",
            )
        action: ReadingAction = "replace_interval" if written else "delete_interval"
        named = queries()

        async def replace() -> Replaced:
            async with self._database.patient_session() as session, session.transaction():
                removed = await session.fetchval(
                    named["clear_readings"], block.equipment_id, start, end
                )
                if removed is None:
                    raise UnknownEquipment(block.equipment_id)
                for first in range(0, written, CHUNK):
                    chunk = slice(first, first + CHUNK)
                    rows = await session.fetch(
                        named["write_readings"], *_parameters(columns, chunk), None
                    )
                    if not rows:
                        raise await self._unknown_series(columns, chunk)
                await session.execute(
                    named["record_change"],
                    actor,
                    action,
                    block.equipment_id,
                    start,
                    end,
                    removed,
                    written,
                )
            return Replaced(removed, written)

        return await self._partitions.write(months_of(columns.times_us_R), replace)

    async def reading_changes(
        self, equipment_id: str, before: int | None, limit: int
    ) -> list[ReadingChange]:
        """Return recorded changes of an equipment's readings, newest first.

        Args:
            equipment_id: of the equipment.
            before: only changes with a smaller id; None for all.
            limit: most changes.
        """
        rows = await self._database.fetch("reading_changes", equipment_id, before, limit)
        return [ReadingChange(**row) for row in rows]

    async def bin_readings(
        self,
        equipment_id: str,
        sensor_ids: Sequence[str],
        interval: tuple[datetime, datetime],
        width: timedelta,
        *,
        of_grid: bool,
    ) -> list[BinOfSensor]:
        """Return statistics of sensors in bins that have readings, in any order.

        Args:
            equipment_id: of the equipment.
            sensor_ids: of its sensors.
            interval: [start, end); the first bin begins at its start.
            width: of a bin.
            of_grid: take the means of the grid instead of the readings.
        """
        arguments = (equipment_id, *interval, list(sensor_ids), width)
        rows = (
            await self._database.fetch("bin_grid", *arguments)
            if of_grid
            else await self._database.fetch("bin_readings", *arguments)
        )
        return [BinOfSensor(*row) for row in rows]

    async def _unknown_series(
        self, columns: _Columns, chunk: slice
    ) -> UnknownEquipment | ReadingError:
        equipment_ids, sensor_ids, *_ = _parameters(columns, chunk)
        unknown = (await self._database.fetch("unknown_series", equipment_ids, sensor_ids))[0]
        if not unknown["has_equipment"]:
            return UnknownEquipment(unknown["equipment_id"])
        return ReadingError(
            f"expected a sensor of '{unknown['equipment_id']}', found "
            f"'{unknown['sensor_id']}': add it to the topology, or correct the id",
            "sensor_id",
        )


def _parameters(columns: _Columns, chunk: slice) -> tuple[list[object], ...]:
    used, series_R = np.unique(columns.series_R[chunk], return_inverse=True)
    series = [columns.series[index] for index in used.tolist()]
    return (
        [equipment_id for equipment_id, _ in series],
        [sensor_id for _, sensor_id in series],
        (series_R + 1).tolist(),
        columns.times_us_R[chunk].tolist(),
        columns.values_R[chunk].tolist(),
    )


def _checked(readings: Sequence[Readings]) -> _Columns:
    series: dict[tuple[str, str], int] = {}
    series_R, times_us_R, values_R = [], [], []
    for block in readings:
        places = {
            sensor_id: series.setdefault((block.equipment_id, sensor_id), len(series))
            for sensor_id in dict.fromkeys(block.sensor_ids)
        }
        series_R.append(
            np.fromiter(map(places.__getitem__, block.sensor_ids), np.int64, len(block.sensor_ids))
        )
        times_us_R.append(np.asarray(block.times_us, np.int64))
        values_R.append(np.asarray(block.values, np.float64))
        if not series_R[-1].shape == times_us_R[-1].shape == values_R[-1].shape:
            raise ReadingError(
                f"expected as many times and values as sensor ids ({len(block.sensor_ids)}), found "
                f"{times_us_R[-1].shape} and {values_R[-1].shape}: give one of each per reading"
            )
    empty = np.zeros(0, np.int64)
    columns = _Columns(
        list(series),
        np.concatenate([empty, *series_R]),
        np.concatenate([empty, *times_us_R]),
        np.concatenate([empty.astype(np.float64), *values_R]),
    )
    # written so that NaN fails too
    bad = np.flatnonzero(~(np.abs(columns.values_R) <= _LARGEST))
    if bad.size:
        raise ReadingError(
            f"expected finite values within ±{_LARGEST:.4g}, found {columns.values_R[bad[0]]} of "
            f"sensor '{columns.sensor_of(bad[0])}': leave missing values out",
            "value",
        )
    bad = np.flatnonzero((columns.times_us_R < _EARLIEST_US) | (columns.times_us_R >= _LATEST_US))
    if bad.size:
        raise ReadingError(
            f"expected times from {EARLIEST.isoformat()} to before {LATEST.isoformat()}, found "
            f"{columns.times_us_R[bad[0]]} us since 1970 for sensor "
            f"'{columns.sensor_of(bad[0])}': check the unit of time",
            "time",
        )
    return columns


def _ordered(blocks: Sequence[Readings], *, last_wins: bool) -> _Ordered:
    # in the order of the table's key, so that the rows and bins of a chunk are adjacent
    columns = _checked(blocks)
    order_R = np.lexsort((columns.series_R, columns.times_us_R))  # stable
    series_R, times_us_R = columns.series_R[order_R], columns.times_us_R[order_R]
    values_R = columns.values_R[order_R]
    first_R = np.ones(len(order_R), np.bool_)
    first_R[1:] = (series_R[1:] != series_R[:-1]) | (times_us_R[1:] != times_us_R[:-1])
    kept_U = np.flatnonzero(np.roll(first_R, -1) if last_wins else first_R)
    return _Ordered(
        _Columns(columns.series, series_R[kept_U], times_us_R[kept_U], values_R[kept_U]),
        order_R,
        np.cumsum(first_R) - 1,
        values_R,
    )
