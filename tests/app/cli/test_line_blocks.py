"""Blocks of whole lines of plain and compressed files, from any position."""

import gzip
import sys
from pathlib import Path

import pytest

from app.cli.line_blocks import line_blocks, opened
from app.core.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS = {"r.csv": bytes, "r.csv.gz": gzip.compress, "r.csv.zst": zstd.compress}


def blocks_of(path: Path, position: int, size: int) -> list[tuple[bytes, int]]:
    with opened(path) as file:
        return list(line_blocks(file, position, size))


@pytest.mark.parametrize("name", list(COMPRESS))
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_blocks_are_the_whole_text_and_go_on_at_each_position(
    tmp_path: Path, name: str, end: bytes
):
    text = end.join(b"%d" % 7**length for length in range(60)) + end + b"last"
    path = tmp_path / name
    path.write_bytes(COMPRESS[name](text))
    blocks = blocks_of(path, 0, 40)
    assert b"".join(data for data, _ in blocks) == text
    assert all(data.endswith(end) for data, _ in blocks[:-1])
    assert len(blocks) > 10
    for number, (_, position) in enumerate(blocks):
        assert blocks_of(path, position, 40) == blocks[number + 1 :]


@pytest.mark.parametrize("name", ["r.csv.gz", "r.csv.zst"])
@pytest.mark.parametrize("damage", ["none compressed", "cut off"])
def test_damaged_file_is_named(tmp_path: Path, name: str, damage: str):
    whole = COMPRESS[name](b"time,P0\n" * 1_000)
    path = tmp_path / name
    path.write_bytes(b"time,P0\n" if damage == "none compressed" else whole[:-10])
    with pytest.raises(InputError, match=r"r.csv.\w+: expected a file compressed by (gzip|zstd), "):
        blocks_of(path, 0, 4_000)
