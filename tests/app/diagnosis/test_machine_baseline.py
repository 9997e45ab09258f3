"""A machine with other offsets, and a machine of a design that was not trained, with a baseline."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from app.checkpoint.calibration import Calibration, ComponentCalibration
from app.checkpoint.files import Checkpoint, load
from app.checkpoint.manifest import Manifest
from app.checkpoint.predictor import open_predictor
from app.core.errors import UntrainedDesign, WindowError
from app.core.settings import PROJECT_DIR
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import GRADED_COMPONENTS
from app.demo.simulation.live_files import read_live_fleet
from app.demo.simulation.machine import read_machine
from app.diagnosis.decoder import PredictionDecoder
from app.diagnosis.untrained import UNTRAINED_WIDENING
from app.diagnosis.window_plan import WindowPlan, build_windows, plan_windows
from app.features.baseline import Baseline
from app.features.binning import Floats
from app.features.normalisation import references_of
from app.features.references import baseline_of, observe
from app.features.spec import FeatureSpec, Limits
from app.schemas.equipment import Equipment
from tests.network import rig_spec
from tests.rig import rig_block
from tests.small import press, wave

RIG = rig_equipment()
PRESS = press().model_copy(update={"design": "unseen"})


@cache
def shipped() -> Checkpoint:
    return load(PROJECT_DIR / "app" / "weights" / "2")


def cycles() -> tuple[Floats, np.ndarray]:
    """Return the stable cycles of the rig and the grades of its components."""
    block = rig_block()
    values_WSN = np.stack([block.values_CR[name] for name in RIG.sensor_ids], 1)
    return values_WSN[block.stable_C].astype(np.float32), block.grades_CG[block.stable_C]


class Scored(NamedTuple):
    """Share of right conditions of each component, and of windows that are far from training."""

    right: dict[str, float]
    distant: float


def scored(values_WSN: Floats, grade_WG: np.ndarray, plan: WindowPlan) -> Scored:
    checkpoint = shipped()
    decoder = PredictionDecoder.of(
        "1", RIG, checkpoint.manifest, checkpoint.feature_spec, checkpoint.calibration
    )
    graph, _ = build_windows(values_WSN, plan)
    (prediction,) = open_predictor(checkpoint).predictor.predict([graph])
    decoded = decoder.decode(prediction, RIG.component_ids)
    places = [RIG.component_index(name) for name in GRADED_COMPONENTS]
    found = np.array([[int(each[v].condition or -1) for v in places] for each in decoded])
    right_G = (found == grade_WG).mean(0).tolist()
    distant = float((prediction.distance_WV > 1.0).any(1).mean())
    return Scored(dict(zip(GRADED_COMPONENTS, right_G, strict=True)), distant)


def test_rig_with_shifted_pressures_is_wrong_without_and_right_with_its_baseline() -> None:
    values_WSN, grade_WG = cycles()
    deviation_S = values_WSN.std((0, 2))
    is_pressure_S = [sensor.quantity == "pressure" for _, sensor in RIG.sensors]
    shift_S1 = (1.5 * deviation_S * is_pressure_S).astype(np.float32)[:, None]
    best_G = [int(RIG.components[RIG.component_index(n)].grades[0].name) for n in GRADED_COMPONENTS]
    healthy_WSN = values_WSN[(grade_WG == best_G).all(1)] + shift_S1
    spec = shipped().feature_spec
    baseline = baseline_of(observe(np.tile(healthy_WSN, (3, 1, 1)), RIG), RIG)
    assert set(baseline.sensors) == set(RIG.sensor_ids)
    rows = np.arange(0, len(values_WSN), 10)
    shifted_WSN, grade_WG = values_WSN[rows] + shift_S1, grade_WG[rows]
    usual = scored(values_WSN[rows], grade_WG, plan_windows(RIG, spec))
    without = scored(shifted_WSN, grade_WG, plan_windows(RIG, spec))
    found = scored(shifted_WSN, grade_WG, plan_windows(RIG, spec, baseline))
    assert min(without.right.values()) < 0.5
    assert without.distant > 0.9
    for name, share in usual.right.items():
        assert found.right[name] >= share - 0.02
    assert found.distant <= usual.distant + 0.02


def baseline_of_press(equipment: Equipment = PRESS) -> Baseline:
    return baseline_of(observe(wave(30, 4), equipment), equipment)


@cache
def machine_spec() -> FeatureSpec:
    """Return the spec of a training with baselines; the rig has all of the press."""
    return rig_spec(machine_baseline_h=24.0)


def test_design_that_was_not_trained_needs_a_baseline_and_the_message_says_how() -> None:
    with pytest.raises(UntrainedDesign) as refused:
        plan_windows(PRESS, machine_spec())
    for part in (
        "not trained for design 'unseen'; trained designs: hydraulic-rig",
        "PUT /v1/equipment/{equipment_id}/baseline",
        "`hydraulic equipment baseline ID --start TIME --end TIME`",
    ):
        assert part in refused.value.message
    with pytest.raises(UntrainedDesign, match="or use a version that was trained with"):
        plan_windows(PRESS, rig_spec(), baseline_of_press())


def test_design_that_was_not_trained_is_normalised_by_its_baseline() -> None:
    plan = plan_windows(PRESS, machine_spec(), baseline_of_press())
    graph, quality = build_windows(wave(5, 4, seed=3), plan)
    # features of the mean are small against the baseline of the same machine
    assert np.abs(graph.x_WSTF[..., 0]).mean() < 3.0
    assert (graph.topology.sensor_slot_S == -1).all()
    assert (graph.topology.grade_set_V == -1).all()
    assert not quality.unreferenced_S.any()
    assert not quality.unusual_W.any()


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        ("type", {"type": "nozzle"}, "component types .*found 'nozzle' of 'valve'"),
        ("sensor", {"quantity": "torque", "unit": "N*m"}, "quantities .*found 'torque' of 'P2'"),
    ],
)
def test_types_and_quantities_that_were_not_trained_are_named(
    place: str, changes: dict[str, str], message: str
) -> None:
    pump, valve, tank = PRESS.components
    if place == "sensor":
        changed = valve.sensors[0].model_copy(update=changes)
        valve = valve.model_copy(update={"sensors": (changed,)})
    else:
        valve = valve.model_copy(update=changes)
    machine = Equipment.model_validate(
        PRESS.model_copy(update={"components": (pump, valve, tank)}).model_dump()
    )
    with pytest.raises(UntrainedDesign, match=message):
        plan_windows(machine, machine_spec(), baseline_of_press(machine))


@pytest.mark.parametrize("machines", [None, 0, 1, 2])
def test_trained_design_needs_a_baseline_where_its_references_are_of_several_machines(
    machines: int | None,
) -> None:
    stated = {} if machines is None else {RIG.design: machines}
    limits = Limits(window=0.0, sensors=dict.fromkeys(RIG.sensor_ids, 0.0))
    spec = machine_spec().model_copy(
        update={
            "baseline_machines": stated,
            "limits": {RIG.design: limits},
            "healthy": rig_spec().healthy,
        }
    )
    values_WSN, _ = cycles()
    healthy_WSN = np.tile(values_WSN[:8], (4, 1, 1))
    _, quality = build_windows(values_WSN[:1] + 90.0, plan_windows(RIG, spec))
    assert quality.lacks_baseline == (machines in (None, 2))
    (of_window,) = quality.windows(RIG.sensor_ids)
    assert bool(of_window.beyond) != quality.lacks_baseline
    assert of_window.unusual != quality.lacks_baseline
    plan = plan_windows(RIG, spec, baseline_of(observe(healthy_WSN, RIG), RIG))
    assert not build_windows(values_WSN[:1], plan)[1].lacks_baseline
    partial = healthy_WSN.copy()
    partial[:, 0] = np.nan
    plan = plan_windows(RIG, spec, baseline_of(observe(partial, RIG), RIG))
    _, quality = build_windows(values_WSN[:1], plan)
    assert quality.unreferenced_S[0] == (machines in (None, 2))
    # references of a design are enough where training had no baselines
    assert not build_windows(values_WSN[:1], plan_windows(RIG, rig_spec()))[1].lacks_baseline


@pytest.mark.parametrize(
    ("design", "needs"), [("hydraulic-rig", False), ("sim-excavator", True), ("turbofan", True)]
)
def test_shipped_version_1_needs_baselines_of_machines_but_not_of_the_one_rig(
    design: str, *, needs: bool
) -> None:
    spec = load(PROJECT_DIR / "app" / "weights" / "1").feature_spec
    assert spec.needs_baseline(design) == needs


def test_offsets_of_a_machine_without_its_baseline_are_no_faults_of_sensors() -> None:
    spec = load(PROJECT_DIR / "app" / "weights" / "1").feature_spec
    machine = read_machine("robot").equipment("robot-1")
    assert plan_windows(machine, spec).features.sensors is None
    (known, _, *_) = [each for each in read_live_fleet() if each.equipment.design == machine.design]
    assert plan_windows(known.equipment, spec, known.baseline).features.sensors is not None


def test_sensor_that_the_baseline_lacks_is_no_evidence_in_an_untrained_design() -> None:
    values_WSN = wave(30, 4)
    values_WSN[:, 1] = np.nan
    plan = plan_windows(PRESS, machine_spec(), baseline_of(observe(values_WSN, PRESS), PRESS))
    _, quality = build_windows(wave(2, 4), plan)
    assert quality.unreferenced_S.tolist() == [False, True, False, False]
    assert (quality.usable_WS[:, 1] == 0.0).all()


def test_untrained_design_has_heads_of_its_types_no_grades_and_wider_intervals(
    tmp_path: Path,
) -> None:
    manifest = Manifest.model_validate_json((shipped().directory / "checkpoint.json").read_bytes())
    heads = {"health": {"other": ("p1",), "hydraulic-rig": ("valve",)}, "rul": {"other": ("p1",)}}
    manifest = manifest.model_copy(
        update={"trained_heads": {"grade": {"hydraulic-rig": ("valve",)}, "rate": {}, **heads}}
    )
    spec = machine_spec()
    spec = spec.model_copy(update={"types": {**spec.types, "other": {"p1": "pump"}}})
    stated = ComponentCalibration(health_reach=2.5, rul_reach=1.0, most_spread=0.1, rul_cap_h=90.0)
    calibration = Calibration(
        components={
            "other": {"p1": stated},
            "hydraulic-rig": {"valve": ComponentCalibration(health_reach=9.0)},
        }
    )
    decoder = PredictionDecoder.of("1", PRESS, manifest, spec, calibration)
    assert not decoder.design_trained
    assert [decoder.has("health", each) for each in ("pump", "valve", "tank")] == [
        True,
        True,
        False,
    ]
    assert [decoder.has("rul", each) for each in ("pump", "valve", "tank")] == [True, False, False]
    assert not any(decoder.has("grade", each) for each in PRESS.component_ids)
    pump, valve = decoder.calibrations["pump"], decoder.calibrations["valve"]
    assert (pump.health_reach, pump.rul_cap_h) == (UNTRAINED_WIDENING * 2.5, 90.0)
    assert pump.unsure_reach == UNTRAINED_WIDENING * stated.unsure_reach
    # intervals of graded components are of another spread: those of other types count
    assert valve.health_reach == pump.health_reach
    trained = PredictionDecoder.of("1", RIG, manifest, spec, calibration)
    assert trained.design_trained
    assert trained.calibrations["valve"].health_reach == 9.0


def test_design_without_baselines_in_training_has_its_references_moved() -> None:
    by_design = shipped().feature_spec
    values_WSN, _ = cycles()
    baseline = baseline_of(observe(values_WSN[:30], RIG), RIG)

    def by_machine(machines: int) -> FeatureSpec:
        counts = {"normalisation": "machine", "baseline_machines": {RIG.design: machines}}
        return by_design.model_copy(update=counts)

    moved = references_of(RIG, by_design, baseline)
    assert references_of(RIG, by_machine(0), baseline) == moved
    assert references_of(RIG, by_machine(1), baseline) != moved
    with pytest.raises(WindowError, match="delete the machine's baseline"):
        references_of(RIG, by_machine(0).model_copy(update={"healthy": {}}), baseline)
