"""Writes readings and updates the grid.

Invariant: after every call the bins that it touched equal the means of all their readings, whether
these came late, out of order, repeatedly or concurrently; the first value written for a sensor and
time is kept.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.core.errors import ReadingError, UnknownEquipment
from app.store.partitions import Repository, months_of
from app.store.pool import first_value

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
"""Readings outside [EARLIEST, LATEST) are refused: a wrong unit of time makes many partitions."""

CHUNK = 50_000
"""Most readings of one transaction."""

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
    """How many readings were new, and how many were stored already."""

    accepted: int
    duplicates: int


class _Columns(NamedTuple):
    series: list[tuple[str, str]]
    series_R: NDArray[np.int64]
    times_us_R: NDArray[np.int64]
    values_R: NDArray[np.float64]

    def sensor_of(self, reading: int) -> str:
        """Return the sensor id of a reading."""
        return self.series[int(self.series_R[reading])][1]


class ReadingRepository(Repository):
    """Readings of equipment."""

    async def ingest(
        self, equipment_id: str, sensor_ids: Sequence[str], times_us: ArrayLike, values: ArrayLike
    ) -> Ingested:
        """Write readings of one equipment; see `ingest_many`."""
        return await self.ingest_many([Readings(equipment_id, sensor_ids, times_us, values)])

    async def ingest_many(self, blocks: Sequence[Readings]) -> Ingested:
        """Write readings of several equipment; when it returns, they are committed.

        It may be repeated: stored readings count as duplicates. Up to `CHUNK` readings are one
        transaction.

        Raises:
            ReadingError: lengths differ, a value is not finite as float32, a time is out of range,
                or a sensor is not the equipment's; nothing is written.
            UnknownEquipment: an equipment is not registered; nothing is written.
            StoreUnavailable: the database can't be reached; earlier chunks may be written.
        """
        columns = _in_key_order(_checked(blocks))
        accepted = 0
        for start in range(0, len(columns.times_us_R), CHUNK):
            accepted += await self._write(columns, slice(start, start + CHUNK))
        given = sum(len(block.sensor_ids) for block in blocks)
        return Ingested(accepted, given - accepted)

    async def _write(self, columns: _Columns, chunk: slice) -> int:
        times_us_R = columns.times_us_R[chunk]
        used, series_R = np.unique(columns.series_R[chunk], return_inverse=True)
        series = [columns.series[index] for index in used.tolist()]
        equipment_ids = [equipment_id for equipment_id, _ in series]
        sensor_ids = [sensor_id for _, sensor_id in series]
        accepted: int | None = first_value(
            await self._partitions.write(
                months_of(times_us_R),
                lambda: self._database.fetch(
                    "ingest_readings",
                    equipment_ids,
                    sensor_ids,
                    (series_R + 1).tolist(),
                    times_us_R.tolist(),
                    columns.values_R[chunk].tolist(),
                ),
            )
        )
        if accepted is None:
            unknown = (await self._database.fetch("unknown_series", equipment_ids, sensor_ids))[0]
            if not unknown["has_equipment"]:
                raise UnknownEquipment(unknown["equipment_id"])
            raise ReadingError(
                f"expected a sensor of '{unknown['equipment_id']}', found "
                f"'{unknown['sensor_id']}': add it to the topology, or correct the id",
                "sensor_id",
            )
        return accepted


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


def _in_key_order(columns: _Columns) -> _Columns:
    # stable: of equal keys the first is kept; in the order of the table's key, so that the rows and
    # bins of a chunk are adjacent
    order_R = np.lexsort((columns.series_R, columns.times_us_R))
    series_R, times_us_R = columns.series_R[order_R], columns.times_us_R[order_R]
    first_R = np.ones(len(order_R), np.bool_)
    first_R[1:] = (series_R[1:] != series_R[:-1]) | (times_us_R[1:] != times_us_R[:-1])
    return _Columns(
        columns.series, series_R[first_R], times_us_R[first_R], columns.values_R[order_R][first_R]
    )
