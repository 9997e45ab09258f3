"""The shipped checkpoints load, are as accurate as stated and predict the rig's cycles."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from app.checkpoint import manifest as files
from app.checkpoint.files import Checkpoint, load
from app.checkpoint.manifest import read_manifest
from app.checkpoint.predictor import open_predictor
from app.demo.rig.equipment import rig_equipment
from app.diagnosis.window_plan import build_windows, plan_windows
from app.features.binning import Floats
from app.features.range_checks import leaves_range
from app.model.graph import Prediction
from tests.features import window_features
from tests.rig import rig_block
from train.evaluation.health_baselines import AS_NEW, HEALTH_TREES
from train.evaluation.record import THIS, Metrics

SHIPPED = Path(files.__file__).parents[1] / "weights"
COMMANDS = {"1": "universal", "2": "start --equipment hydraulic-rig"}
ROWS = range(211, 1856, 60)  # none of the first warm-up, which is one condition


@cache
def shipped(version: str) -> Checkpoint:
    return load(SHIPPED / version)


@cache
def cycles() -> Floats:
    block = rig_block()
    rows = list(ROWS)
    return np.stack(
        [block.values_CR[name][rows] for name in rig_equipment().sensor_ids], axis=1
    ).astype(np.float32)


def predicted(checkpoint: Checkpoint, values_WSN: Floats) -> Prediction:
    plan = plan_windows(rig_equipment(), checkpoint.feature_spec)
    group, _ = build_windows(values_WSN, plan)
    return open_predictor(checkpoint).predictor.predict([group])[0]


@pytest.mark.parametrize("version", ["1", "2"])
def test_checkpoint_is_whole_and_says_where_it_comes_from(version: str) -> None:
    loaded = shipped(version)
    assert loaded.manifest.version == version
    assert loaded.manifest.command.startswith(f"hydraulic train {COMMANDS[version]}")
    assert set(loaded.manifest.sha256) == {path.name for path in (SHIPPED / version).iterdir()} - {
        files.MANIFEST
    }
    assert ("sim-excavator" in loaded.manifest.trained_heads["rate"]) is (version == "1")
    assert loaded.manifest.command in (SHIPPED / version / files.REPORT).read_text()


def test_the_two_are_really_different() -> None:
    assert shipped("1").config != shipped("2").config
    assert (
        read_manifest(SHIPPED / "1").sha256[files.WEIGHTS]
        != read_manifest(SHIPPED / "2").sha256[files.WEIGHTS]
    )


def test_default_holds_out_machines_better_than_trees_and_persistence() -> None:
    metrics = Metrics.model_validate_json((SHIPPED / "1" / files.METRICS).read_bytes())
    assert metrics.fleet is not None
    for design in ("sim-cnc", "sim-excavator", "sim-injection-moulding", "sim-robot"):
        found = metrics.fleet.designs[design]
        health_mae = [found[name].health_mae for name in (THIS, HEALTH_TREES, AS_NEW)]
        assert None not in health_mae
        own, trees, as_new = (each or 0.0 for each in health_mae)
        assert own <= 0.05
        assert own < min(trees, as_new)


def test_rig_version_holds_out_as_promised() -> None:
    evaluation = Metrics.model_validate_json(
        (SHIPPED / "2" / files.METRICS).read_bytes()
    ).evaluation
    found = evaluation.scorecards[THIS]
    for component, promised in {
        "cooler": 0.995,
        "valve": 0.995,
        "pump": 0.99,
        "accumulator": 0.975,
    }.items():
        assert found.grades[component].mean_macro_f1 >= promised
        assert len(found.grades[component].parts) == 5
        interval = evaluation.uncertainty[component].health
        assert interval is not None
        # certain grades have intervals of no width, so more than 90 % of them may be covered
        assert interval.coverage >= 0.88
        # few windows are unsure: one of 13 is 8 %
        assert interval.unsure_coverage is None or interval.unsure_coverage >= 0.8
        assert evaluation.answered[component].contradicting == 0.0
    assert found.exact_match is not None
    assert found.exact_match.mean >= 0.97


@pytest.mark.parametrize("version", ["1", "2"])
def test_training_cycles_are_predicted(version: str) -> None:
    loaded, equipment = shipped(version), rig_equipment()
    features = [
        window_features(values_SN, equipment, loaded.feature_spec) for values_SN in cycles()
    ]
    accused = sum(len(each.faulty) for each in features)
    assert accused <= 0.02 * len(features) * len(equipment.sensor_ids)
    assert not any(
        leaves_range(each.exceedance_S, equipment, loaded.feature_spec) for each in features
    )
    grade_WV = np.nan_to_num(predicted(loaded, cycles()).probability_WVK, nan=-1.0).argmax(-1)
    block = rig_block()
    for index, name in enumerate(("cooler", "valve", "pump", "accumulator")):
        component = equipment.component_index(name)
        grades = equipment.components[component].grades
        predicted_grades = [grades[grade].name for grade in grade_WV[:, component]]
        true = [str(int(block.grades_CG[row, index])) for row in ROWS]
        assert np.mean(np.array(predicted_grades) == np.array(true)) >= 0.95


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("shift", [15, 30, 45])
def test_window_that_starts_in_mid_cycle_is_refused(version: str, shift: int) -> None:
    equipment, spec = rig_equipment(), shipped(version).feature_spec
    for values_SN in cycles()[::5]:
        features = window_features(np.roll(values_SN, shift, axis=1), equipment, spec)
        assert leaves_range(features.exceedance_S, equipment, spec)


def test_missing_sensor_of_another_component_hardly_moves_the_answer() -> None:
    loaded, equipment = shipped("1"), rig_equipment()
    whole = cycles()
    without = whole.copy()
    without[:, equipment.sensor_ids.index("TS1")] = np.nan
    healths = [predicted(loaded, values_WSN).health_WV for values_WSN in (whole, without)]
    graded = [equipment.component_index(name) for name in ("valve", "pump", "accumulator")]
    difference_WV = np.abs(healths[0] - healths[1])
    assert difference_WV[:, graded].max() < 1e-5  # the tank tells the working circuit nothing
