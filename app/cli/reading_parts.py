"""Parts of a file of readings: what is written of them, and which rows are rejected, and why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.store.readings import Readings


class Rejected(NamedTuple):
    """A row that is not written: its number in the file, why, and its text."""

    row: int
    reason: str
    text: str


@dataclass
class Part:
    """Readings of a part of a file, by machine, and where the next part begins.

    Args:
        position: bytes of a CSV file, rows of a Parquet file, that are read by now.
        row: number of the last row read.
        readings: to write.
        rejected: rows that are not.
    """

    position: int
    row: int
    readings: list[Readings] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many readings the part has."""
        return sum(len(block.sensor_ids) for block in self.readings)


class Encoded(NamedTuple):
    """A column of text: its different texts, and the position of each row's text among them."""

    names: list[str]
    codes: NDArray[np.int64]


def encoded(column: Any) -> Encoded:
    """Return an Arrow column of text in this form; a missing text is empty."""
    found = column.combine_chunks().dictionary_encode()
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    names = ["" if name is None else name for name in found.dictionary.to_pylist()]
    codes = found.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return Encoded([*names, ""], codes.astype(np.int64))


class Rejects:
    """Marks rows of a table as rejected, each with its first reason."""

    def __init__(self, part: Part, rows: NDArray[np.int64], text_of: Callable[[int], str]) -> None:
        self.rejected = np.zeros(len(rows), np.bool_)
        self._part, self._rows, self._text_of = part, rows, text_of

    def where(self, fails: NDArray[np.bool_], reason_of: Callable[[int], str]) -> None:
        """Reject the rows where a check fails."""
        for index in np.flatnonzero(fails & ~self.rejected).tolist():
            row = int(self._rows[index])
            self._part.rejected.append(Rejected(row, reason_of(index), self._text_of(row)))
        self.rejected |= fails
