"""Validates checkpoints before registration or deployment, by scoring windows of real machines.

Invariant: a validated checkpoint was loaded and run as a replica does, on every registered topology
of its designs.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.checkpoint.files import Checkpoint, load
from app.checkpoint.manifest import DataInterval
from app.checkpoint.predictor import open_predictor
from app.core.errors import CheckpointError, WindowError
from app.diagnosis.window_plan import build_windows, plan_windows
from app.features.baseline import Baseline
from app.features.binning import Floats
from app.model.graph import Prediction
from app.model.runtime.predictor import Predictor
from app.release.clients.service_api import wave
from app.schemas.equipment import Equipment
from app.serving.ingress.windows import EPOCH
from app.store.equipment import EquipmentRecord
from app.store.store import Store
from app.store.windows import decode_window

MAX_REFERENCE_WINDOWS = 240
BATCH_WINDOWS = 24


class ReferenceScore(NamedTuple):
    """Scores by component; empty when the store has no labelled windows but those of training.

    Args:
        components: the scores.
        skipped: a line for each machine that has no baseline that the checkpoint can use.
    """

    components: list["ComponentScore"]
    skipped: list[str]


class ComponentScore(NamedTuple):
    """How often the predicted grade of a component was right on labelled windows."""

    design: str
    component_id: str
    right: int
    windows: int


def validate(directory: Path, version: str | None) -> Checkpoint:
    """Load a checkpoint and verify hashes, shapes, feature spec and the network's outputs.

    Args:
        directory: The checkpoint.
        version: The version that its manifest must have; None for any.

    Raises:
        CheckpointError: A part is missing, truncated, changed or does not fit, or it is another
            version's.
    """
    checkpoint = load(directory)
    found = checkpoint.manifest.version
    if version is not None and found != version:
        raise CheckpointError(
            f"expected version {version} in '{directory}', found version {found}: give the right "
            "directory or version"
        )
    return checkpoint


def warm_up(checkpoint: Checkpoint, machines: Sequence[Equipment]) -> list[str]:
    """Score a window of every topology among the machines of the checkpoint's designs.

    Returns:
        A line for each topology.

    Raises:
        CheckpointError: A topology does not fit, or a health is not finite.
    """
    predictor = open_predictor(checkpoint).predictor
    topologies: dict[str, Equipment] = {}
    for machine in machines:
        if machine.design in checkpoint.manifest.designs:
            topologies.setdefault(machine.structure_digest, machine)
    lines = []
    for machine in topologies.values():
        waves = [
            wave(*placed.sensor.range, machine.bins, place)
            for place, placed in enumerate(machine.sensors)
        ]
        values_WSN = np.array([waves], dtype=np.float32).reshape(1, len(waves), machine.bins)
        prediction = _predict(checkpoint, predictor, machine, values_WSN)
        if not np.isfinite(prediction.health_WV).all():
            raise CheckpointError(
                f"expected finite health of every component of '{machine.equipment_id}', found "
                "NaN or infinity: train again"
            )
        lines.append(
            f"warm-up on the topology of '{machine.equipment_id}' ({machine.design}): every health "
            "is finite"
        )
    return lines


async def reference_score(
    checkpoint: Checkpoint, machines: Sequence[EquipmentRecord], store: Store
) -> ReferenceScore:
    """Score stable labelled windows of the store, spread over time, of the checkpoint's designs.

    Windows of the manifest's data interval are excluded, since the weights were fitted on them.

    Raises:
        StoreError: The database does not answer.
    """
    predictor = open_predictor(checkpoint).predictor
    right: dict[tuple[str, str], list[bool]] = {}
    skipped: list[str] = []
    in_force = await store.baselines([each.baseline_id for each in machines if each.baseline_id])
    for record in machines:
        machine = record.equipment
        if machine.design not in checkpoint.manifest.designs:
            continue
        stored = in_force.get(record.baseline_id or "")
        baseline = None if stored is None else Baseline.model_validate_json(stored.moments)
        try:
            plan = plan_windows(machine, checkpoint.feature_spec, baseline)
        except WindowError as error:
            skipped.append(f"'{machine.equipment_id}': {error.message}")
            continue
        if plan.summary.lacks_baseline:
            skipped.append(
                f"'{machine.equipment_id}': expected a baseline of the machine, found none: record "
                "one"
            )
            continue
        grades = checkpoint.feature_spec.grades.get(machine.design, {})
        component_ids = [component.component_id for component in machine.components]
        windows = await _labelled(machine, store, checkpoint.manifest.data)
        for start in range(0, len(windows), BATCH_WINDOWS):
            part = windows[start : start + BATCH_WINDOWS]
            read = await store.read_windows(
                [(machine.equipment_id, first, machine.bins) for first, _ in part]
            )
            full = [
                (decode_window(window, machine), labels)
                for window, (_, labels) in zip(read, part, strict=True)
                if window.count
            ]
            if not full:
                continue
            values_WSN = np.stack([values_SN for values_SN, _ in full])
            prediction = predictor.predict([build_windows(values_WSN, plan)[0]])[0]
            for share_VK, (_, labels) in zip(prediction.probability_WVK, full, strict=True):
                for place, component_id in enumerate(component_ids):
                    if component_id in labels and component_id in grades:
                        known = grades[component_id]
                        likely = known[int(np.argmax(share_VK[place, : len(known)]))]
                        of_component = right.setdefault((machine.design, component_id), [])
                        of_component.append(likely.name == labels[component_id])
    scores = [ComponentScore(*key, sum(found), len(found)) for key, found in sorted(right.items())]
    return ReferenceScore(scores, skipped)


async def _labelled(
    machine: Equipment, store: Store, excluded: DataInterval
) -> list[tuple[int, dict[str, str]]]:
    """Return the first bins and grades of labelled windows outside of an interval."""
    grades: dict[int, dict[str, str]] = {}
    window = timedelta(seconds=machine.window_s)
    for label in await store.read_labels(machine.equipment_id):
        is_long = label.end_us - label.start_us >= machine.bins * machine.grid_us
        if not label.stable or label.grade is None or not is_long:
            continue
        first = -(-label.start_us // machine.grid_us)
        start = EPOCH + timedelta(microseconds=first * machine.grid_us)
        if start >= excluded.end or start + window <= excluded.start:
            grades.setdefault(first, {})[label.component_id] = label.grade
    windows = sorted(grades.items())
    step = max(1, -(-len(windows) // MAX_REFERENCE_WINDOWS))
    return windows[::step]


def _predict(
    checkpoint: Checkpoint,
    predictor: Predictor,
    machine: Equipment,
    values_WSN: Floats,
) -> Prediction:
    try:
        graph, _ = build_windows(values_WSN, plan_windows(machine, checkpoint.feature_spec))
    except WindowError as error:
        raise CheckpointError(
            f"expected a checkpoint that fits the registered machine '{machine.equipment_id}' of "
            f"its design '{machine.design}', found: {error.message}"
        ) from error
    return predictor.predict([graph])[0]
