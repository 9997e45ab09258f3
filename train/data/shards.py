"""Write and read shards of labelled windows: Parquet files with one row for each window.

`train.data.windows` decides which windows exist. Shapes: B windows, S sensors, N bins, V
components. Invariant: a shard is written whole or not at all, and values are read as they were
written, bit for bit, NaN where missing.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from app.core.shared_storage import StoragePath, write_whole
from app.features.binning import Floats
from app.schemas.equipment import Equipment
from train.data.labels import Integers, WindowLabels

SHARD_BYTES = 2**25
"""Approximate size of a shard's values: 32 MB, which limits the memory of a reading task."""

GROUP_BYTES = 2**22
"""Size of a row group, the smallest unit of reading: 4 MB."""

_LABELS = ("machine", "start_us", "grade", "health", "rate", "rul", "stable")


def write_shard(
    directory: StoragePath,
    number: int,
    equipment: Equipment,
    first: int,
    labels: WindowLabels,
    values_BSN: Floats,
) -> None:
    """Write one shard of consecutive windows.

    Args:
        directory: of the shards.
        number: of the shard; the order of numbers is that of the windows.
        equipment: topology shared by the machines.
        first: position of the first window.
        labels: of these windows.
        values_BSN: their bins.

    Raises:
        ValueError: the shape of the values does not match labels and topology.
    """
    expected = (len(labels), len(equipment.sensors), equipment.bins)
    if values_BSN.shape != expected:
        raise ValueError(
            f"expected values of windows x sensors x bins {expected}, found {values_BSN.shape}"
        )
    columns = {
        "position": pa.array(np.arange(first, first + len(labels), dtype=np.int64)),
        "machine": pa.array(labels.machine_W.astype(np.int32)),
        "start_us": pa.array(labels.start_us_W),
        "values": _fixed(values_BSN.astype(np.float32, copy=False)),
        "grade": _fixed(labels.grade_WV),
        "health": _fixed(labels.health_WV),
        "rate": _fixed(labels.rate_WV),
        "rul": _fixed(labels.rul_WV),
        "stable": pa.array(labels.stable_W),
    }
    written = pa.BufferOutputStream()
    pq.write_table(
        pa.table(columns),
        written,
        row_group_size=max(1, GROUP_BYTES // window_bytes(equipment)),
        compression="zstd",
        use_dictionary=False,
        write_statistics=["position"],
    )
    write_whole(directory / f"windows-{number:06d}.parquet", memoryview(written.getvalue()))


def windows_of_a_shard(equipment: Equipment) -> int:
    """Return the number of windows in a shard."""
    return max(1, SHARD_BYTES // window_bytes(equipment))


def window_bytes(equipment: Equipment) -> int:
    """Return the size of a window's values in bytes."""
    return max(1, 4 * len(equipment.sensors) * equipment.bins)


def read_chosen(
    directory: StoragePath, equipment: Equipment, rising_W: Integers
) -> Iterator[tuple[Integers, Floats]]:
    """Read windows, one row group at a time.

    Args:
        directory: of the shards.
        equipment: topology shared by the machines.
        rising_W: positions, each once.

    Yields:
        Positions [B] and values [B, S, N] of consecutive windows.
    """
    for name, group in groups_of(directory, rising_W):
        groups = {"shard": np.array([name]), "group": np.array([group])}
        found = read_groups(groups, directory, rising_W, equipment)
        yield found["position"], found["values"]


def read_groups(
    groups: Mapping[str, NDArray[Any]],
    directory: StoragePath,
    rising_W: Integers,
    equipment: Equipment,
) -> dict[str, NDArray[Any]]:
    """Read the chosen windows of row groups.

    Args:
        groups: columns `shard`, a file's name, and `group`; at least one row.
        directory: of the shards.
        rising_W: positions of the windows, each once.
        equipment: topology shared by the machines.

    Returns:
        Columns `position` [B] and `values` [B, S, N].
    """
    S, N = len(equipment.sensors), equipment.bins
    parts = []
    for name, group in zip(groups["shard"].tolist(), groups["group"].tolist(), strict=True):
        with (directory / name).open("rb") as opened, pq.ParquetFile(opened) as file:
            table = file.read_row_group(group, columns=["position", "values"])
        position_R = table.column("position").to_numpy()
        values_RSN = _column(table, "values", S * N).reshape(-1, S, N)
        place_R = np.searchsorted(rising_W, position_R)  # far faster than isin for a long history
        chosen_R = place_R < len(rising_W)
        chosen_R[chosen_R] = rising_W[place_R[chosen_R]] == position_R[chosen_R]
        if not chosen_R.all():
            position_R, values_RSN = position_R[chosen_R], values_RSN[chosen_R]
        parts.append({"position": position_R, "values": values_RSN})
    return {name: np.concatenate([part[name] for part in parts]) for name in ("position", "values")}


def groups_of(directory: StoragePath, rising_W: Integers) -> Iterator[tuple[str, int]]:
    """Yield shard and number of each row group that contains any of the windows, in order."""
    first = 0
    for path in shards(directory):
        if first > rising_W.max(initial=-1):
            return
        about = metadata(path)
        for group in range(about.num_row_groups):
            rows = about.row_group(group).num_rows
            if np.searchsorted(rising_W, first) < np.searchsorted(rising_W, first + rows):
                yield path.name, group
            first += rows


def read_labels(directory: StoragePath, components: int) -> WindowLabels:
    """Read the labels of all shards, at least one.

    Args:
        directory: of the shards.
        components: V.
    """
    tables = [_labels(path) for path in shards(directory)]
    columns: Mapping[str, NDArray[Any]] = {
        name: np.concatenate([_column(table, name, components) for table in tables])
        for name in _LABELS
    }
    return WindowLabels(
        machine_W=columns["machine"].astype(np.int64),
        start_us_W=columns["start_us"],
        grade_WV=columns["grade"],
        health_WV=columns["health"],
        rate_WV=columns["rate"],
        rul_WV=columns["rul"],
        stable_W=columns["stable"],
    )


def shards(directory: StoragePath) -> list[StoragePath]:
    """Return the shards of a directory in the order of their windows."""
    return sorted(cast("Iterable[StoragePath]", directory.glob("windows-*.parquet")), key=_name)


def metadata(shard: StoragePath) -> pq.FileMetaData:
    """Return what Parquet says of a shard."""
    with shard.open("rb") as file:
        return pq.read_metadata(file)


def blocks_of(values: Iterable[Floats], equipment: Equipment) -> Iterator[Floats]:
    """Join and divide blocks of windows into blocks of the size of a shard."""
    size = windows_of_a_shard(equipment)
    pending: list[Floats] = []
    for block in values:
        for start in range(0, len(block), size):
            pending.append(block[start : start + size])
            if sum(map(len, pending)) >= size:
                joined = np.concatenate(pending)
                yield joined[:size]
                pending = [joined[size:]] if len(joined) > size else []
    if pending:
        yield np.concatenate(pending)


def _name(place: StoragePath) -> str:
    return place.name


def _labels(shard: StoragePath) -> pa.Table:
    with shard.open("rb") as file:
        return pq.read_table(file, columns=list(_LABELS))


def _fixed(values_WX: NDArray[Any]) -> pa.FixedSizeListArray:
    width = int(np.prod(values_WX.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(values_WX).reshape(-1)), width
    )


def _column(table: pa.Table, name: str, width: int) -> NDArray[Any]:
    """Return a column, [W], or [W, width] of lists."""
    column = table.column(name)
    if pa.types.is_fixed_size_list(column.type):
        flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
        return np.concatenate(flat or [np.empty(0, np.float32)]).reshape(-1, width)
    values: NDArray[Any] = column.to_numpy()
    return values
