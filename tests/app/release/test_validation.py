"""Validation of checkpoints on real topologies and real labelled windows."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from app.core.errors import CheckpointError
from app.core.settings import PROJECT_DIR
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import GRADED_COMPONENTS
from app.features.references import baseline_of, observe
from app.release.validation import reference_score, validate, warm_up
from app.schemas.equipment import Equipment
from app.store.baselines import NewBaseline
from app.store.labels import ConditionLabel
from app.store.store import Store
from tests.machines import make_machine
from tests.rig import rig_block, rig_cycle
from tests.small import press, wave

SHIPPED = PROJECT_DIR / "app" / "weights" / "2"
START_US = 1_767_225_600_000_000
CYCLES = (300, 1000, 1800)


def test_shipped_version_is_valid_and_another_number_is_refused():
    assert validate(SHIPPED, "2").manifest.version == "2"
    with pytest.raises(CheckpointError, match=r"expected version 3 in .* found version 2"):
        validate(SHIPPED, "3")


def test_truncated_file_is_refused(tmp_path: Path):
    copied = Path(shutil.copytree(SHIPPED, tmp_path / "cut"))
    weights = copied / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="SHA-256"):
        validate(copied, "2")


def test_every_topology_of_its_designs_is_warmed_up_once():
    checkpoint = validate(SHIPPED, None)
    rig = rig_equipment()
    twin = rig.model_copy(update={"equipment_id": "twin"})
    (line,) = warm_up(checkpoint, [rig, twin, make_machine()])
    assert rig.equipment_id in line


def test_machine_of_its_design_that_does_not_fit_is_named():
    checkpoint = validate(SHIPPED, None)
    other = rig_equipment().model_copy(
        update={"equipment_id": "odd-rig", "steps": 7, "window_s": 70.0}
    )
    with pytest.raises(CheckpointError, match="fits the registered machine 'odd-rig'"):
        warm_up(checkpoint, [other])


async def put_cycles(
    store: Store, rig: Equipment, first_us: int, shift: Mapping[str, float] = MappingProxyType({})
) -> None:
    for place, cycle in enumerate(CYCLES):
        values, grades = rig_cycle(cycle)
        start = first_us + place * 60_000_000
        sensors = [name for name, series in values.items() for _ in series]
        times = [
            start + second * 1_000_000
            for series in values.values()
            for second in range(len(series))
        ]
        flat = np.array(
            [value + shift.get(name, 0.0) for name, series in values.items() for value in series]
        )
        await store.ingest(rig.equipment_id, sensors, np.array(times), flat)
        await store.put_labels(
            rig.equipment_id,
            [
                ConditionLabel(name, start, start + 60_000_000, grade)
                for name, grade in grades.items()
            ],
        )


async def test_labelled_windows_of_the_store_are_scored(store: Store):
    checkpoint = validate(SHIPPED, None)
    rig = rig_equipment()
    await store.put_equipment(rig)
    assert await reference_score(checkpoint, await store.list_equipment(), store) == ([], [])
    await put_cycles(store, rig, START_US)
    await store.put_equipment(make_machine())
    scores, _ = await reference_score(checkpoint, await store.list_equipment(), store)
    assert {score.component_id for score in scores} == {"cooler", "valve", "pump", "accumulator"}
    assert [(score.right, score.windows) for score in scores] == [(3, 3)] * 4
    assert {score.design for score in scores} == {rig.design}


async def test_machine_with_other_offsets_is_scored_by_its_baseline_and_not_without(store: Store):
    checkpoint = validate(SHIPPED, None)
    rig = rig_equipment()
    await store.put_equipment(rig)
    shift = {sensor.sensor_id: 6.0 for _, sensor in rig.sensors if sensor.quantity == "pressure"}
    await put_cycles(store, rig, START_US, shift)

    async def right() -> int:
        scores, _ = await reference_score(checkpoint, await store.list_equipment(), store)
        return sum(each.right for each in scores)

    assert await right() < 12
    block = rig_block()
    best = [int(rig.components[rig.component_index(n)].grades[0].name) for n in GRADED_COMPONENTS]
    healthy_C = block.stable_C & (block.grades_CG == best).all(1)
    healthy_WSN = np.stack(
        [block.values_CR[name][healthy_C] + shift.get(name, 0.0) for name in rig.sensor_ids], 1
    )
    found = baseline_of(observe(np.tile(healthy_WSN, (3, 1, 1)), rig), rig)
    at = datetime(2025, 12, 1, tzinfo=UTC)
    new = NewBaseline(found.digest, at, at + timedelta(days=1), 24, (), (), found.model_dump_json())
    assert await store.put_baseline(rig.equipment_id, rig.revision, new, "test")
    assert await right() == 12

    spec = checkpoint.feature_spec.model_copy(update={"normalisation": "machine"})
    needing = replace(checkpoint, feature_spec=spec)
    assert (await reference_score(needing, await store.list_equipment(), store)).components
    await store.delete_baseline(rig.equipment_id, "test")
    scores, (line,) = await reference_score(needing, await store.list_equipment(), store)
    assert scores == []
    assert f"'{rig.equipment_id}': expected a baseline" in line


async def test_baseline_of_an_earlier_topology_leaves_its_machine_out(store: Store):
    checkpoint = validate(SHIPPED, None)
    rig = rig_equipment()
    await store.put_equipment(rig)
    await put_cycles(store, rig, START_US)
    found = baseline_of(observe(wave(30, 4), press()), press())
    at = datetime(2025, 12, 1, tzinfo=UTC)
    new = NewBaseline("a", at, at + timedelta(days=1), 24, (), (), found.model_dump_json())
    assert await store.put_baseline(rig.equipment_id, rig.revision, new, "test")
    scores, (line,) = await reference_score(checkpoint, await store.list_equipment(), store)
    assert scores == []
    assert line.startswith(f"'{rig.equipment_id}': expected")


async def test_windows_of_the_training_data_are_excluded(store: Store):
    checkpoint = validate(SHIPPED, None)
    rig = rig_equipment()
    await store.put_equipment(rig)
    # the first begins within the data interval, the others right after it
    await put_cycles(store, rig, round(checkpoint.manifest.data.end.timestamp() * 1e6) - 60_000_000)
    scores, _ = await reference_score(checkpoint, await store.list_equipment(), store)
    assert [score.windows for score in scores] == [2] * 4


def test_model_config_that_does_not_fit_is_refused(tmp_path: Path):
    copied = Path(shutil.copytree(SHIPPED, tmp_path / "odd"))
    config = copied / "model_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden": 3}))
    with pytest.raises(CheckpointError):
        validate(copied, None)
