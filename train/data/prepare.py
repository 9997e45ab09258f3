"""Prepare labelled windows: copy them from the store to Parquet shards with Ray Data, once.

A task reads the windows of one shard through `app.store` and writes the shard; it receives
positions, not values. On a cluster all nodes must share the directory and reach the database.
Invariant: the values of a window are those of the grid, bit for bit, in the order of
`Equipment.sensors`; the directory's name is a digest of everything that values and labels depend
on.
"""

import asyncio
import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import ray
import ray.data
import ray.exceptions
from numpy.typing import NDArray

from app.core.errors import HydraulicDiagnosticsError, StoreError
from app.core.settings import Settings
from app.features.binning import Floats
from app.schemas.equipment import METADATA, Equipment
from app.store.store import Store, open_store
from app.store.windows import decode_window
from train.config import TrainConfig
from train.data.artifact_locks import in_use
from train.data.labels import (
    EPOCH,
    MICROSECOND,
    History,
    Integers,
    WindowLabels,
    join_labels,
    label_windows,
)
from train.data.session import free_cpus, ray_session
from train.data.shards import windows_of_a_shard, write_shard
from train.data.windows import BEGUN, HEAD, Head, Windows, finish, open_windows

FORMAT = "1"
"""Format of the shards; a new one invalidates all prepared windows."""

READ_AT_ONCE = 64
"""Most adjacent windows in a span, and most spans in a statement."""

ASK_AT_ONCE = 10_000
"""Windows that one statement checks for readings."""

TASKS = 8
"""Smallest number of shards, for parallel tasks and workers."""

LEAST = 64
"""Smallest number of windows in a shard."""

CPU_OF_A_TASK = 1.0
"""CPUs that a task reserves: starting a process takes longer than reading, so one per processor;
fewer where the service beside it leaves less."""

MOST_SHOWN = 20
"""Known machines that a message lists at most."""

IMPORT_HINT = (
    "send its readings and labels (the shipped rig: `hydraulic demo import-rig`) and train again"
)


@dataclass(frozen=True, slots=True)
class _Found:
    """Topology, machines and windows with readings, as found in the store."""

    equipment: Equipment
    machines: tuple[str, ...]
    labels: WindowLabels
    digest: str


class _Span(NamedTuple):
    """Adjacent or overlapping windows of a machine, by position in the shard, and their bins."""

    places: list[int]
    first: int
    end: int


@contextmanager
def prepare(settings: Settings, config: TrainConfig) -> Iterator[Windows]:
    """Write the labelled windows of a training to shards under `var/training`, or reuse them.

    During the block they are locked against `train.jobs.prune`.

    Args:
        settings: database and `var` directory.
        config: names the machines by `equipment` (ids, or a pattern with `*`) or `design`, and
            gives interval, stride, cap and warm-up.

    Yields:
        The windows with at least one reading.

    Raises:
        StoreError: no machine is found, machines differ in structure, labels or readings are
            missing, or the workers failed.
        InputError: a label does not fit the topology.
    """
    found = asyncio.run(_look(settings, config))
    directory = settings.var_dir / "training" / found.digest[:16]
    with ExitStack() as stack:
        # windows that are pruned between preparation and use are prepared again
        while not stack.enter_context(in_use(directory / HEAD)):
            _make(settings, config, found, directory)
        yield open_windows(directory)


def _make(settings: Settings, config: TrainConfig, found: _Found, directory: Path) -> None:
    """Write shards to a temporary directory and rename it, unless another process was faster."""
    partial_directory = directory.with_name(f"{directory.name}.{uuid4().hex[:8]}.partial")
    partial_directory.mkdir(parents=True)
    try:
        (partial_directory / BEGUN).touch()
        with in_use(partial_directory / BEGUN):
            with ray_session(1):
                _write(settings, found, partial_directory)
            head = Head(
                equipment=found.equipment,
                machines=found.machines,
                windows=len(found.labels),
                warm_up_run=config.warm_up_run,
            )
            finish(partial_directory, head)
            _publish(partial_directory, directory)
    finally:
        shutil.rmtree(partial_directory, ignore_errors=True)


async def _look(settings: Settings, config: TrainConfig) -> _Found:
    """List the windows of the store without reading their values."""
    store = open_store(settings)
    try:
        await store.migrate()
        machines = await _machines(
            store, None if config.design else config.equipment, config.design
        )
        parts: list[WindowLabels] = []
        labelled: list[Equipment] = []
        for equipment in machines:
            part = await _windows_of(store, equipment, len(labelled), config)
            if part is not None:
                parts.append(part)
                labelled.append(equipment)
        named = config.design or config.equipment
        if not parts:
            raise StoreError(
                f"expected condition labels of '{named}' in the store{_interval(config)}, found "
                f"none: {IMPORT_HINT}"
            )
        labels = join_labels(parts)
        equipment = labelled[0]
        intervals = [
            (labelled[machine].equipment_id, start_us // equipment.grid_us, equipment.bins)
            for machine, start_us in zip(
                labels.machine_W.tolist(), labels.start_us_W.tolist(), strict=True
            )
        ]
        filled_W = np.array(
            [
                is_filled
                for begin in range(0, len(intervals), ASK_AT_ONCE)
                for is_filled in await store.filled_windows(intervals[begin : begin + ASK_AT_ONCE])
            ],
            np.bool_,
        )
        if not filled_W.any():
            raise StoreError(
                f"expected readings of '{named}' in its {len(labels)} labelled windows of "
                f"{equipment.window_s:g} s, found none: {IMPORT_HINT}"
            )
        labels = labels.only(filled_W)
        digest = await _digest(store, labelled, labels, config.warm_up_run)
        return _Found(equipment, tuple(each.equipment_id for each in labelled), labels, digest)
    finally:
        await store.close()


async def _machines(store: Store, pattern: str | None, design: str | None) -> list[Equipment]:
    """Return the machines of a pattern or design; all share one structure."""
    named = design or pattern
    patterns: list[str | None] = [None]
    if pattern is not None:
        patterns = [*pattern.split(",")]
    ids_of = {each: await store.find_equipment(each, design) for each in patterns}
    ids = sorted({equipment_id for found in ids_of.values() for equipment_id in found})
    if absent := [each or "" for each, found in ids_of.items() if not found]:
        named = design or ", ".join(absent)
        known = await store.find_equipment()
        more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
        listed = ", ".join(known[:MOST_SHOWN]) + more
        raise StoreError(
            f"expected '{named}' in the store, found {listed or 'no equipment at all'}: "
            f"{IMPORT_HINT}"
        )
    records = await store.get_equipment_of(ids)
    machines = [records[equipment_id].equipment for equipment_id in ids]
    for other in machines[1:]:
        if other.structure() != machines[0].structure():
            raise StoreError(
                f"expected all machines of '{named}' to differ in id and name only, found "
                f"'{other.equipment_id}' with another {_difference(machines[0], other)} than "
                f"'{machines[0].equipment_id}': train them separately, or register one topology"
            )
    return machines


def _interval(config: TrainConfig) -> str:
    ends = [
        f" {word} {at.isoformat()}"
        for word, at in (("from", config.start), ("until", config.end))
        if at is not None
    ]
    return "".join(ends)


def _difference(first: Equipment, other: Equipment) -> str:
    one, two = first.model_dump(mode="json"), other.model_dump(mode="json")
    return next(
        name
        for name in one
        if name not in {"equipment_id", "name", *METADATA} and one[name] != two[name]
    )


async def _windows_of(
    store: Store, equipment: Equipment, machine: int, config: TrainConfig
) -> WindowLabels | None:
    labels = await store.read_labels(equipment.equipment_id)
    if not labels:
        return None
    bins = await store.data_range(equipment.equipment_id)
    found = label_windows(
        equipment,
        labels,
        machine=machine,
        rul_cap_h=config.rul_cap_h,
        stride_s=config.stride_s,
        history=None
        if bins is None
        else History(bins.first * equipment.grid_us, bins.end * equipment.grid_us),
    )
    inside_W = np.ones(len(found), np.bool_)
    if config.start is not None:
        inside_W &= found.start_us_W >= (config.start - EPOCH) // MICROSECOND
    if config.end is not None:
        end_us_W = found.start_us_W + equipment.bins * equipment.grid_us
        inside_W &= end_us_W <= (config.end - EPOCH) // MICROSECOND
    return found.only(inside_W) if inside_W.any() else None


async def _digest(
    store: Store, machines: Sequence[Equipment], labels: WindowLabels, warm_up_run: int
) -> str:
    """Return the SHA-256 of format, structure, machines, labels and the grid under the windows."""
    window_us = machines[0].bins * machines[0].grid_us
    intervals = []
    for machine, equipment in enumerate(machines):
        start_us_W = labels.start_us_W[labels.machine_W == machine]
        if len(start_us_W):
            intervals.append(
                (equipment.equipment_id, int(start_us_W.min()), int(start_us_W.max()) + window_us)
            )
    sha256 = hashlib.sha256()
    for text in (
        FORMAT,
        machines[0].structure_digest,
        str(warm_up_run),
        *(each.equipment_id for each in machines),
    ):
        sha256.update(text.encode() + b"\0")
    for each in fields(labels):
        sha256.update(np.ascontiguousarray(getattr(labels, each.name)).tobytes())
    for text in await store.grid_digests(intervals):
        sha256.update(text.encode() + b"\0")
    return sha256.hexdigest()


def _write(settings: Settings, found: _Found, directory: Path) -> None:
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
    found: "ray.ObjectRef[_Found]",
    directory: Path,
) -> dict[str, NDArray[Any]]:
    """Write the shards of the rows; return an error as text, since Ray retries raised errors."""
    planned: _Found = ray.get(found)
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


def _publish(partial_directory: Path, directory: Path) -> None:
    """Rename finished shards, unless another process was faster."""
    try:
        partial_directory.rename(directory)
    except OSError:
        if not (directory / HEAD).exists():
            raise
