"""Reads a text file, plain or compressed by gzip or zstd, in blocks of whole lines.

Positions are those of the decompressed text. A compressed file is decompressed up to a position
again when it is opened there, which takes seconds for each gigabyte.
"""

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from app.core.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSED = (".gz", ".zst")
"""Endings of the names of compressed files."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading its text.

    Args:
        path: a name that ends in one of `COMPRESSED` is decompressed.

    Raises:
        InputError: while it is read, if it is not compressed as its name says, or is cut off.
        OSError: it can't be opened or read.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                yield cast("BinaryIO", file)
        elif path.suffix == ".zst":
            with zstd.open(path) as file:
                yield cast("BinaryIO", file)
        else:
            with path.open("rb") as file:
                yield file
    except (gzip.BadGzipFile, zlib.error, zstd.ZstdError, EOFError) as error:
        kind = "gzip" if path.suffix == ".gz" else "zstd"
        raise InputError(
            f"{path.name}: expected a file compressed by {kind}, found another one, or one that is "
            "cut off or damaged: compress it again, or correct the ending of its name",
            str(path),
        ) from error


def line_blocks(file: BinaryIO, position: int, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield blocks of whole lines, and the position after each.

    Args:
        file: at any position.
        position: where the first block begins.
        size: of a block, in bytes, about; a longer line is a block.
    """
    file.seek(position)
    rest = b""
    while True:
        data = rest + file.read(size - len(rest))
        if len(data) < size:  # the end of the file
            if data:
                yield data, position + len(data)
            return
        # without a line feed, lines end with a carriage return; the last byte may be half of an end
        end = data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, -1) + 1
        if not end:
            data += file.readline()
            end = len(data)
        position += end
        yield data[:end], position
        rest = data[end:]
