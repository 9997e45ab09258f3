"""Reads files of readings in parts of bounded memory: CSV and Parquet, long or wide.

Long files have the columns equipment_id (or one machine for the whole file), sensor_id, time and
value; wide files have time and a column for each sensor. In CSV each reading is one line. A part
is converted as a whole by pyarrow; a part with a bad line is read again line by line, so that every
rejected line has its reason.
"""

import contextlib
import csv
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from app.cli.reading_parts import Encoded, Part, Rejected, Rejects, encoded
from app.core.errors import InputError
from app.schemas.reading_csv import MISSING, number_in
from app.store.readings import Readings

LONG = ("sensor_id", "time", "value")
EQUIPMENT, TIME = "equipment_id", "time"
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST_AHEAD = timedelta(minutes=5)
PART_BYTES = 4 << 20
PART_VALUES = 100_000
"""About the readings of a part."""
_LARGEST = float(np.finfo(np.float32).max)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = pa.timestamp("us", "UTC")
_DELIMITERS = ",;\t"

Sensors = Callable[[str], frozenset[str] | None]
"""Returns the sensors of a registered machine, None for one that is not registered."""


class ReadingFile:
    """A file of readings.

    Args:
        path: ends in .parquet, else it is CSV with a header line.
        equipment_id: of all readings; None if a column has it.
        ignored: columns that are left out.
        sensors_of: looks up a machine.
        now: readings more than 5 minutes later are rejected.

    Raises:
        InputError: the file can't be read, or its columns are not those of readings.
    """

    def __init__(
        self,
        path: Path,
        equipment_id: str | None,
        ignored: Sequence[str],
        sensors_of: Sensors,
        now: datetime,
    ) -> None:
        self.path = path
        self._equipment_id = equipment_id
        self._sensors_of = sensors_of
        self._latest_us = (now + LATEST_AHEAD - _EPOCH) // timedelta(microseconds=1)
        self._earliest_us = (EARLIEST - _EPOCH) // timedelta(microseconds=1)
        self._parquet: Any = None
        self._delimiter, self._first = ",", 0
        try:
            if path.suffix == ".parquet":
                self._parquet = pa.parquet.ParquetFile(path)
                self._columns = list(self._parquet.schema_arrow.names)
                self.size = self._parquet.metadata.num_rows
            else:
                self._columns = self._read_header()
                self.size = path.stat().st_size
        except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise InputError(
                f"expected a CSV file with a header, or a Parquet file, at '{path}', found none "
                "that can be read: decompress it, or save it as CSV in UTF-8",
                str(path),
            ) from error
        self._used = [name for name in self._columns if name not in ignored]
        self._is_long = set(LONG) <= set(self._used)
        self._check_columns(ignored)

    def _read_header(self) -> list[str]:
        with self.path.open("rb") as file:
            line = file.readline(1 << 20)
            self._first = file.tell()
        text = line.decode("utf-8-sig").strip()
        self._delimiter = max(_DELIMITERS, key=text.count)
        cells = next(csv.reader([text], delimiter=self._delimiter), [])
        given = [name.strip() for name in cells]
        names = [_CANONICAL.get(name.lower(), name) for name in given]
        # a sensor may have the name of a column of long files
        is_long = set(LONG) <= set(names)
        return [
            name if is_long or name in (EQUIPMENT, TIME) else old
            for name, old in zip(names, given, strict=True)
        ]

    def _check_columns(self, ignored: Sequence[str]) -> None:
        where = self.path.name
        absent = [name for name in ignored if name not in self._columns]
        if absent:
            raise InputError(f"{where}: expected the ignored columns, found no {', '.join(absent)}")
        if twice := sorted({name for name in self._used if self._used.count(name) > 1}):
            raise InputError(
                f"{where}: expected each column once, found {', '.join(twice)} twice: "
                "leave one of them out of the file"
            )
        if TIME not in self._used:
            raise InputError(
                f"{where}: expected the columns equipment_id, sensor_id, time, value, or time and "
                f"one for each sensor, found {', '.join(self._used) or 'none'}"
            )
        has_column = EQUIPMENT in self._used
        if has_column == (self._equipment_id is not None):
            found = "both" if has_column else "neither"
            raise InputError(
                f"{where}: expected a column equipment_id or --equipment, found {found}: "
                + ("leave --equipment out" if has_column else "name the machine with --equipment")
            )
        if self._equipment_id is not None and self._sensors_of(self._equipment_id) is None:
            raise InputError(
                f"expected a registered machine, found '{self._equipment_id}': register it with "
                "`hydraulic equipment register`"
            )
        if self._is_long:
            extra = set(self._used) - {*LONG, EQUIPMENT}
        elif self._equipment_id is None:
            raise InputError(
                f"{where}: expected --equipment for a file with a column for each sensor, found "
                "a column equipment_id: split the file by machine"
            )
        else:
            extra = set(self._used) - {TIME} - (self._sensors_of(self._equipment_id) or set())
        if extra:
            raise InputError(
                f"{where}: expected columns of readings only, found {', '.join(sorted(extra))}: "
                f"leave them out with --ignore {','.join(sorted(extra))}"
            )

    def parts(self, position: int, row: int) -> Iterator[Part]:
        """Yield the parts after a position, whose last row has this number."""
        if self._parquet is not None:
            yield from self._parquet_parts(position)
            return
        with self.path.open("rb") as file:
            file.seek(max(position, self._first))
            while data := file.read(PART_BYTES):
                data += file.readline()
                lines = data.count(b"\n") + (not data.endswith(b"\n"))
                part = Part(file.tell(), row + lines)
                self._read_csv(part, data, row + 1, lines)
                row = part.row
                yield part

    def _read_csv(self, part: Part, data: bytes, first: int, lines: int) -> None:
        kinds = {
            name: _TIMESTAMP if name == TIME else pa.string() if name in _TEXT else pa.float64()
            for name in self._used
        }
        table = None
        for point in "." if self._delimiter == "," else ".,":
            with contextlib.suppress(pa.ArrowInvalid):
                table = pa.csv.read_csv(
                    pa.BufferReader(data),
                    pa.csv.ReadOptions(column_names=self._columns, block_size=2 * len(data)),
                    pa.csv.ParseOptions(delimiter=self._delimiter, ignore_empty_lines=False),
                    pa.csv.ConvertOptions(
                        column_types=kinds,
                        include_columns=self._used,
                        null_values=_MISSING,
                        decimal_point=point,
                    ),
                )
                break
        if table is None or len(table) != lines or table[TIME].null_count:
            self._read_lines(part, data, first)
            return
        rows = np.arange(first, first + lines)
        texts: list[bytes] = []

        def text_of(row: int) -> str:
            if not texts:
                texts.extend(data.split(b"\n"))
            return texts[row - first].decode("utf-8", "replace").rstrip("\r")

        self._add(part, table, rows, text_of)

    def _read_lines(self, part: Part, data: bytes, first: int) -> None:
        """Read a part with a bad line: convert each line alone."""
        good: dict[str, list[Any]] = {name: [] for name in self._used}
        rows: list[int] = []
        texts: dict[int, str] = {}
        for row, line in enumerate(data.decode("utf-8", "replace").splitlines(), start=first):
            if not line.strip():
                continue
            texts[row] = line
            try:
                values = self._values_of(line)
            except (ValueError, csv.Error) as error:
                part.rejected.append(Rejected(row, str(error), line))
                continue
            rows.append(row)
            for name, value in zip(self._used, values, strict=True):
                good[name].append(value)
        table = pa.table(
            {
                name: pa.array(values, pa.string() if name in _TEXT else None).cast(
                    _TIMESTAMP if name == TIME else pa.string() if name in _TEXT else pa.float64()
                )
                for name, values in good.items()
            }
        )
        self._add(part, table, np.asarray(rows, np.int64), texts.__getitem__)

    def _values_of(self, line: str) -> list[Any]:
        """Return the values of a line in the order of the used columns.

        Raises:
            ValueError: it has another number of columns, or a cell has no value of its column.
        """
        cells = next(csv.reader([line], delimiter=self._delimiter, strict=True))
        if len(cells) != len(self._columns):
            raise ValueError(f"expected {len(self._columns)} columns, found {len(cells)}")
        found = dict(zip(self._columns, map(str.strip, cells), strict=True))
        return [self._converted(name, found[name]) for name in self._used]

    def _converted(self, name: str, text: str) -> Any:
        """Return the value of a cell.

        Raises:
            ValueError: it has none; the message is the reason.
        """
        if name in _TEXT:
            return text
        if name == TIME:
            return _time_of(text)
        if not self._is_long and text.lower() in MISSING:
            return math.nan
        try:
            return number_in(text, self._delimiter)
        except ValueError as error:
            raise ValueError(f"expected a number in column {name}, found '{text}'") from error

    def _parquet_parts(self, position: int) -> Iterator[Part]:
        width = 1 if self._is_long else max(1, len(self._used) - 1)
        size, start = max(1, PART_VALUES // width), 0
        groups, skipped = [], 0
        for group in range(self._parquet.num_row_groups):
            count = self._parquet.metadata.row_group(group).num_rows
            if start + count <= position:
                skipped += count
            else:
                groups.append(group)
            start += count
        at = skipped
        for batch in self._parquet.iter_batches(size, row_groups=groups, columns=self._used):
            if at + len(batch) > position:
                table = pa.Table.from_batches([batch]).slice(max(0, position - at))
                first = max(at, position)
                part = Part(at + len(batch), at + len(batch))
                rows = np.arange(first + 1, first + 1 + len(table))
                self._add(
                    part,
                    self._typed(table),
                    rows,
                    lambda row, table=table, first=first: str(  # type: ignore[misc]
                        table.slice(row - first - 1, 1).to_pylist()[0]
                    ),
                )
                yield part
            at += len(batch)

    def _typed(self, table: Any) -> Any:
        """Return a Parquet table with the types of readings."""
        for place, name in enumerate(table.column_names):
            kind = table[name].type
            if name == TIME and pa.types.is_timestamp(kind) and kind.tz is None:
                raise InputError(
                    f"{self.path.name}: expected times with a zone, found none in column time: "
                    "write it as timestamp with time zone UTC"
                )
            want = _TIMESTAMP if name == TIME else pa.string() if name in _TEXT else pa.float64()
            try:
                table = table.set_column(place, name, table[name].cast(want, safe=False))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise InputError(
                    f"{self.path.name}: expected column {name} as {want}, found {kind}"
                ) from error
        return table

    def _add(
        self, part: Part, table: Any, rows: NDArray[np.int64], text_of: Callable[[int], str]
    ) -> None:
        """Add the rows of a table to a part, each read or rejected."""
        times_us = table[TIME].cast(pa.int64()).fill_null(0).to_numpy()
        reject = Rejects(part, rows, text_of)
        reject.where(
            (times_us < self._earliest_us) | (times_us > self._latest_us),
            lambda index: (
                f"expected a time from {EARLIEST:%Y-%m-%d} to 5 minutes from now, found "
                f"{table[TIME][index].as_py()}"
            ),
        )
        if not self._is_long:
            self._add_wide(part, table, times_us, reject)
            return
        values = table["value"].to_numpy()
        # written so that NaN fails too
        reject.where(
            ~(np.abs(values) <= _LARGEST),
            lambda index: f"expected a finite value, found {values[index]}",
        )
        sensors = encoded(table["sensor_id"])
        if self._equipment_id is None:
            machines = encoded(table[EQUIPMENT])
        else:
            machines = Encoded([self._equipment_id], np.zeros(len(values), np.int64))
        for code, equipment_id in enumerate(machines.names):
            of_machine = machines.codes == code
            known = self._sensors_of(equipment_id)
            if known is None:
                reject.where(
                    of_machine,
                    lambda _, name=equipment_id: (  # type: ignore[misc]
                        f"expected a registered equipment, found '{name}'"
                    ),
                )
                continue
            is_known = np.array([name in known for name in sensors.names], np.bool_)
            reject.where(
                of_machine & ~is_known[sensors.codes],
                lambda index, name=equipment_id: (  # type: ignore[misc]
                    f"expected a sensor of '{name}', found '{sensors.names[sensors.codes[index]]}'"
                ),
            )
            kept = np.flatnonzero(of_machine & ~reject.rejected)
            if len(kept):
                names = np.array(sensors.names, object)[sensors.codes[kept]].tolist()
                part.readings.append(Readings(equipment_id, names, times_us[kept], values[kept]))

    def _add_wide(
        self, part: Part, table: Any, times_us: NDArray[np.int64], reject: "Rejects"
    ) -> None:
        assert self._equipment_id is not None
        names = [name for name in self._used if name != TIME]
        values_RS = np.column_stack([table[name].to_numpy() for name in names])
        reject.where(
            (np.abs(values_RS) > _LARGEST).any(axis=1),
            lambda index: f"expected finite values, found {values_RS[index].tolist()}",
        )
        row_R, sensor_R = np.nonzero(~np.isnan(values_RS) & ~reject.rejected[:, None])
        if len(row_R):
            sensor_ids = np.array(names, object)[sensor_R].tolist()
            part.readings.append(
                Readings(
                    self._equipment_id, sensor_ids, times_us[row_R], values_RS[row_R, sensor_R]
                )
            )


_TEXT = (EQUIPMENT, "sensor_id")
_CANONICAL = {name: name for name in (*LONG, EQUIPMENT)} | {"timestamp": TIME}
_MISSING = sorted({form for each in MISSING for form in (each, each.upper(), each.title(), "NaN")})
"""Of these forms of missing values; a part with others is read line by line."""


def _time_of(text: str) -> datetime:
    """Return the time in a cell.

    Raises:
        ValueError: it has none; the message is the reason.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"expected an ISO 8601 time such as 2025-01-01T00:00:00Z, found '{text}'"
        ) from error
    if time.tzinfo is None:
        raise ValueError(f"expected a time with its zone, found '{text}': add Z for UTC")
    return time.astimezone(UTC)
