"""Reads windows of the grid as undecoded bytes, and decodes them where they are needed.

The server puts the bins of a window together into two byte strings, which travel as they are; decoding is one view and
one gather of numpy, in whichever process wants the numbers.
Invariant: a decoded value is the float32 of the grid, bit for bit; NaN where there is no reading.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.core.errors import UnknownEquipment, WindowError
from app.schemas.equipment import Equipment
from app.store.pool import Database

CHUNK_BINS = 50_000

_POSTGRES_EPOCH_US = 946_684_800_000_000
_HEAD_WORDS = 5
_WIDTH_WORD = 3

Floats = NDArray[np.float32]


class StoredWindow(NamedTuple):
    """A window as the database gave it.

    Args:
        equipment_id: whose it is.
        first: number of its first bin since 1970-01-01T00:00Z.
        bins: how many bins it has.
        grid_us: width of a bin in microseconds; 0 when the equipment is not registered.
        slot_sensors: sensors in the order of the stored arrays.
        times: starts of the bins that have readings, int64 big-endian microseconds since 2000-01-01, in any order.
        values: their arrays in PostgreSQL's binary form, in the same order.
        newest: time of the window's newest reading; None when it has none.
        revision: of the equipment's topology when the window was read; empty when it is not registered.
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

    @property
    def count(self) -> int:  # type: ignore[override]
        """Bins that have readings."""
        return len(self.times) // 8


class DataRange(NamedTuple):
    """First bin of an equipment that has readings, and the one after the last."""

    first: int
    end: int


async def read_windows(
    database: Database, asked: Sequence[tuple[str, int, int]]
) -> list[StoredWindow]:
    """Read windows of any number of equipment in one statement.

    Args:
        database: migrated.
        asked: equipment id, first bin since 1970-01-01T00:00Z and number of bins of each window.

    Returns:
        A window for each, in the order asked; one of an unknown equipment has no bins.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    rows = await database.fetch(
        "read_windows",
        [window[0] for window in asked],
        [window[1] for window in asked],
        [window[2] for window in asked],
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
        )
        for window, row in zip(asked, rows, strict=True)
    ]


async def data_range(database: Database, equipment_id: str) -> DataRange | None:
    """Return the bins from the first to the last reading of an equipment; None when it has none.

    Raises:
        UnknownEquipment: it is not registered.
        StoreUnavailable: the database can't be reached.
    """
    rows = await database.fetch("data_range", equipment_id)
    if not rows:
        raise UnknownEquipment(equipment_id)
    found = rows[0]
    if found["first_us"] is None:
        return None
    return DataRange(
        found["first_us"] // found["grid_us"], found["last_us"] // found["grid_us"] + 1
    )


async def filled_windows(database: Database, asked: Sequence[tuple[str, int, int]]) -> list[bool]:
    """Tell which windows hold any reading, without reading them.

    Args:
        database: migrated.
        asked: equipment id, first bin since 1970-01-01T00:00Z and number of bins of each window.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    columns = [list(column) for column in zip(*asked, strict=True)] or [[], [], []]
    return [row["filled"] for row in await database.fetch("filled_windows", *columns)]


async def grid_digests(database: Database, asked: Sequence[tuple[str, int, int]]) -> list[str]:
    """Return for each interval a text that is another one when any of its bins is.

    Args:
        database: migrated.
        asked: equipment id, start and end of each interval in microseconds since 1970-01-01T00:00Z.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    columns = [list(column) for column in zip(*asked, strict=True)] or [[], [], []]
    return [f"{row['bins']}:{row['sum']}" for row in await database.fetch("grid_digests", *columns)]


async def read_history(
    database: Database, equipment: Equipment, first: int, end: int, chunk_bins: int = CHUNK_BINS
) -> AsyncIterator[tuple[int, Floats]]:
    """Read the bins [first, end) of an equipment piece by piece, for training.

    Args:
        database: migrated.
        equipment: registered.
        first: first bin since 1970-01-01T00:00Z.
        end: the bin after the last.
        chunk_bins: most bins of a piece.

    Yields:
        A piece's first bin and its values [S, N] in the order of `Equipment.sensors`, NaN where there is no reading.
        Pieces without any reading are left out.

    Raises:
        WindowError: the stored grid is another than the topology's.
        StoreUnavailable: the database can't be reached.
    """
    for start in range(first, end, chunk_bins):
        asked = (equipment.equipment_id, start, min(chunk_bins, end - start))
        window = (await read_windows(database, [asked]))[0]
        if window.count:
            yield start, decode_window(window, equipment)


def decode_window(window: StoredWindow, equipment: Equipment) -> Floats:
    """Decode a window.

    Args:
        window: as `read_windows` gave it.
        equipment: whose it is, or another one of the same sensors and grid.

    Returns:
        [S, N] means in the order of `Equipment.sensors`, NaN where there is no reading.

    Raises:
        WindowError: the window was stored for another grid than the topology's.
    """
    if window.count and window.grid_us != equipment.grid_us:
        raise WindowError(
            f"expected bins of {equipment.grid_us} us for '{window.equipment_id}', found {window.grid_us} us: its "
            "topology was changed meanwhile; ask again"
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
        # An element is its length, always 4 bytes, and its value.
        columns = _HEAD_WORDS + 1 + 2 * slots_S[stored]
        values_SN[stored[:, None], bins_R[start : start + len(rows_RW)]] = rows_RW[
            :, columns
        ].T.view(">f4")
        start += len(rows_RW)
        words = words[rows_RW.size :]
    return values_SN


@lru_cache(maxsize=1_000)
def _slots(slot_sensors: tuple[str, ...], sensor_ids: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the place of each sensor in the stored arrays, -1 where it has none; not to be written to."""
    slots = {sensor_id: slot for slot, sensor_id in enumerate(slot_sensors)}
    return np.array([slots.get(sensor_id, -1) for sensor_id in sensor_ids], np.int64)


def _rows_of_width(words: NDArray[np.uint32], width: int, most: int) -> NDArray[np.uint32]:
    # Arrays written before a sensor was added are narrower; rows of one width lie together, mostly all of them.
    stride = _HEAD_WORDS + 2 * width
    rows_RW = words[: min(most, len(words) // stride) * stride].reshape(-1, stride)
    other = np.flatnonzero(rows_RW[:, _WIDTH_WORD] != width)
    return rows_RW[: other[0]] if other.size else rows_RW
