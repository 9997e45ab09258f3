"""`Windows`: labelled windows in Parquet shards, read in order, by position, or as a Ray dataset.

`train.data.prepare` fills them from the store. Shapes: W windows, S sensors, N bins, V components,
B windows of a batch. Invariant: positions count windows from 0 in order of machine and time, as the
rows of the shards do; values are float32 bins as written, bit for bit, NaN where missing.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from app.core.errors import InputError
from app.core.shared_storage import StoragePath, make_directory, write_whole
from app.features.baseline import Baseline
from app.features.binning import Floats
from app.schemas.equipment import Equipment
from train.data.labels import Booleans, Integers, WindowLabels, configurations, warm_up
from train.data.shards import (
    blocks_of,
    groups_of,
    metadata,
    read_chosen,
    read_groups,
    read_labels,
    shards,
    window_bytes,
    write_shard,
)

if TYPE_CHECKING:
    import ray.data

HEAD = "equipment.json"
"""Written last: a directory without it is unfinished. Users lock it, see
`train.data.artifact_locks`."""

BEGUN = f"{HEAD}.partial"
"""Renamed to the head when the shards are finished; the preparing process locks it."""

MOST_BYTES = 2**28
"""Largest size of the values read at once: 256 MB."""


class Head(BaseModel):
    """Data common to the shards of a directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    equipment: Equipment
    machines: tuple[str, ...]
    windows: int
    warm_up_run: int


@dataclass(frozen=True, slots=True)
class Windows:
    """Labelled windows of machines of one topology. Values stay on disk, so it is cheap to pickle.

    Args:
        directory: of the Parquet shards.
        equipment: topology of all machines, which differ in id and name only.
        machines: their ids, in the order of `labels.machine_W`.
        labels: of the W windows, in order of machine and time.
        configuration_W: number of the combination of all components' grades.
        group_W: number of the group, which a split never divides: the configuration where a window
            is graded, else its machine.
        warm_up_W: true in a warm-up.
        baselines: of the machines, see `train.data.machine_baselines`; empty without.
        baseline_W: true in the baseline of a machine.
    """

    directory: StoragePath
    equipment: Equipment
    machines: tuple[str, ...]
    labels: WindowLabels
    configuration_W: Integers
    group_W: Integers
    warm_up_W: Booleans
    baseline_W: Booleans
    baselines: tuple[Baseline | None, ...] = ()

    def __len__(self) -> int:
        """Return W."""
        return len(self.labels)

    def batches(self, chosen_W: Integers, size: int = 512) -> Iterator[tuple[Integers, Floats]]:
        """Read windows in order of their positions; memory does not grow with their number.

        Args:
            chosen_W: positions, in any order; repeated ones are read once.
            size: most windows of a batch; fewer for large windows.

        Yields:
            Positions [B] and values [B, S, N].
        """
        chosen_W = np.unique(np.asarray(chosen_W, np.int64))
        size = max(1, min(size, MOST_BYTES // window_bytes(self.equipment)))
        pending: list[tuple[Integers, Floats]] = []
        count = 0
        for positions, values in read_chosen(self.directory, self.equipment, chosen_W):
            pending.append((positions, values))
            count += len(positions)
            while count >= size:
                positions_B, values_BSN = _joined(pending)
                yield positions_B[:size], values_BSN[:size]
                pending = [(positions_B[size:], values_BSN[size:])]
                count -= size
        if count:
            yield _joined(pending)

    def values(self, chosen_W: Integers) -> Floats:
        """Read a few windows.

        Args:
            chosen_W: positions, in any order.

        Returns:
            [B, S, N] in the given order.

        Raises:
            ValueError: the values are larger than `MOST_BYTES`.
        """
        chosen_W = np.asarray(chosen_W, np.int64)
        bound = MOST_BYTES // window_bytes(self.equipment)
        if len(chosen_W) > bound:
            raise ValueError(
                f"expected at most {bound} windows at once, found {len(chosen_W)}: read batches"
            )
        shape = (len(chosen_W), len(self.equipment.sensors), self.equipment.bins)
        values_BSN = np.empty(shape, np.float32)
        wanted, place_B = np.unique(chosen_W, return_inverse=True)
        for positions, values in read_chosen(self.directory, self.equipment, wanted):
            mine_B = np.flatnonzero((chosen_W >= positions[0]) & (chosen_W <= positions[-1]))
            values_BSN[mine_B] = values[place_B[mine_B] - np.searchsorted(wanted, positions[0])]
        return values_BSN

    def dataset(self, chosen_W: Integers) -> "ray.data.Dataset":
        """Return windows as a Ray dataset of rows `{position: int64, values: float32 [S, N]}`.

        The order of rows is arbitrary. Ray must be running, and all nodes must share the directory.

        Args:
            chosen_W: positions.
        """
        import ray.data

        from train.data.session import free_cpus

        rising_W = np.unique(np.asarray(chosen_W, np.int64))
        # one task per row group: the memory of a worker does not depend on the size of a shard
        groups = [
            {"shard": name, "group": group} for name, group in groups_of(self.directory, rising_W)
        ]
        nothing = [{"shard": shards(self.directory)[0].name, "group": 0}]
        read = partial(
            read_groups, directory=self.directory, rising_W=rising_W, equipment=self.equipment
        )
        return ray.data.from_items(
            groups or nothing, override_num_blocks=max(1, len(groups))
        ).map_batches(read, batch_size=1, batch_format="numpy", num_cpus=min(1.0, free_cpus() / 2))


def write_windows(
    directory: StoragePath,
    equipment: Equipment,
    machines: Sequence[str],
    labels: WindowLabels,
    values: Iterable[Floats],
    warm_up_run: int = 50,
) -> Windows:
    """Write a small number of windows to a new directory and open it.

    Args:
        directory: without shards; created if it does not exist.
        equipment: topology of all machines.
        machines: their ids.
        labels: of all windows.
        values: blocks [B, S, N] of the windows' bins in the order of `labels`.
        warm_up_run: length from which a run of unstable windows is a warm-up.

    Raises:
        ValueError: windows, sensors or bins do not match labels and topology.
    """
    make_directory(directory)
    first = 0
    for number, block in enumerate(blocks_of(values, equipment)):
        rows = np.arange(first, min(first + len(block), len(labels)))
        write_shard(directory, number, equipment, first, labels.only(rows), block)
        first += len(block)
    if first != len(labels):
        raise ValueError(f"expected values of {len(labels)} windows, found {first}")
    return finish(
        directory,
        Head(equipment=equipment, machines=tuple(machines), windows=first, warm_up_run=warm_up_run),
    )


def finish(directory: StoragePath, head: Head) -> Windows:
    """Mark the shards of a directory as finished, and open them."""
    write_whole(directory / HEAD, head.model_dump_json().encode())
    return open_windows(directory)


def open_windows(directory: StoragePath) -> Windows:
    """Open the windows of a directory.

    Args:
        directory: written by `write_windows` or `train.data.prepare`.

    Raises:
        InputError: the directory is unfinished, or shards are missing.
    """
    try:
        head = Head.model_validate(json.loads((directory / HEAD).read_bytes()))
    except FileNotFoundError as error:
        raise InputError(
            f"expected prepared windows with '{HEAD}' in '{directory}', found none: prepare them "
            "again",
            "directory",
        ) from error
    paths = shards(directory)
    found = sum(metadata(path).num_rows for path in paths)
    if not paths or found != head.windows:
        raise InputError(
            f"expected {head.windows} windows in '{directory}', found {found}: delete it and "
            "prepare them again",
            "directory",
        )
    labels = read_labels(directory, len(head.equipment.components))
    configuration_W = configurations(labels.grade_WV)
    return Windows(
        directory=directory,
        equipment=head.equipment,
        machines=head.machines,
        labels=labels,
        configuration_W=configuration_W,
        group_W=groups(labels, configuration_W),
        warm_up_W=_warm_up_of_machines(labels, configuration_W, head.warm_up_run),
        baseline_W=np.zeros(len(labels), np.bool_),
    )


def groups(labels: WindowLabels, configuration_W: Integers) -> Integers:
    """Number the groups: the configuration where any component is graded, else the machine."""
    graded_W = (labels.grade_WV >= 0).any(axis=1)
    pairs_W2 = np.stack([~graded_W, np.where(graded_W, configuration_W, labels.machine_W)], axis=1)
    _, group_W = np.unique(pairs_W2, axis=0, return_inverse=True)
    return group_W.reshape(-1).astype(np.int64)


def _warm_up_of_machines(labels: WindowLabels, configuration_W: Integers, run: int) -> Booleans:
    marked_W = np.zeros(len(labels), np.bool_)
    for machine in np.unique(labels.machine_W):
        mine_W = labels.machine_W == machine
        marked_W[mine_W] = warm_up(configuration_W[mine_W], labels.stable_W[mine_W], run)
    return marked_W


def _joined(parts: Sequence[tuple[Integers, Floats]]) -> tuple[Integers, Floats]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([each[0] for each in parts]), np.concatenate([each[1] for each in parts])
