"""Prepare labelled windows: copy them from the store to Parquet shards with Ray Data, once.

A task reads the windows of one shard through `app.store` and writes the shard; it receives
positions, not values. On a cluster all nodes reach the place of the shards and the database.
Invariant: the values of a window are those of the grid, bit for bit, in the order of
`Equipment.sensors`; the directory's name is a digest of everything that values and labels depend
on.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.data
import ray.exceptions
from numpy.typing import NDArray

from app.core.errors import HydraulicDiagnosticsError, StoreError
from app.core.settings import Settings
from app.core.shared_storage import StoragePath
from app.features.binning import Floats
from app.schemas.equipment import Equipment
from app.store.store import open_store
from app.store.windows import decode_window
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.labels import Integers, WindowLabels
from train.data.lookup import Found, find_windows
from train.data.machine_baselines import with_baselines
from train.data.made_once import made_once
from train.data.session import free_cpus, ray_session
from train.data.shards import windows_of_a_shard, write_shard
from train.data.windows import Head, finish

READ_AT_ONCE = 64
"""Most adjacent windows in a span, and most spans in a statement."""

TASKS = 8
"""Smallest number of shards, for parallel tasks and workers."""

LEAST = 64
"""Smallest number of windows in a shard."""

CPU_OF_A_TASK = 1.0
"""CPUs that a task reserves: starting a process takes longer than reading, so one per processor;
fewer where the service beside it leaves less."""


class _Span(NamedTuple):
    """Adjacent or overlapping windows of a machine, by position in the shard, and their bins."""

    places: list[int]
    first: int
    end: int


@contextmanager
def prepare(settings: Settings, training: StoragePath, config: TrainConfig) -> Iterator[Fleet]:
    """Write the labelled windows of a training to shards, or reuse them.

    During the block they are locked against `train.jobs.prune`. Each design has a directory of its
    own, so a training with a further design prepares the windows of that design only.

    Args:
        settings: the database.
        training: directory of trainings, which all nodes reach.
        config: names the machines by `equipment` (ids, or a pattern with `*`) or `design`, and
            gives interval, stride, cap, warm-up and baselines.

    Yields:
        The windows with at least one reading.

    Raises:
        StoreError: no machine is found, machines of a design differ in structure, labels or
            readings of a design are missing, or the workers failed.
        InputError: a label does not fit the topology.
    """
    designs = asyncio.run(find_windows(settings, config))
    with ExitStack() as stack:
        opened = []
        for found in designs:
            directory = training / found.digest[:16]
            opened.append(made_once(stack, directory, partial(_make, settings, config, found)))
        yield with_baselines(Fleet(tuple(opened)), config.machine_baseline_h)


def _make(settings: Settings, config: TrainConfig, found: Found, directory: StoragePath) -> None:
    with ray_session(1):
        _write(settings, found, directory)
    head = Head(
        equipment=found.equipment,
        machines=found.machines,
        windows=len(found.labels),
        warm_up_run=config.warm_up_run,
    )
    finish(directory, head)


def _write(settings: Settings, found: Found, directory: StoragePath) -> None:
    """Write all shards with Ray Data tasks."""
    size = max(LEAST, min(windows_of_a_shard(found.equipment), -(-len(found.labels) // TASKS)))
    places = [
        {"shard": shard, "first": first, "end": min(first + size, len(found.labels))}
        for shard, first in enumerate(range(0, len(found.labels), size))
    ]
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # the labels of all windows go to each node once; the secrets in the settings print as stars
    cpus = min(CPU_OF_A_TASK, free_cpus())
    task = partial(
        _write_rows, settings=settings, found=ray.put(found), directory=directory.absolute()
    )
    rows = ray.data.from_items(places, override_num_blocks=len(places))
    try:
        written = rows.map_batches(task, batch_size=1, batch_format="numpy", num_cpus=cpus)
        for columns in written.iter_batches(batch_size=None, batch_format="numpy"):
            for error in columns["error"].tolist():
                if error:
                    raise StoreError(error)
    except ray.exceptions.RayError as error:
        raise StoreError(
            f"expected the workers to prepare {len(found.labels)} windows, found "
            f"{type(error).__name__}: {error}; run the command again"
        ) from error


def _write_rows(
    rows: Mapping[str, NDArray[Any]],
    settings: Settings,
    found: "ray.ObjectRef[Found]",
    directory: StoragePath,
) -> dict[str, NDArray[Any]]:
    """Write the shards of the rows; return an error as text, since Ray retries raised errors."""
    planned: Found = ray.get(found)
    error = ""
    for shard, first, end in zip(
        rows["shard"].tolist(), rows["first"].tolist(), rows["end"].tolist(), strict=True
    ):
        labels = planned.labels.only(np.arange(first, end))
        try:
            values_BSN = asyncio.run(
                _read_values(settings, planned.equipment, planned.machines, labels)
            )
        except HydraulicDiagnosticsError as failed:
            error = failed.message
            break
        write_shard(directory, shard, planned.equipment, first, labels, values_BSN)
    return {"error": np.array([error])}


async def _read_values(
    settings: Settings, equipment: Equipment, machines: Sequence[str], labels: WindowLabels
) -> Floats:
    """Read the bins of windows, [B, S, N]."""
    values_BSN = np.full((len(labels), len(equipment.sensors), equipment.bins), np.nan, np.float32)
    first_B = labels.start_us_W // equipment.grid_us
    spans = list(_spans(labels.machine_W, first_B, equipment.bins))
    store = open_store(settings)
    try:
        for begin in range(0, len(spans), READ_AT_ONCE):
            some = spans[begin : begin + READ_AT_ONCE]
            intervals = [
                (machines[int(labels.machine_W[span.places[0]])], span.first, span.end - span.first)
                for span in some
            ]
            for span, stored in zip(some, await store.read_windows(intervals), strict=True):
                if stored.grid_us != equipment.grid_us:  # bins of another width have other numbers
                    raise StoreError(
                        f"expected bins of {equipment.grid_us} us for '{stored.equipment_id}', "
                        f"found {stored.grid_us} us: its topology changed meanwhile; run the "
                        "command again"
                    )
                bins_SM = decode_window(stored, equipment)
                for place in span.places:
                    offset = int(first_B[place]) - span.first
                    values_BSN[place] = bins_SM[:, offset : offset + equipment.bins]
    finally:
        await store.close()
    return values_BSN


def _spans(machine_B: Integers, first_B: Integers, bins: int) -> Iterator[_Span]:
    """Join adjacent windows of a machine, so that shared bins are read once."""
    places: list[int] = []
    for place in range(len(first_B)):
        if places:
            last, first = places[-1], int(first_B[places[0]])
            beside = machine_B[place] == machine_B[last] and first_B[place] <= first_B[last] + bins
            if not beside or first_B[place] + bins - first > READ_AT_ONCE * bins:
                yield _Span(places, first, int(first_B[last]) + bins)
                places = []
        places.append(place)
    if places:
        yield _Span(places, int(first_B[places[0]]), int(first_B[places[-1]]) + bins)
