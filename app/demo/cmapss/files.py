"""Reads NASA's published C-MAPSS files: sensor values of each engine's cycles, and cycles left.

Saxena, Goebel, Simon and Eklund, "Damage propagation modeling for aircraft engine run-to-failure
simulation", PHM08, 2008. A line is one cycle of one engine: unit, cycle, 3 settings and 21 sensors,
separated by spaces, without a header.
Invariant: every engine's cycles count from 1 without a gap, and every value is a finite number.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.core.errors import ReadingError

SENSOR_IDS = (
    *(f"setting{number}" for number in range(1, 4)),
    *(f"s{number}" for number in range(1, 22)),
)
"""Names of the columns after unit and cycle, in order."""

_COLUMNS = 2 + len(SENSOR_IDS)


class Engine(NamedTuple):
    """An engine's number in the file, and its values [cycles, sensors] as in `SENSOR_IDS`."""

    unit: int
    values_CR: NDArray[np.float64]


def read_engines(path: Path) -> list[Engine]:
    """Read the histories of a file such as `train_FD001.txt`, in the order of the file.

    Raises:
        ReadingError: the file can't be read, or a line has another number of columns, a value that
            is no finite number, or a cycle out of order.
    """
    rows: dict[int, list[list[float]]] = {}
    unit = 0
    for line, words in _lines(path):
        if len(words) != _COLUMNS:
            expected = f"{_COLUMNS} columns (unit, cycle, 3 settings, 21 sensors)"
            raise _error(path, line, expected, f"{len(words)}")
        found, cycle = _whole(path, line, words[0], "unit"), _whole(path, line, words[1], "cycle")
        if found != unit and found in rows:
            expected = f"the lines of an engine together, the next of engine {unit}"
            raise _error(path, line, expected, f"engine {found} again")
        unit = found
        history = rows.setdefault(unit, [])
        if cycle != len(history) + 1:
            raise _error(path, line, f"cycle {len(history) + 1} of engine {unit}", f"cycle {cycle}")
        history.append([_number(path, line, word) for word in words[2:]])
    if not rows:
        raise _error(path, 1, "the cycles of at least one engine", "an empty file")
    return [Engine(unit, np.array(history)) for unit, history in rows.items()]


def read_remaining(path: Path, engines: int) -> list[float]:
    """Read how many cycles each engine ran after its last line, from a file such as RUL_FD001.txt.

    Args:
        path: of the file: one number per line, in the order of the engines.
        engines: number of engines.

    Raises:
        ReadingError: the file can't be read, a line is not one number of at least 0, or the number
            of lines is not that of the engines.
    """
    remaining: list[float] = []
    line = 0
    for line, words in _lines(path):
        if len(words) != 1:
            expected = "1 column, the cycles left after an engine's last"
            raise _error(path, line, expected, f"{len(words)}")
        cycles = _number(path, line, words[0])
        if cycles < 0:
            raise _error(path, line, "a number of cycles of at least 0", words[0])
        remaining.append(cycles)
    if len(remaining) != engines:
        raise _error(path, line, f"{engines} lines, one for each engine", f"{len(remaining)}")
    return remaining


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the lines that are not blank, with their numbers from 1, split at spaces."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise ReadingError(
            f"expected a file of C-MAPSS at '{path}', found none to read ({error.strerror})",
            str(path),
        ) from error
    except UnicodeDecodeError as error:
        raise ReadingError(
            f"expected a text of numbers at '{path}', found something else: unpack the archive",
            str(path),
        ) from error
    return [
        (line, words) for line, each in enumerate(text.splitlines(), 1) if (words := each.split())
    ]


def _whole(path: Path, line: int, word: str, name: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise _error(path, line, f"a whole number from 1 as {name}", f"'{word}'")
    return int(word)


def _number(path: Path, line: int, word: str) -> float:
    try:
        number = float(word)
    except ValueError as error:
        raise _error(path, line, "a number", f"'{word}'") from error
    if not math.isfinite(number):
        raise _error(path, line, "a finite number", f"'{word}'")
    return number


def _error(path: Path, line: int, expected: str, found: str) -> ReadingError:
    return ReadingError(
        f"{path.name} line {line}: expected {expected}, found {found}: correct the file",
        f"{path.name}:{line}",
    )
