"""Reads files of readings in parts of bounded memory: CSV, also compressed, and Parquet.

CSV is read as `app.schemas.reading_csv` reads it in requests; the columns of Parquet have the same
names. Each reading is checked here, so that a rejected one has its row and its reason.
"""

import io
import math
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from app.cli.line_blocks import COMPRESSED, line_blocks, opened
from app.core.errors import InputError, UnknownError
from app.schemas.reading_csv import CsvLayout, Words, check_wide_sensors, csv_lines
from app.schemas.reading_rows import (
    EXPECTED_TIME,
    EXPECTED_VALUE,
    Refusal,
    Row,
    Rows,
    refusal_of,
)
from app.schemas.readings import FLOAT32_MAX
from app.schemas.times import LATEST_AHEAD, microseconds
from app.store.readings import Readings

PART_BYTES = 4 << 20
PART_VALUES = 100_000
"""About the readings of a part."""
OPTIONS = Words("--equipment", "--ignore")
_HEADER_BYTES = 1 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r")
_TIMESTAMP = pa.timestamp("us", "UTC")

SensorsOrError = frozenset[str] | UnknownError
Sensors = Callable[[str], SensorsOrError]
"""Returns the sensors of a registered machine, or why there are none."""


class Rejected(NamedTuple):
    """A row that is not written: its number in the file, why, and its text."""

    row: int
    reason: str
    text: str


class _Columns(NamedTuple):
    sensor_ids: list[str]
    times_us: "array[int]"
    values: "array[float]"
    rows: "array[int]"


@dataclass
class Part:
    """Readings of a part of a file, by machine, and where the next part begins.

    Args:
        position: decompressed bytes of a CSV file, rows of a Parquet file, that are read by now.
        row: number of the last row read.
        text_of: returns the text of a row of the part.
        rejected: rows that are not written; a row once for each reason.
    """

    position: int
    row: int
    text_of: Callable[[int], str]
    rejected: dict[Rejected, None] = field(default_factory=dict)
    columns: dict[str, _Columns] = field(default_factory=dict)

    @property
    def readings(self) -> list[Readings]:
        """The readings to write."""
        return [
            Readings(equipment_id, each.sensor_ids, each.times_us, each.values)
            for equipment_id, each in self.columns.items()
        ]

    @property
    def rows(self) -> list[int]:
        """The row of each of the readings to write."""
        return [row for each in self.columns.values() for row in each.rows]

    @property
    def count(self) -> int:
        """How many readings are to be written."""
        return sum(len(each.rows) for each in self.columns.values())

    def add(self, row: Row) -> None:
        """Add a reading to write."""
        columns = self.columns.get(row.equipment_id)
        if columns is None:
            columns = _Columns([], array("q"), array("d"), array("q"))
            self.columns[row.equipment_id] = columns
        columns.sensor_ids.append(row.sensor_id)
        columns.times_us.append(row.time_us)
        columns.values.append(row.value)
        columns.rows.append(row.line)

    def reject(self, row: int, reason: str) -> None:
        """Add a row that is not written."""
        self.rejected[Rejected(row, reason, self.text_of(row))] = None


class ReadingFile:
    """A file of readings.

    Args:
        path: ends in .parquet, else it is CSV with a header line, also compressed: .gz or .zst.
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
        self._latest_us = microseconds(now + LATEST_AHEAD)
        self._parquet: Any = None
        self._first = 0
        self._names: tuple[str, ...] = ()
        self.size: int | None
        """The last position; unknown of a compressed file."""
        try:
            if path.suffix == ".parquet":
                self._parquet = pa.parquet.ParquetFile(path)
                header: str | tuple[str, ...] = tuple(self._parquet.schema_arrow.names)
                self._names = tuple(header)
                self.size = self._parquet.metadata.num_rows
            else:
                header = self._read_header()
                self.size = None if path.suffix in COMPRESSED else path.stat().st_size
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise InputError(
                f"expected a CSV file with a header, or a Parquet file, at '{path}', found none "
                "that can be read: save it as CSV in UTF-8",
                str(path),
            ) from error
        try:
            self._layout = CsvLayout.of(header, equipment_id, ignored, OPTIONS)
            if equipment_id is not None:
                self._check_machine(equipment_id)
        except InputError as error:
            raise InputError(f"{path.name}: {error.message}", error.field) from error

    def _read_header(self) -> str:
        with opened(self.path) as file:
            head = file.read(_HEADER_BYTES)
        end = _LINE_END.search(head)
        self._first = end.end() if end else len(head)
        return next(iter(csv_lines(io.BytesIO(head[: self._first]))), "")

    def _check_machine(self, equipment_id: str) -> None:
        sensors = self._sensors_of(equipment_id)
        if isinstance(sensors, UnknownError):
            raise InputError(sensors.message)
        columns = [sensor_id for _, sensor_id in self._layout.sensors]
        check_wide_sensors(columns, equipment_id, sensors, OPTIONS)

    def parts(self, position: int, row: int) -> Iterator[Part]:
        """Yield the parts after a position, whose last row has this number."""
        if self._parquet is not None:
            yield from self._parquet_parts(position)
            return
        with opened(self.path) as file:
            blocks = line_blocks(file, max(position, self._first), PART_BYTES)
            for data, end in blocks:
                lines = list(csv_lines(io.BytesIO(data)))

                def text_of(at: int, lines: list[str] = lines, first: int = row + 1) -> str:
                    return lines[at - first].rstrip("\r\n")

                part = Part(end, row + len(lines), text_of)
                self._add(part, self._layout.rows(enumerate(lines, row + 1)))
                row = part.row
                yield part

    def _add(self, part: Part, rows: Rows) -> None:
        """Add rows to a part, each to be written or rejected."""
        known: dict[str, SensorsOrError] = {}
        for row in rows:
            refusal = row if isinstance(row, Refusal) else None
            if isinstance(row, Row):
                sensors = known.get(row.equipment_id)
                if sensors is None:
                    sensors = known[row.equipment_id] = self._sensors_of(row.equipment_id)
                refusal = refusal_of(row, sensors, self._latest_us, self._equipment_id)
                if refusal is None:
                    part.add(row)
            if refusal is not None:
                part.reject(refusal.line, refusal.explained().reason)

    def _parquet_parts(self, position: int) -> Iterator[Part]:
        used = self._used()
        size, start = max(1, PART_VALUES // max(1, len(self._layout.sensors))), 0
        groups, at = [], 0
        for group in range(self._parquet.num_row_groups):
            count = self._parquet.metadata.row_group(group).num_rows
            if start + count <= position:
                at += count
            else:
                groups.append(group)
            start += count
        for batch in self._batches(size, groups, list(used)):
            end = at + len(batch)
            if end > position:
                first = max(at, position)
                table = pa.Table.from_batches([batch]).slice(first - at)

                def text_of(row: int, table: Any = table, first: int = first) -> str:
                    # as text: Python has no times after the year 9999
                    cells = [column[row - first - 1].cast(pa.string()) for column in table.columns]
                    names = table.column_names
                    return ", ".join(
                        f"{name} {value}" for name, value in zip(names, cells, strict=True)
                    )

                part = Part(end, end, text_of)
                columns = {name: self._typed(table, name, kind) for name, kind in used.items()}
                self._add(part, self._rows_of(columns, first + 1))
                yield part
            at = end

    def _batches(self, size: int, groups: list[int], columns: list[str]) -> Iterator[Any]:
        try:
            yield from self._parquet.iter_batches(size, row_groups=groups, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{self.path.name}: expected pages of a Parquet file, found one that is damaged: "
                "write the file again",
                str(self.path),
            ) from error

    def _used(self) -> dict[str, Any]:
        """Return the columns of a Parquet file that are read, with their types."""
        layout = self._layout
        texts = [self._names[at] for at in (layout.equipment, layout.sensor) if at is not None]
        values = [name for _, name in layout.sensors]
        if layout.value is not None:
            values.append(self._names[layout.value])
        return {
            self._names[layout.time]: _TIMESTAMP,
            **dict.fromkeys(texts, pa.string()),
            **dict.fromkeys(values, pa.float64()),
        }

    def _typed(self, table: Any, name: str, kind: Any) -> list[Any]:
        """Return the values of a column of a Parquet file; of times, microseconds."""
        try:
            found = table[name].type
            if kind is _TIMESTAMP and pa.types.is_timestamp(found) and found.tz is None:
                raise InputError(
                    f"{self.path.name}: expected times with a zone, found none in column {name}: "
                    "write it as timestamp with time zone UTC"
                )
            column = table[name].cast(kind, safe=False)
            values: list[Any] = (
                column.cast(pa.int64()) if kind is _TIMESTAMP else column
            ).to_pylist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"{self.path.name}: expected column {name} as {kind}, found {found}: convert it"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.path.name}: expected UTF-8 in column {name}, found text that is not: "
                "write the file again"
            ) from error
        return values

    def _rows_of(self, columns: dict[str, list[Any]], first: int) -> Rows:
        """Yield the rows of a table; see `CsvLayout.rows`."""
        layout = self._layout
        times = columns[self._names[layout.time]]
        machines = sensors = [None] * len(times)
        if layout.equipment is not None:
            machines = columns[self._names[layout.equipment]]
        if layout.sensor is None or layout.value is None:
            wide = [(name, columns[name]) for _, name in layout.sensors]
        else:
            wide, sensors = (
                [("", columns[self._names[layout.value]])],
                columns[self._names[layout.sensor]],
            )
        for index, (time_us, machine) in enumerate(zip(times, machines, strict=True)):
            number = first + index
            if time_us is None:
                yield Refusal(number, f"{EXPECTED_TIME}, found null", "time")
                continue
            equipment_id = layout.equipment_id if layout.equipment is None else machine or ""
            for name, values in wide:
                value = values[index]
                if name and (value is None or math.isnan(value)):
                    continue
                if value is None or not abs(value) <= FLOAT32_MAX:  # NaN fails too
                    column = f"column '{name}': " if name else ""
                    found = "null" if value is None else value
                    yield Refusal(number, f"{column}{EXPECTED_VALUE}, found {found}", "value")
                else:
                    yield Row(number, equipment_id, name or sensors[index] or "", time_us, value)
