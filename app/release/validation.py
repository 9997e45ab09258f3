"""Whether a checkpoint may be registered or deployed: loads it, scores every registered machine of its designs, and labelled windows.

Invariant: a checkpoint that passes was loaded and run here as a replica would, on every topology that it will meet.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.checkpoint.files import Checkpoint, load
from app.checkpoint.manifest import DataInterval
from app.checkpoint.predictor import open_predictor
from app.core.errors import CheckpointError, WindowError
from app.diagnosis.window_plan import build_windows, plan_windows
from app.features.binning import Floats
from app.model.graph import Prediction
from app.model.runtime.predictor import Predictor
from app.release.warm_up import wave
from app.schemas.equipment import Equipment
from app.store.store import Store
from app.store.windows import decode_window

MAX_REFERENCE_WINDOWS = 240
WINDOWS_OF_A_BATCH = 24
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ComponentScore(NamedTuple):
    """How often a component's grade was told right on labelled windows."""

    design: str
    component_id: str
    right: int
    windows: int


def validate(directory: Path, version: str | None) -> Checkpoint:
    """Load a checkpoint: hashes, shapes, feature spec; the network's answers are finite and the same in every implementation.

    Args:
        directory: of the checkpoint.
        version: that its manifest must have; None for any.

    Raises:
        CheckpointError: a part is missing, cut, changed or does not fit, or it is another version's.
    """
    checkpoint = load(directory)
    found = checkpoint.manifest.version
    if version is not None and found != version:
        raise CheckpointError(
            f"expected version {version} in '{directory}', found version {found}: name the right directory or version"
        )
    return checkpoint


def warm_up(checkpoint: Checkpoint, machines: Sequence[Equipment]) -> list[str]:
    """Score a window of every topology among the machines of the checkpoint's designs.

    Returns:
        A line for each topology.

    Raises:
        CheckpointError: a machine's topology does not fit, or its scores are not finite.
    """
    predictor = open_predictor(checkpoint).predictor
    lines = []
    for machine in _one_of_each_topology(checkpoint, machines):
        values = np.array(
            [
                wave(*placed.sensor.range, machine.bins, place)
                for place, placed in enumerate(machine.sensors)
            ],
            dtype=np.float32,
        ).reshape(len(machine.sensors), machine.bins)
        prediction = _predict(checkpoint, predictor, machine, values[np.newaxis])
        if not np.isfinite(prediction.health_WV).all():
            raise CheckpointError(
                f"expected finite health of every component of '{machine.equipment_id}', found some that is not: train again"
            )
        lines.append(
            f"warm-up on the topology of '{machine.equipment_id}' ({machine.design}): every health is finite"
        )
    return lines


async def reference_score(
    checkpoint: Checkpoint, machines: Sequence[Equipment], store: Store
) -> list[ComponentScore]:
    """Score labelled windows of the store: stable ones, spread over the time of each machine of the checkpoint's designs.

    Windows that touch the manifest's data interval are left out: the weights were fitted on them and their score would flatter.

    Returns:
        For each component how often its grade was told right; empty when the store has no other labelled windows.

    Raises:
        StoreError: the database can't be reached.
    """
    predictor = open_predictor(checkpoint).predictor
    counted: dict[tuple[str, str], list[bool]] = {}
    for machine in machines:
        if machine.design not in checkpoint.manifest.designs:
            continue
        grades = checkpoint.feature_spec.grades.get(machine.design, {})
        windows = await _labelled(machine, store, checkpoint.manifest.data)
        for start in range(0, len(windows), WINDOWS_OF_A_BATCH):
            part = windows[start : start + WINDOWS_OF_A_BATCH]
            read = await store.read_windows(
                [(machine.equipment_id, first, machine.bins) for first, _ in part]
            )
            full = [
                (window, told) for window, (_, told) in zip(read, part, strict=True) if window.count
            ]
            if not full:
                continue
            values = np.stack([decode_window(window, machine) for window, _ in full])
            prediction = _predict(checkpoint, predictor, machine, values)
            for share_VK, (_, told) in zip(prediction.probability_WVK, full, strict=True):
                for place, component in enumerate(machine.components):
                    known = grades.get(component.component_id)
                    if known is None or component.component_id not in told:
                        continue
                    likely = int(np.argmax(share_VK[place, : len(known)]))
                    right = known[likely].name == told[component.component_id]
                    counted.setdefault((machine.design, component.component_id), []).append(right)
    return [ComponentScore(*key, sum(found), len(found)) for key, found in sorted(counted.items())]


async def _labelled(
    machine: Equipment, store: Store, seen: DataInterval
) -> list[tuple[int, dict[str, str]]]:
    """Return the first bins of labelled windows outside of an interval, spread over time, with the grade of each component."""
    told: dict[int, dict[str, str]] = {}
    window = timedelta(seconds=machine.window_s)
    for label in await store.read_labels(machine.equipment_id):
        if (
            not label.stable
            or label.grade is None
            or label.end_us - label.start_us < machine.bins * machine.grid_us
        ):
            continue
        first = -(-label.start_us // machine.grid_us)
        start = EPOCH + timedelta(microseconds=first * machine.grid_us)
        if start >= seen.end or start + window <= seen.start:
            told.setdefault(first, {})[label.component_id] = label.grade
    windows = sorted(told.items())
    step = max(1, -(-len(windows) // MAX_REFERENCE_WINDOWS))
    return windows[::step]


def _one_of_each_topology(
    checkpoint: Checkpoint, machines: Sequence[Equipment]
) -> Iterator[Equipment]:
    seen: set[str] = set()
    for machine in machines:
        if machine.design in checkpoint.manifest.designs and machine.structure_digest not in seen:
            seen.add(machine.structure_digest)
            yield machine


def _predict(
    checkpoint: Checkpoint, predictor: Predictor, machine: Equipment, values_WSN: Floats
) -> Prediction:
    try:
        graph, _ = build_windows(values_WSN, plan_windows(machine, checkpoint.feature_spec))
    except WindowError as error:
        raise CheckpointError(
            f"expected a checkpoint that fits the registered machine '{machine.equipment_id}' of its design '{machine.design}', "
            f"found: {error.message}"
        ) from error
    return predictor.predict([graph])[0]
