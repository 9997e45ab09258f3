"""The rig's measurements in their published layout: one file per sensor, one row per cycle.

Reads blocks of cycles, so that the full-rate original fits in memory.
Source: Helwig, Pignanelli, Schuetze (2018), UCI Machine Learning Repository id 447,
doi:10.24432/C5CW21.
Invariant: a returned value is the float64 nearest to the text, and finite; anything else raises
with the file, the line, what was expected and what was found.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.core.errors import ReadingError

SENSOR_IDS: tuple[str, ...] = (
    "PS1", "PS2", "PS3", "PS4", "PS5", "PS6", "EPS1", "FS1", "FS2", "TS1", "TS2", "TS3", "TS4",
    "VS1", "CE", "CP", "SE",
)  # fmt: skip
"""Sensors of the rig; `<sensor_id>.txt` has the rows of a sensor."""

GRADED_COMPONENTS: tuple[str, ...] = ("cooler", "valve", "pump", "accumulator")
"""Components of the first four columns of the profile; the fifth is the stability flag."""

CYCLE_S = 60
PROFILE_FILE = "profile.txt"
INDEX_FILE = "cycle_index.txt"
"""The index may be missing."""
FILE_NAMES = (*(f"{sensor_id}.txt" for sensor_id in SENSOR_IDS), PROFILE_FILE, INDEX_FILE)

_COUNT = re.compile(rb"[0-9]{1,9}")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RigFiles:
    """The files of one copy of the rig's data, on disk or in memory.

    Args:
        where: the directory or archive, for messages.
        contents: file name to its path, or to its bytes.
    """

    where: str
    contents: Mapping[str, Path | bytes]

    def open(self, name: str) -> BinaryIO:
        """Open one file for reading.

        Raises:
            ReadingError: the file is missing or can't be read.
        """
        content = self.contents.get(name)
        if content is None:
            raise ReadingError(
                f"{self.where}: expected {name}, found no such file: the layout is one .txt per "
                f"sensor ({', '.join(SENSOR_IDS)}) and {PROFILE_FILE}",
                name,
            )
        if isinstance(content, bytes):
            return io.BytesIO(content)
        try:
            return content.open("rb")
        except OSError as error:
            raise ReadingError(
                f"{self.where}: expected {name} to be readable, found {error.strerror}", name
            ) from error


class RigSurvey(NamedTuple):
    """Size of a copy of the rig's data, known without reading its values.

    Args:
        cycles: rows of every file.
        rates_hz: sensor id to readings per second, whole numbers.
    """

    cycles: int
    rates_hz: Mapping[str, int]

    @property
    def readings(self) -> int:
        """Number of values of all sensors in all cycles."""
        return self.cycles * CYCLE_S * sum(self.rates_hz.values())


@dataclass(frozen=True, slots=True)
class CycleBlock:
    """Consecutive cycles: C cycles, R readings of a sensor in a cycle, G graded components.

    Args:
        cycle_index_C: index of each cycle in the original experiment, from 0, rising.
        values_CR: sensor id to float64[C, R], in the sensor's unit; R is 60 times its rate.
        grades_CG: grade of each of `GRADED_COMPONENTS`.
        stable_C: whether conditions were stable.
    """

    cycle_index_C: NDArray[np.int64]
    values_CR: Mapping[str, NDArray[np.float64]]
    grades_CG: NDArray[np.int64]
    stable_C: NDArray[np.bool_]


def open_directory(directory: Path) -> RigFiles:
    """Find the files of the layout in a directory; other files are ignored.

    Raises:
        ReadingError: it is not a directory.
    """
    if not directory.is_dir():
        raise ReadingError(
            f"expected a directory in the rig's published layout, found none at {directory}"
        )
    paths = {name: directory / name for name in FILE_NAMES}
    return RigFiles(str(directory), {name: path for name, path in paths.items() if path.is_file()})


def survey(files: RigFiles) -> RigSurvey:
    """Check that all files exist with the same number of cycles, and find each sensor's rate.

    Raises:
        ReadingError: a file is missing or empty, has another number of cycles than the first, or a
            number of columns that is no multiple of 60.
    """
    rates_hz = {sensor_id: _rate_hz(files, f"{sensor_id}.txt") for sensor_id in SENSOR_IDS}
    first, cycles = FILE_NAMES[0], _count_rows(files, FILE_NAMES[0])
    for name in FILE_NAMES[1:]:
        if name == INDEX_FILE and name not in files.contents:
            continue
        found = _count_rows(files, name)
        if found != cycles:
            raise ReadingError(
                f"{files.where}: expected {cycles} cycles (rows) in {name} as in {first}, found "
                f"{found}: take all files from one copy of the data",
                name,
            )
    return RigSurvey(cycles, rates_hz)


def read_blocks(files: RigFiles, cycles_per_block: int) -> Iterator[CycleBlock]:
    """Read all cycles in the order of the files, in blocks.

    Args:
        files: a copy of the data.
        cycles_per_block: at least 1; a full-rate cycle has 43,680 values, 0.35 MB.

    Raises:
        ReadingError: as `survey`; a row has another width, or a value is not a finite number.
    """
    found = survey(files)
    with ExitStack() as stack:

        def rows_of(name: str, columns: int, *, whole: bool) -> Iterator[NDArray[np.float64]]:
            return _rows(stack.enter_context(files.open(name)), name, columns, whole=whole)

        sensors = {
            sensor_id: rows_of(f"{sensor_id}.txt", CYCLE_S * rate_hz, whole=False)
            for sensor_id, rate_hz in found.rates_hz.items()
        }
        profile = rows_of(PROFILE_FILE, len(GRADED_COMPONENTS) + 1, whole=True)
        indices = (
            (int(row[0]) for row in rows_of(INDEX_FILE, 1, whole=True))
            if INDEX_FILE in files.contents
            else iter(range(found.cycles))
        )
        last_index = -1
        for first in range(0, found.cycles, cycles_per_block):
            rows = range(first, min(first + cycles_per_block, found.cycles))
            index_C = [next(indices) for _ in rows]
            for line, index in enumerate(index_C, first + 1):
                if index <= last_index:
                    expected = f"a number above {last_index}"
                    raise _wrong(INDEX_FILE, line, expected, f"{index}", "sort the cycles")
                last_index = index
            profile_C5 = np.array([next(profile) for _ in rows], dtype=np.int64)
            for line, flag in enumerate(profile_C5[:, -1].tolist(), first + 1):
                if flag not in (0, 1):
                    raise _wrong(
                        PROFILE_FILE, line, "a stable flag of 0 or 1 in column 5", f"{flag}"
                    )
            yield CycleBlock(
                cycle_index_C=np.array(index_C, dtype=np.int64),
                values_CR={
                    sensor_id: np.stack([next(cycles) for _ in rows])
                    for sensor_id, cycles in sensors.items()
                },
                grades_CG=profile_C5[:, :-1],
                stable_C=profile_C5[:, -1] == 0,
            )


def _wrong(
    name: str,
    line: int,
    expected: str,
    found: str,
    what_to_do: str = "repair the row or take the file anew",
) -> ReadingError:
    return ReadingError(
        f"{name} line {line}: expected {expected}, found {found}: {what_to_do}", f"{name}:{line}"
    )


def _rate_hz(files: RigFiles, name: str) -> int:
    with files.open(name) as stream:
        first = stream.readline().rstrip(b"\r\n")
    columns = first.count(b"\t") + 1 if first else 0
    if columns == 0 or columns % CYCLE_S:
        expected = f"a multiple of {CYCLE_S} tab-separated columns (seconds of a cycle)"
        raise _wrong(name, 1, expected, f"{columns}")
    return columns // CYCLE_S


def _count_rows(files: RigFiles, name: str) -> int:
    rows, last = 0, b"\n"
    with files.open(name) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            rows += chunk.count(b"\n")
            last = chunk[-1:]
    return rows + (last != b"\n")


def _rows(
    stream: BinaryIO, name: str, columns: int, *, whole: bool
) -> Iterator[NDArray[np.float64]]:
    """Yield rows of finite numbers, or of whole ones from 0."""
    for line, text in enumerate(stream, start=1):
        fields = text.rstrip(b"\r\n").split(b"\t")
        if len(fields) != columns:
            raise _wrong(name, line, f"{columns} tab-separated columns", f"{len(fields)}")
        try:
            values_R = np.array([float(field) for field in fields])
        except ValueError:
            values_R = np.full(columns, np.nan)
        # the columns of measurements are looked at one by one only to name the wrong one
        if whole or not np.isfinite(values_R).all() or b"_" in text:
            for column, field in enumerate(fields, 1):
                if not (_COUNT.fullmatch(field) if whole else _is_number(field)):
                    kind = "a whole number" if whole else "a finite number"
                    raise _wrong(name, line, kind, f"{_shown(field)} in column {column}")
        yield values_R


def _is_number(field: bytes) -> bool:
    # float() also accepts underscores between digits, which no instrument writes
    try:
        return b"_" not in field and math.isfinite(float(field))
    except ValueError:
        return False


def _shown(field: bytes) -> str:
    text = field[:40].decode("utf-8", "replace")
    return repr(text if len(field) <= 40 else text + "...")
