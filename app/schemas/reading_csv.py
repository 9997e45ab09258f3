"""CSV files of readings, long (a reading a line) or wide (a column for each sensor). Pure.

`CsvLayout.of` reads a header, `CsvLayout.rows` the lines after it; files of any size can be read
line by line.
"""

import contextlib
import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from app.core.errors import ReadingError
from app.schemas.equipment import MAX_SENSORS
from app.schemas.places import shown, some_of
from app.schemas.reading_rows import (
    COLUMNS,
    EXPECTED_ID,
    EXPECTED_VALUE,
    IDENTIFIER,
    MAX_LINE_LENGTH,
    Refusal,
    Row,
    Rows,
    too_long,
)
from app.schemas.readings import FLOAT32_MAX
from app.schemas.times import AwareTime, microseconds

MISSING = frozenset({"", "nan", "na", "null"})
"""Cells of a wide file that hold no reading, in lower case."""

_TIME = TypeAdapter[datetime](AwareTime)
_NOT_UTF8 = re.compile("[\ud800-\udfff]")
"""What `csv_lines` makes of bytes that are not UTF-8."""


class Words(NamedTuple):
    """How messages name the options of the machine and of the columns that are left out."""

    equipment: str
    ignore: str


PARAMETERS = Words("the parameter equipment_id", "the parameter ignore_columns")


def csv_lines(file: io.BytesIO | io.BufferedReader) -> Iterable[str]:
    """Return the lines of a CSV file; bytes that are not UTF-8 become single surrogates."""
    return io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline=None)


@dataclass(frozen=True)
class CsvLayout:
    """How the lines of a CSV file are read.

    Args:
        delimiter: comma, semicolon or tab; with the last two, numbers may have a decimal comma.
        columns: how many a line has.
        time: index of the column of times.
        equipment: index of the column of equipment ids; None when all are `equipment_id`.
        equipment_id: of all lines when no column has it.
        sensor: index of the column of sensor ids; None in a wide file.
        sensors: of a wide file, the index and the sensor id of each column of values.
        value: index of the column of values; None in a wide file.
    """

    delimiter: str
    columns: int
    time: int
    equipment: int | None
    equipment_id: str
    sensor: int | None
    value: int | None
    sensors: tuple[tuple[int, str], ...]
    _ids: set[str] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        header: str | tuple[str, ...],
        equipment_id: str | None = None,
        ignore: Collection[str] = (),
        words: Words = PARAMETERS,
    ) -> "CsvLayout":
        """Read a header: a line, or the names of columns.

        The names equipment_id, sensor_id, time (or timestamp) and value may have any case and
        order. A header with sensor_id or value is of a long file; in any other every column beside
        time and equipment_id is a sensor.

        Raises:
            ReadingError: the header can't be used; the message names the column.
        """
        delimiter, names = _header_cells(header) if isinstance(header, str) else (",", header)
        places: dict[str, int] = {}
        others: list[tuple[int, str]] = []
        for index, name in enumerate(names):
            if name in ignore:
                continue
            known = "time" if name.lower() == "timestamp" else name.lower()
            if known not in COLUMNS:
                others.append((index, name))
            elif known in places:
                raise _header_error(f"column '{known}' twice", "leave one out")
            else:
                places[known] = index
        is_long = "sensor_id" in places or "value" in places
        needed = ("time", "sensor_id", "value") if is_long else ("time",)
        if equipment_id is None:
            needed = ("equipment_id", *needed)
        for name in needed:
            if name not in places:
                more = f" (or {words.equipment})" if name == "equipment_id" else ""
                found = header if isinstance(header, str) else ", ".join(header)
                raise _header_error(
                    f"no column '{name}' in {shown(found)}", f"add it as a column{more}"
                )
        if is_long and others:
            raise _header_error(
                f"column {shown(others[0][1])}",
                f"leave it out, or name it in {words.ignore}",
            )
        if not is_long:
            _check_sensor_columns(others, words)
        return cls(
            delimiter,
            len(names),
            places["time"],
            places.get("equipment_id"),
            equipment_id or "",
            places.get("sensor_id"),
            places.get("value"),
            () if is_long else tuple(others),
        )

    def rows(self, lines: Iterable[tuple[int, str]]) -> Rows:
        """Read the lines after the header.

        Args:
            lines: each with its number. A blank one is skipped.

        Returns:
            A row for each reading. In a wide file a cell of `MISSING` is none, and a bad cell is
            refused alone.
        """
        last, time_us = "", 0
        for number, line in lines:
            cells = self._cells(number, line)
            if isinstance(cells, Refusal):
                yield cells
                continue
            if not cells:
                yield None
                continue
            equipment_id = self.equipment_id if self.equipment is None else cells[self.equipment]
            try:
                if cells[self.time] != last:  # times of successive lines are often equal
                    last, time_us = "", microseconds(_TIME.validate_python(cells[self.time]))
                    last = cells[self.time]
            except ValidationError as error:
                yield Refusal(number, error, "time")
                continue
            if not self._is_id(equipment_id):
                yield Refusal(number, f"{EXPECTED_ID}, found {shown(equipment_id)}", "equipment_id")
            elif self.sensor is None or self.value is None:
                yield from self._wide(number, cells, equipment_id, time_us)
            elif not self._is_id(sensor_id := cells[self.sensor]):
                yield Refusal(number, f"{EXPECTED_ID}, found {shown(sensor_id)}", "sensor_id")
            elif math.isnan(value := self._number(cells[self.value])):
                found = shown(cells[self.value])
                yield Refusal(number, f"{EXPECTED_VALUE}, found {found}", "value")
            else:
                yield Row(number, equipment_id, sensor_id, time_us, value)

    def _wide(self, number: int, cells: list[str], equipment_id: str, time_us: int) -> Rows:
        is_empty = True
        for index, sensor_id in self.sensors:
            cell = cells[index]
            if cell.lower() in MISSING:
                continue
            is_empty = False
            value = self._number(cell)
            if math.isnan(value):
                yield Refusal(
                    number,
                    f"column '{sensor_id}': {EXPECTED_VALUE}, found {shown(cell)}",
                    "value",
                )
            else:
                yield Row(number, equipment_id, sensor_id, time_us, value)
        if is_empty:
            yield None

    def _cells(self, number: int, line: str) -> list[str] | Refusal:
        if len(line) > MAX_LINE_LENGTH:
            return too_long(number)
        line = line.rstrip("\r\n")
        if not line.strip():
            return []
        if not line.isascii() and _NOT_UTF8.search(line):
            return Refusal(number, "expected UTF-8, found a byte that is not: save the file so")
        try:
            cells = _split(line, self.delimiter)
        except csv.Error:
            return Refusal(number, "expected a CSV line, found one with a quote that does not end")
        while len(cells) > self.columns and not cells[-1]:
            cells.pop()
        if len(cells) != self.columns:
            return Refusal(number, f"expected {self.columns} columns, found {len(cells)}")
        return cells

    def _is_id(self, text: str) -> bool:
        if text not in self._ids:
            try:
                self._ids.add(IDENTIFIER.validate_python(text))
            except ValidationError:
                return False
        return True

    def _number(self, cell: str) -> float:
        """Return the value of a cell, NaN when it is no finite float32."""
        try:
            value = number_in(cell, self.delimiter)
        except ValueError:
            return math.nan
        return value if abs(value) <= FLOAT32_MAX else math.nan


def number_in(cell: str, delimiter: str) -> float:
    """Return the number in a cell; it may have a decimal comma unless commas delimit cells.

    Raises:
        ValueError: it is none.
    """
    if delimiter != "," and cell.count(",") == 1 and "." not in cell:
        cell = cell.replace(",", ".")
    if "_" in cell or not cell.isascii():  # Python also reads 1_0 and digits of other scripts
        raise ValueError(cell)
    return float(cell)


def check_wide_sensors(
    columns: Collection[str],
    equipment_id: str,
    sensors: Collection[str],
    words: Words = PARAMETERS,
) -> None:
    """Refuse columns of a wide file that are not sensors of its machine.

    Raises:
        ReadingError: names the columns.
    """
    unknown = sorted(set(columns) - set(sensors))
    if unknown:
        raise ReadingError(
            f"expected columns of sensors of '{equipment_id}', found {some_of(unknown)}: there are "
            f"{some_of(sorted(sensors))}; leave the column out, or name it in {words.ignore}",
            "sensor_id",
        )


def _header_cells(header: str) -> tuple[str, Sequence[str]]:
    if header.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        raise ReadingError("expected CSV in UTF-8, found UTF-16: save the file as UTF-8")
    if len(header) > MAX_LINE_LENGTH:
        raise _header_error("a first line that is longer than a header", "check the line ends")
    line = header.rstrip("\r\n")
    found: dict[str, list[str]] = {}
    for delimiter in (",", ";", "\t"):
        with contextlib.suppress(csv.Error):  # quoted names do not end at another delimiter
            found[delimiter] = _split(line, delimiter)
    if not found:
        raise _header_error(shown(line), "end its quote")
    delimiter = max(found, key=lambda each: len(found[each]))
    names = found[delimiter]
    while names and not names[-1]:
        names.pop()
    for index, name in enumerate(names, start=1):
        if _NOT_UTF8.search(name):
            raise ReadingError(f"expected CSV in UTF-8, found column {index} that is not")
        if not name:
            raise _header_error(f"column {index} without a name", "name it or leave it out")
    return delimiter, names


def _check_sensor_columns(columns: list[tuple[int, str]], words: Words) -> None:
    if not 0 < len(columns) <= MAX_SENSORS:
        raise _header_error(
            f"{len(columns)} columns of sensors", f"name 1 to {MAX_SENSORS} sensors"
        )
    seen: set[str] = set()
    for _, name in columns:
        if name in seen:
            raise _header_error(f"column {shown(name)} twice", "leave one out")
        seen.add(name)
        try:
            IDENTIFIER.validate_python(name)
        except ValidationError as error:
            raise _header_error(
                f"column {shown(name)}, which is no sensor id",
                f"rename it, or name it in {words.ignore}",
            ) from error


def _header_error(found: str, advice: str) -> ReadingError:
    return ReadingError(
        f"expected a CSV header of {', '.join(COLUMNS)}, or of equipment_id, time and one "
        f"column for each sensor; found {found}: {advice}"
    )


def _split(line: str, delimiter: str) -> list[str]:
    # each line alone: a stray quote would otherwise swallow the good lines after it
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    cells = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    return [cell.strip() for cell in cells]
