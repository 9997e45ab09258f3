"""The reader of the published layout: exact values, rates, and errors with file and line."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import ReadingError
from app.demo.rig.measurements import SENSOR_IDS, RigFiles, open_directory, read_blocks, survey

WriteRig = Callable[..., Path]

FULL_RATES_HZ = {
    **dict.fromkeys(("PS1", "PS2", "PS3", "PS4", "PS5", "PS6", "EPS1"), 100),
    "FS1": 10,
    "FS2": 10,
}


def _replace_field(path: Path, line: int, column: int, text: str) -> None:
    rows = [row.split("\t") for row in path.read_text().splitlines()]
    rows[line - 1][column - 1] = text
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


def _failure(directory: Path) -> ReadingError:
    with pytest.raises(ReadingError) as caught:
        list(read_blocks(open_directory(directory), cycles_per_block=2))
    return caught.value


def test_values_are_those_of_the_text_bit_for_bit(write_rig: WriteRig) -> None:
    directory = write_rig(cycles=5)
    blocks = list(read_blocks(open_directory(directory), cycles_per_block=2))
    assert [len(block.stable_C) for block in blocks] == [2, 2, 1]
    for sensor_id in SENSOR_IDS:
        text = (directory / f"{sensor_id}.txt").read_text()
        expected = np.array(
            [[float(field) for field in row.split("\t")] for row in text.splitlines()]
        )
        found = np.concatenate([block.values_CR[sensor_id] for block in blocks])
        assert found.dtype == np.float64
        assert found.tobytes() == expected.tobytes()
    assert np.concatenate([block.cycle_index_C for block in blocks]).tolist() == [1, 3, 5, 7, 9]
    assert blocks[0].grades_CG.tolist() == [[3, 100, 0, 130], [20, 100, 1, 130]]
    assert blocks[0].stable_C.tolist() == [True, False]


@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=60, max_size=60),
    ending=st.sampled_from(["\n", "\r\n", ""]),
)
def test_any_finite_double_comes_back_bit_for_bit(values: list[float], ending: str) -> None:
    row = ("\t".join(map(repr, values)) + ending).encode()
    contents: dict[str, Path | bytes] = {f"{sensor_id}.txt": row for sensor_id in SENSOR_IDS}
    files = RigFiles("memory", contents | {"profile.txt": b"3\t100\t0\t130\t1"})
    (block,) = read_blocks(files, cycles_per_block=8)
    assert block.values_CR["SE"].tobytes() == np.array([values]).tobytes()
    assert block.cycle_index_C.tolist() == [0]


def test_number_of_columns_gives_the_rate(write_rig: WriteRig) -> None:
    files = open_directory(write_rig(cycles=2, rates_hz=FULL_RATES_HZ))
    found = survey(files)
    assert found.rates_hz == {
        sensor_id: FULL_RATES_HZ.get(sensor_id, 1) for sensor_id in SENSOR_IDS
    }
    assert found.readings == 2 * 43_680
    (block,) = read_blocks(files, cycles_per_block=2)
    assert block.values_CR["PS1"].shape == (2, 6000)
    assert block.values_CR["FS2"].shape == (2, 600)
    assert block.values_CR["TS1"].shape == (2, 60)


def test_without_index_cycles_are_numbered_from_zero(write_rig: WriteRig) -> None:
    blocks = read_blocks(open_directory(write_rig(cycles=3, index=False)), cycles_per_block=2)
    assert [block.cycle_index_C.tolist() for block in blocks] == [[0, 1], [2]]


@pytest.mark.parametrize(
    "text", ["", "abc", "1_000", "1,5", "nan", "inf", "-Infinity", "1e999", "0x10"]
)
def test_field_that_is_no_finite_number_is_reported(write_rig: WriteRig, text: str) -> None:
    directory = write_rig()
    _replace_field(directory / "VS1.txt", line=3, column=17, text=text)
    error = _failure(directory)
    assert error.message == (
        f"VS1.txt line 3: expected a finite number, found '{text}' in column 17: "
        "repair the row or take the file anew"
    )
    assert error.field == "VS1.txt:3"


def test_ragged_row_is_reported(write_rig: WriteRig) -> None:
    path = write_rig() / "TS2.txt"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], rows[1].rsplit("\t", 1)[0], rows[2]]))
    assert _failure(path.parent).message.startswith(
        "TS2.txt line 2: expected 60 tab-separated columns, found 59:"
    )


@pytest.mark.parametrize(("columns", "found"), [(59, "59"), (61, "61"), (90, "90"), (0, "0")])
def test_columns_that_are_no_multiple_of_60_are_refused(
    write_rig: WriteRig, columns: int, found: str
) -> None:
    path = write_rig() / "PS3.txt"
    path.write_text(("\t".join(["1"] * columns) + "\n") * 3)
    assert _failure(path.parent).message.startswith(
        "PS3.txt line 1: expected a multiple of 60 tab-separated columns (seconds of a cycle), "
        f"found {found}:"
    )


@pytest.mark.parametrize("name", ["FS1.txt", "profile.txt", "cycle_index.txt"])
def test_other_number_of_cycles_is_refused_before_reading(write_rig: WriteRig, name: str) -> None:
    path = write_rig() / name
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    message = _failure(path.parent).message
    assert f"expected 3 cycles (rows) in {name} as in PS1.txt, found 2" in message


@pytest.mark.parametrize("name", ["EPS1.txt", "profile.txt"])
def test_missing_file_is_reported(write_rig: WriteRig, name: str) -> None:
    directory = write_rig()
    (directory / name).unlink()
    error = _failure(directory)
    assert f"expected {name}, found no such file" in error.message
    assert error.field == name


def test_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        ReadingError, match="expected a directory in the rig's published layout, found none at"
    ):
        open_directory(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "profile.txt",
            "3\t100\t0\t130\t2\n",
            "profile.txt line 1: expected a stable flag of 0 or 1 in column 5",
        ),
        (
            "profile.txt",
            "3\t100\t0\t130\n",
            "profile.txt line 1: expected 5 tab-separated columns, found 4",
        ),
        (
            "profile.txt",
            "3\t100\t-1\t130\t1\n",
            "profile.txt line 1: expected a whole number, found '-1' in column 3",
        ),
        (
            "cycle_index.txt",
            "1.5\n",
            "cycle_index.txt line 1: expected a whole number, found '1.5' in column 1",
        ),
    ],
)
def test_wrong_profile_or_index_is_reported(
    write_rig: WriteRig, name: str, text: str, message: str
) -> None:
    directory = write_rig(cycles=1)
    (directory / name).write_text(text)
    assert _failure(directory).message.startswith(message)


def test_index_must_rise_also_across_blocks(write_rig: WriteRig) -> None:
    directory = write_rig(cycles=3)
    (directory / "cycle_index.txt").write_text("4\n5\n5\n")
    assert _failure(directory).message.startswith(
        "cycle_index.txt line 3: expected a number above 5, found 5"
    )


@given(garbage=st.binary(max_size=400))
def test_garbage_in_a_file_always_raises_a_reading_error(garbage: bytes) -> None:
    row = b"\t".join([b"1"] * 60) + b"\n"
    contents: dict[str, Path | bytes] = {f"{sensor_id}.txt": row for sensor_id in SENSOR_IDS}
    files = RigFiles(
        "memory", {**contents, "CE.txt": garbage, "profile.txt": b"3\t100\t0\t130\t1\n"}
    )
    with pytest.raises(ReadingError):
        list(read_blocks(files, cycles_per_block=1))


def test_unreadable_file_is_a_reading_error() -> None:
    with tempfile.TemporaryDirectory() as name:
        files = RigFiles("there", {"PS1.txt": Path(name)})
        with pytest.raises(ReadingError, match=r"expected PS1\.txt to be readable"):
            files.open("PS1.txt")
