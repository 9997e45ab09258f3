"""Find the labelled windows of a training in the store, by design, without reading their values.

Invariant: the digest of a design's windows changes with everything that values and labels depend
on.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from app.core.errors import StoreError
from app.core.settings import Settings
from app.schemas.equipment import METADATA, Equipment
from app.store.store import Store, open_store
from train.config import TrainConfig
from train.data.labels import EPOCH, MICROSECOND, History, WindowLabels, join_labels, label_windows

FORMAT = "1"
"""Format of the shards; a new one invalidates all prepared windows."""

ASK_AT_ONCE = 10_000
"""Windows that one statement checks for readings."""

MOST_SHOWN = 20
"""Known machines that a message lists at most."""

IMPORT_HINT = (
    "send its readings and labels (the shipped rig: `hydraulic demo import-rig`) and train again"
)


@dataclass(frozen=True, slots=True)
class Found:
    """Topology, machines and windows with readings of a design, as found in the store."""

    equipment: Equipment
    machines: tuple[str, ...]
    labels: WindowLabels
    digest: str


async def find_windows(settings: Settings, config: TrainConfig) -> list[Found]:
    """List the windows of the store by design, without reading their values."""
    store = open_store(settings)
    try:
        await store.migrate()
        machines = await _machines(store, config)
        designs = sorted({each.design for each in machines})
        return [
            await _find_design(
                store,
                [each for each in machines if each.design == design],
                design if len(designs) > 1 else config.design or config.equipment or design,
                config,
            )
            for design in designs
        ]
    finally:
        await store.close()


async def _find_design(
    store: Store, machines: Sequence[Equipment], named: str, config: TrainConfig
) -> Found:
    parts: list[WindowLabels] = []
    labelled: list[Equipment] = []
    for equipment in machines:
        part = await _windows_of(store, equipment, len(labelled), config)
        if part is not None:
            parts.append(part)
            labelled.append(equipment)
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
    return Found(equipment, tuple(each.equipment_id for each in labelled), labels, digest)


async def _machines(store: Store, config: TrainConfig) -> list[Equipment]:
    """Return the machines of the patterns or designs; those of a design share one structure."""
    ids_of = {
        name: await store.find_equipment(*((None, name) if config.design else (name, None)))
        for name in (config.design or config.equipment or "").split(",")
    }
    ids = sorted({equipment_id for found in ids_of.values() for equipment_id in found})
    if absent := [name for name, found in ids_of.items() if not found]:
        known = await store.find_equipment()
        more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
        listed = ", ".join(known[:MOST_SHOWN]) + more
        raise StoreError(
            f"expected '{', '.join(absent)}' in the store, found "
            f"{listed or 'no equipment at all'}: {IMPORT_HINT}"
        )
    records = await store.get_equipment_of(ids)
    machines = [records[equipment_id].equipment for equipment_id in ids]
    first_of: dict[str, Equipment] = {}
    for other in machines:
        first = first_of.setdefault(other.design, other)
        if other.structure() != first.structure():
            raise StoreError(
                f"expected all machines of design '{other.design}' to differ in id and name only, "
                f"found '{other.equipment_id}' with another {_difference(first, other)} than "
                f"'{first.equipment_id}': register one topology for both, or give one of them "
                "another design"
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
        rul_cap_h=config.cap_h(equipment.design),
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
