"""Reads windows of the grid as undecoded bytes, and decodes them where they are needed.

The server concatenates the bins of a window into two byte strings. Decoding them is one view and
one gather in numpy, in the process that needs the numbers.
Shapes: S sensors, N bins of a window, R stored rows, W words of a row.
Invariant: a decoded value is bitwise the float32 of the grid; NaN where there is no reading.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.core.errors import UnknownEquipment, WindowError
from app.schemas.equipment import Equipment
from app.store.caller import current_caller
from app.store.partitions import Repository
from app.store.statements import columns_of

_POSTGRES_EPOCH_US = 946_684_800_000_000
_HEAD_WORDS = 5
_WIDTH_WORD = 3

Floats = NDArray[np.float32]
Interval = tuple[str, int, int]
"""Equipment id, and an interval of it, as each method says."""


class StoredWindow(NamedTuple):
    """A window as the database returned it.

    Args:
        equipment_id: of the machine.
        first: number of its first bin since 1970-01-01T00:00Z.
        bins: number of its bins.
        grid_us: width of a bin, microseconds; 0 when the equipment is not registered.
        slot_sensors: sensors in the order of the stored arrays.
        times: starts of the bins that have readings, int64 big-endian microseconds since
            2000-01-01, in any order.
        values: their arrays in PostgreSQL's binary format, in the same order.
        newest: time of the window's newest reading; None without readings.
        revision: of the topology at the time of reading; empty when it is not registered.
        baseline_id: of the machine's baseline at that time; empty without one.
    """

    equipment_id: str
    first: int
    bins: int
    grid_us: int
    slot_sensors: tuple[str, ...]
    times: bytes
    values: bytes
    newest: datetime | None
    revision: str = ""
    baseline_id: str = ""

    @property
    def count(self) -> int:  # type: ignore[override]
        """Number of bins that have readings."""
        return len(self.times) // 8


class DataRange(NamedTuple):
    """The first bin of an equipment that has readings, and the bin after the last."""

    first: int
    end: int


class WindowRepository(Repository):
    """Windows of the grid."""

    async def read_windows(self, windows: Sequence[Interval]) -> list[StoredWindow]:
        """Read windows of any number of equipment in one statement.

        Args:
            windows: equipment id, first bin since 1970-01-01T00:00Z and number of bins of each.

        Returns:
            The windows in the same order; one of an unregistered equipment has no bins.
        """
        rows = await self._database.fetch(
            "read_windows", current_caller().setting, *columns_of(windows, 3), is_claimed=True
        )
        return [
            StoredWindow(
                *window,
                grid_us=row["grid_us"] or 0,
                slot_sensors=tuple(row["slot_sensors"]),
                times=row["times"] or b"",
                values=row["vals"] or b"",
                newest=row["newest"],
                revision=row["revision"] or "",
                baseline_id=row["baseline_id"] or "",
            )
            for window, row in zip(windows, rows, strict=True)
        ]

    async def data_range(self, equipment_id: str) -> DataRange | None:
        """Return the bins from the first to the last reading of an equipment; None without any.

        Raises:
            UnknownEquipment: the equipment is not registered.
        """
        rows = await self._database.fetch("data_range", equipment_id)
        if not rows:
            raise UnknownEquipment(equipment_id)
        first_us, last_us, grid_us = rows[0]
        return None if first_us is None else DataRange(first_us // grid_us, last_us // grid_us + 1)

    async def filled_windows(self, windows: Sequence[Interval]) -> list[bool]:
        """Return for each window whether it has any reading.

        Args:
            windows: as for `read_windows`.
        """
        rows = await self._database.fetch("filled_windows", *columns_of(windows, 3))
        return [row["filled"] for row in rows]

    async def grid_digests(self, intervals: Sequence[Interval]) -> list[str]:
        """Return for each interval a text that changes when any of its bins changes.

        Args:
            intervals: equipment id, start and end in microseconds since 1970-01-01T00:00Z.
        """
        rows = await self._database.fetch("grid_digests", *columns_of(intervals, 3))
        return [f"{row['bins']}:{row['sum']}" for row in rows]


def decode_window(window: StoredWindow, equipment: Equipment) -> Floats:
    """Decode a window.

    Args:
        window: from `read_windows`.
        equipment: the machine, or another one with the same sensors and grid.

    Returns:
        [S, N] means in the order of `Equipment.sensors`, NaN where there is no reading.

    Raises:
        WindowError: the stored grid differs from the topology's.
    """
    if window.count and window.grid_us != equipment.grid_us:
        raise WindowError(
            f"expected bins of {equipment.grid_us} us for '{window.equipment_id}', found "
            f"{window.grid_us} us: its topology has just changed; repeat the request"
        )
    slots_S = _slots(window.slot_sensors, equipment.sensor_ids)
    values_SN = np.full((len(slots_S), window.bins), np.nan, np.float32)
    if not window.count:
        return values_SN
    times_us_R = np.frombuffer(window.times, ">i8").astype(np.int64) + _POSTGRES_EPOCH_US
    bins_R = times_us_R // window.grid_us - window.first
    words = np.frombuffer(window.values, ">u4")
    start = 0
    while start < len(bins_R):
        width = int(words[_WIDTH_WORD])
        rows_RW = _rows_of_width(words, width, len(bins_R) - start)
        stored = np.flatnonzero((slots_S >= 0) & (slots_S < width))
        # an element is its length, always 4 bytes, and its value
        columns = _HEAD_WORDS + 1 + 2 * slots_S[stored]
        found_SR = rows_RW[:, columns].T.view(">f4")
        values_SN[stored[:, None], bins_R[start : start + len(rows_RW)]] = found_SR
        start += len(rows_RW)
        words = words[rows_RW.size :]
    return values_SN


@lru_cache(maxsize=1_000)
def _slots(slot_sensors: tuple[str, ...], sensor_ids: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the index of each sensor in the stored arrays, -1 where it has none; read-only."""
    slots = {sensor_id: slot for slot, sensor_id in enumerate(slot_sensors)}
    return np.array([slots.get(sensor_id, -1) for sensor_id in sensor_ids], np.int64)


def _rows_of_width(words: NDArray[np.uint32], width: int, most: int) -> NDArray[np.uint32]:
    # arrays written before a sensor was added are narrower; rows of one width are adjacent
    stride = _HEAD_WORDS + 2 * width
    rows_RW = words[: min(most, len(words) // stride) * stride].reshape(-1, stride)
    other = np.flatnonzero(rows_RW[:, _WIDTH_WORD] != width)
    return rows_RW[: other[0]] if other.size else rows_RW
