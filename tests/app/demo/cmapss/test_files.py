"""C-MAPSS files and the messages of their errors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.core.errors import ReadingError
from app.demo.cmapss.files import SENSOR_IDS, read_engines, read_remaining
from tests.app.demo.engines import write_engines

Lines = list[str]


def test_engines_are_read_in_order_with_all_columns(tmp_path: Path) -> None:
    first, second = read_engines(write_engines(tmp_path / "train.txt"))
    assert (first.unit, second.unit) == (1, 2)
    assert (first.values_CR.shape, second.values_CR.shape) == ((5, 24), (3, 24))
    assert first.values_CR[0, SENSOR_IDS.index("setting3")] == 100.0
    assert second.values_CR[0, SENSOR_IDS.index("s8")] == pytest.approx(
        2388 * (1 + 0.01 / 3), abs=0.01
    )


def without_a_column(lines: Lines) -> None:
    lines[2] = " ".join(lines[2].split()[:-1]) + "\n"


def with_a_word(lines: Lines) -> None:
    lines[1] = lines[1].replace("100.0000", "full")


def with_nan(lines: Lines) -> None:
    lines[1] = lines[1].replace("100.0000", "nan")


def without_a_cycle(lines: Lines) -> None:
    del lines[3]


def that_starts_late(lines: Lines) -> None:
    del lines[5]


def with_half_a_cycle(lines: Lines) -> None:
    lines[0] = lines[0].replace("1 1 ", "1 1.5 ", 1)


def that_returns(lines: Lines) -> None:
    lines.append("1 6 " + lines[0].split(maxsplit=2)[2])


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (
            without_a_column,
            r"line 3: expected 26 columns \(unit, cycle, 3 settings, 21 sensors\), found 25",
        ),
        (with_a_word, "train.txt line 2: expected a number, found 'full'"),
        (with_nan, "train.txt line 2: expected a finite number, found 'nan'"),
        (without_a_cycle, "train.txt line 4: expected cycle 4 of engine 1, found cycle 5"),
        (that_starts_late, "train.txt line 6: expected cycle 1 of engine 2, found cycle 2"),
        (
            with_half_a_cycle,
            "train.txt line 1: expected a whole number from 1 as cycle, found '1.5'",
        ),
        (
            that_returns,
            "train.txt line 9: expected the lines of an engine together, .* found engine 1 again",
        ),
        (
            list.clear,
            "train.txt line 1: expected the cycles of at least one engine, found an empty file",
        ),
    ],
)
def test_invalid_line_is_reported(
    tmp_path: Path, corrupt: Callable[[Lines], None], message: str
) -> None:
    path = write_engines(tmp_path / "train.txt")
    lines = path.read_text().splitlines(keepends=True)
    corrupt(lines)
    path.write_text("".join(lines))
    with pytest.raises(ReadingError, match=message):
        read_engines(path)


def test_missing_or_packed_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        ReadingError, match=r"expected a file of C-MAPSS at .*nowhere.txt', found none to read"
    ):
        read_engines(tmp_path / "nowhere.txt")
    packed = tmp_path / "CMAPSSData.zip"
    packed.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ReadingError, match="unpack the archive"):
        read_engines(packed)


def test_remaining_cycles_are_one_per_line(tmp_path: Path) -> None:
    path = tmp_path / "RUL.txt"
    path.write_text("112 \n98 \n")
    assert read_remaining(path, 2) == [112.0, 98.0]
    with pytest.raises(
        ReadingError, match=r"RUL.txt line 2: expected 3 lines, one for each engine, found 2"
    ):
        read_remaining(path, 3)
    path.write_text("112 \n-1 \n")
    with pytest.raises(
        ReadingError, match=r"RUL.txt line 2: expected a number of cycles of at least 0, found -1"
    ):
        read_remaining(path, 2)
    path.write_text("112 98\n")
    with pytest.raises(ReadingError, match=r"RUL.txt line 1: expected 1 column, .* found 2"):
        read_remaining(path, 1)


def test_sensor_ids_are_the_columns() -> None:
    assert SENSOR_IDS[:4] == ("setting1", "setting2", "setting3", "s1")
    assert (len(SENSOR_IDS), SENSOR_IDS[-1]) == (24, "s21")
    assert np.unique(SENSOR_IDS).size == 24
