"""Prepares labelled windows: from a store to Parquet shards by a Ray Data job, once; what is there already is taken as it is.

Does no training and makes no features. A task reads the windows of one shard through `app.store` and writes it; only places travel to
it, no values. On a cluster every node must see the directory of the shards and reach the database.
Invariant: a window's values are the grid's, bit for bit, in the order of `Equipment.sensors`, and the directory's name changes with
anything that they or their labels follow from.
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
from app.schemas.equipment import Equipment
from app.store.open import open_store
from app.store.store import Store
from app.store.windows import decode_window
from train.config import TrainConfig
from train.data.artifact_locks import in_use
from train.data.labels import (
    EPOCH,
    MICROSECOND,
    History,
    Integers,
    Label,
    WindowLabels,
    join_labels,
    label_windows,
)
from train.data.session import ray_session
from train.data.shards import windows_of_a_shard, write_shard
from train.data.windows import BEGUN, HEAD, Head, Windows, finish, open_windows

FORMAT = "1"
"""Of the shards; another one makes all be prepared again."""

READ_AT_ONCE = 64
"""Windows, side by side, whose bins are read as one span, and spans of one statement."""

ASK_AT_ONCE = 10_000
"""Windows that one statement asks for readings."""

TASKS = 8
"""Shards that windows are dealt to at least, so that tasks and workers have something to share."""

LEAST = 64
"""Windows of a shard at least."""

CPU_OF_A_TASK = 1
"""What a task asks of Ray: a process starts more slowly than it reads, so there are no more than processors."""

IMPORT_HINT = (
    "import it with its labels (the shipped rig: `python -m app.demo import-rig`) and train again"
)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the store has for a training: the topology, the machines and the windows that hold readings."""

    equipment: Equipment
    machines: tuple[str, ...]
    labels: WindowLabels
    digest: str


class _Span(NamedTuple):
    """Windows of a shard, by place, that lie side by side or overlap on one machine, and the bins that they cover."""

    places: list[int]
    first: int
    end: int


@contextmanager
def prepare(settings: Settings, config: TrainConfig) -> Iterator[Windows]:
    """Write the labelled windows of a training to shards under `var/training`, or take those that are there.

    For the length of the block they are in use: `train.jobs.prune` leaves them.

    Args:
        settings: which database; and where `var` is.
        config: names the machines by `equipment` (an id, or a pattern with `*`) or `design`; stride, cap and warm-up.

    Yields:
        The windows that hold any reading.

    Raises:
        StoreError: no machine is found, one has another structure than the others, or there are no labels or no readings; or the
            workers failed.
        InputError: a label does not fit the topology.
    """
    found = asyncio.run(_look(settings, config))
    directory = settings.var_dir / "training" / found.digest[:16]
    with ExitStack() as stack:
        # what is pruned between its preparation and its use is prepared again
        while not stack.enter_context(in_use(directory / HEAD)):
            _make(settings, config, found, directory)
        yield open_windows(directory)


def _make(settings: Settings, config: TrainConfig, found: _Found, directory: Path) -> None:
    """Write the shards beside their place and move them there, unless another process is faster."""
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
            _take_place(partial_directory, directory)
    finally:
        shutil.rmtree(partial_directory, ignore_errors=True)


async def _look(settings: Settings, config: TrainConfig) -> _Found:
    """Find out which windows there are, without reading them."""
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
                f"expected condition labels of '{named}' in the store, found none: {IMPORT_HINT}"
            )
        labels = join_labels(parts)
        equipment = labelled[0]
        asked = [
            (labelled[machine].equipment_id, start_us // equipment.grid_us, equipment.bins)
            for machine, start_us in zip(
                labels.machine_W.tolist(), labels.start_us_W.tolist(), strict=True
            )
        ]
        filled_W = np.array(
            [
                is_filled
                for begin in range(0, len(asked), ASK_AT_ONCE)
                for is_filled in await store.filled_windows(asked[begin : begin + ASK_AT_ONCE])
            ],
            np.bool_,
        )
        if not filled_W.any():
            raise StoreError(
                f"expected readings of '{named}' in its {len(labels)} labelled windows of {equipment.window_s:g} s, found none: "
                f"{IMPORT_HINT}"
            )
        labels = labels.only(filled_W)
        digest = await _digest(store, labelled, labels, config.warm_up_run)
        return _Found(equipment, tuple(each.equipment_id for each in labelled), labels, digest)
    finally:
        await store.close()


async def _machines(store: Store, pattern: str | None, design: str | None) -> list[Equipment]:
    """Return the machines that are asked for, all of one structure."""
    named = design or pattern
    ids = await store.find_equipment(pattern, design)
    if not ids:
        known = await store.find_equipment()
        told = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise StoreError(
            f"expected '{named}' in the store, found {told or 'no equipment at all'}: {IMPORT_HINT}"
        )
    records = await store.get_equipment_of(ids)
    machines = [records[equipment_id].equipment for equipment_id in ids]
    for other in machines[1:]:
        if other.structure() != machines[0].structure():
            raise StoreError(
                f"expected all machines of '{named}' to differ in id and name only, found that '{other.equipment_id}' has another "
                f"{_difference(machines[0], other)} than '{machines[0].equipment_id}': train them apart, or register one topology"
            )
    return machines


def _difference(first: Equipment, other: Equipment) -> str:
    ours, theirs = first.model_dump(mode="json"), other.model_dump(mode="json")
    return next(
        name for name in ours if name not in {"equipment_id", "name"} and ours[name] != theirs[name]
    )


async def _windows_of(
    store: Store, equipment: Equipment, machine: int, config: TrainConfig
) -> WindowLabels | None:
    rows = await store.read_labels(equipment.equipment_id)
    bins = await store.data_range(equipment.equipment_id) if rows else None
    if not rows:
        return None
    labels = [
        Label(
            component_id=row.component_id,
            start=EPOCH + row.start_us * MICROSECOND,
            end=EPOCH + row.end_us * MICROSECOND,
            grade=row.grade,
            stable=row.stable,
            health=row.health,
            run_to_failure=row.run_to_failure,
        )
        for row in rows
    ]
    return label_windows(
        equipment,
        labels,
        machine=machine,
        rul_cap_h=config.rul_cap_h,
        stride_s=config.stride_s,
        history=None
        if bins is None
        else History(bins.first * equipment.grid_us, bins.end * equipment.grid_us),
    )


async def _digest(
    store: Store, machines: Sequence[Equipment], labels: WindowLabels, warm_up_run: int
) -> str:
    """Return the SHA-256 of all that the shards follow from: format, structure, machines, labels, and the grid under the windows."""
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
    """Write all shards by tasks of Ray Data."""
    size = max(LEAST, min(windows_of_a_shard(found.equipment), -(-len(found.labels) // TASKS)))
    places = [
        {"shard": shard, "first": first, "end": min(first + size, len(found.labels))}
        for shard, first in enumerate(range(0, len(found.labels), size))
    ]
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # the labels of all windows go to each node once; nothing here is a secret but the settings, which print as stars
    task = partial(
        _write_rows, settings=settings, found=ray.put(found), directory=directory.absolute()
    )
    rows = ray.data.from_items(places, override_num_blocks=len(places))
    try:
        written = rows.map_batches(task, batch_size=1, batch_format="numpy", num_cpus=CPU_OF_A_TASK)
        for columns in written.iter_batches(batch_size=None, batch_format="numpy"):
            for error in columns["error"].tolist():
                if error:
                    raise StoreError(error)
    except ray.exceptions.RayError as error:
        raise StoreError(
            f"expected the workers to prepare {len(found.labels)} windows, found {type(error).__name__}: {error}; start it again"
        ) from error


def _write_rows(
    rows: Mapping[str, NDArray[Any]],
    settings: Settings,
    found: "ray.ObjectRef[_Found]",
    directory: Path,
) -> dict[str, NDArray[Any]]:
    """Write the shards of these rows; an error comes back as text, since Ray would try a raised one again."""
    ours: _Found = ray.get(found)
    error = ""
    for shard, first, end in zip(
        rows["shard"].tolist(), rows["first"].tolist(), rows["end"].tolist(), strict=True
    ):
        labels = ours.labels.only(np.arange(first, end))
        try:
            values_BSN = asyncio.run(_read_values(settings, ours.equipment, ours.machines, labels))
        except HydraulicDiagnosticsError as failed:
            error = failed.message
            break
        write_shard(directory, shard, ours.equipment, first, labels, values_BSN)
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
            asked = [
                (machines[int(labels.machine_W[span.places[0]])], span.first, span.end - span.first)
                for span in some
            ]
            for span, stored in zip(some, await store.read_windows(asked), strict=True):
                if (
                    stored.grid_us != equipment.grid_us
                ):  # bins of another width have other numbers, so none would be found
                    raise StoreError(
                        f"expected bins of {equipment.grid_us} us for '{stored.equipment_id}', found {stored.grid_us} us: its "
                        "topology was changed meanwhile; start again"
                    )
                bins_SM = decode_window(stored, equipment)
                for place in span.places:
                    offset = int(first_B[place]) - span.first
                    values_BSN[place] = bins_SM[:, offset : offset + equipment.bins]
    finally:
        await store.close()
    return values_BSN


def _spans(machine_B: Integers, first_B: Integers, bins: int) -> Iterator[_Span]:
    """Join neighbouring windows of a machine, so that bins that they share are read once."""
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


def _take_place(partial_directory: Path, directory: Path) -> None:
    """Give finished shards their name, unless another process was faster with the same."""
    try:
        partial_directory.rename(directory)
    except OSError:
        if not (directory / HEAD).exists():
            raise
