"""Measures the tests of sensors and the ranking of causes, on simulated machines and on the rig.

`python -m tests.bench.sensors` writes the JSON; `make bench` has it as a section. Sensor models are
fitted to windows of some machines and scored on other machines of the design, on single windows of
random components, severities and hours. Every kind of sensor fault has the simulation's sizes and
lasts the whole window; a drift begins with it. Causes are ranked by the counterfactual alone and
with the health of extra trees in place of a network's. Nothing is chosen on the scored machines.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from app.checkpoint.files import load
from app.checkpoint.predictor import open_predictor
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import CYCLE_S, GRADED_COMPONENTS, read_blocks
from app.demo.simulation.history import Unit, draw_unit, record_windows
from app.demo.simulation.instruments import FAULT_KINDS, OTHER_UNIT, FaultKind, SensorFault, faulty
from app.demo.simulation.machine import MachineDesign, machine_files, read_machine
from app.demo.simulation.wear import constant_plan
from app.features.binning import Doubles, Floats
from app.features.extraction import batch_features
from app.features.sensor_kinds import FAULT_KINDS as NAMES
from app.features.spec import FeaturePlan, plan_features
from app.model.graph import GraphGroup, build_topology
from app.schemas.equipment import Equipment
from tests.bench.compare import Bench
from train.config import TrainConfig
from train.data.labels import Integers, WindowLabels, configurations, warm_up
from train.data.reference import fit_spec
from train.data.windows import write_windows
from train.evaluation.robustness import usual_spread
from train.linear.sensor_model import fit_sensor_model

HOURS = 8_000.0
WINDOWS = 12
"""Windows of each machine."""
SHARES = (0.35, 0.5, 0.15)
"""Of windows with no fault, one and two."""
LEAST_SEVERITY = 0.05
SEVERE = 0.4
ANOMALOUS = 3.0
TREES = 150
WEIGHTS = Path("app/weights/1")


class Sampled(NamedTuple):
    """Windows [W, S, N] of machines, the severity of each component, and the machine's number."""

    values_WSN: Floats
    severity_WV: Doubles
    machine_W: Integers


def measure(_: Bench) -> dict[str, object]:
    """Measure every shipped machine and the rig, as a section of `make bench`."""
    return measure_all(machines=96, scored=15)


def measure_all(machines: int, scored: int) -> dict[str, object]:
    """Return rows by design of simulated machines, and the figures of the rig."""
    return {
        "machines": machines,
        "scored_machines": scored,
        "windows_of_a_machine": WINDOWS,
        "rows": [_measure(read_machine(name), machines, scored) for name in machine_files()],
        "rig": measure_rig(),
    }


def sample(design: MachineDesign, machines: int, seed: int) -> Sampled:
    """Simulate windows of machines: a third as new, half with one fault, the others with two."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(1, machines + 1):
        unit = draw_unit(design, index, seed, HOURS, wearing=0.0, sensor_faults=0.0)
        found.append(sampled_windows(unit, random, SHARES, LEAST_SEVERITY))
    return Sampled(
        np.concatenate([values_WSN for values_WSN, _ in found]),
        np.concatenate([severity_WV for _, severity_WV in found]),
        np.repeat(np.arange(machines, dtype=np.int64), WINDOWS),
    )


def sampled_windows(
    unit: Unit, random: np.random.Generator, shares: Sequence[float], least_severity: float
) -> tuple[Floats, Doubles]:
    """Simulate windows of a machine, each at an hour and with faults of its own.

    Args:
        unit: the machine.
        random: source of chance.
        shares: of windows with no fault, one, two and so on.
        least_severity: severities are even from here to 1.

    Returns:
        The windows [W, S, N], and the severity of each component [W, V].
    """
    modes = unit.design.circuit.modes
    names = unit.design.equipment("any").component_ids
    severity_WV = np.zeros((WINDOWS, len(names)))
    values = []
    for window in range(WINDOWS):
        count = int(random.choice(len(shares), p=shares))
        chosen = random.choice(len(modes), count, replace=False).tolist()
        faults = {mode: float(random.uniform(least_severity, 1.0)) for mode in chosen}
        for mode, size in faults.items():
            place = names.index(modes[mode].component)
            severity_WV[window, place] = max(severity_WV[window, place], size)
        worn = unit.with_plan(constant_plan(modes, faults))
        hour_W = random.uniform(0.0, HOURS, 1)
        seconds = round(unit.design.window.window_s)
        values.append(record_windows(worn, hour_W, seconds, window)[0].values_TS.T)
    return np.stack(values).astype(np.float32), severity_WV


def _measure(design: MachineDesign, machines: int, scored: int) -> dict[str, object]:
    equipment = design.equipment("any")
    train, test = sample(design, machines, 1), sample(design, scored, 2)
    labels = _labels(train.severity_WV.shape, train.machine_W)
    labels = WindowLabels(
        **{**_fields(labels), "health_WV": (1.0 - train.severity_WV).astype(np.float32)}
    )
    names = tuple(f"any-{number}" for number in range(machines))
    plan = fitted_plan(equipment, names, labels, train.values_WSN)
    found = batch_features(test.values_WSN, plan)
    accused_WS = found.finding_WS["kind"] > 0
    is_new_W = test.severity_WV.max(1) == 0
    kinds = {kind: _fault_row(design, kind, test.values_WSN, plan) for kind in FAULT_KINDS}
    health_WV = _trees(train, test, plan)
    return {
        "design": design.design,
        "sensors": len(design.sensors),
        "training_windows": len(train.values_WSN),
        "scored_windows": len(test.values_WSN),
        "healthy_sensors_accused": float(accused_WS.mean()),
        "windows_as_new_with_an_accused_sensor": float(accused_WS[is_new_W].any(1).mean()),
        "component_faults_with_an_accused_sensor": float(accused_WS[~is_new_W].any(1).mean()),
        "undecided": float(found.unexplained_W.mean()),
        "faults": kinds,
        "found": float(np.mean([row["found"] for row in kinds.values()])),
        "root_cause": _causes(found.blame_WV, health_WV, test, plan, equipment),
    }


def fitted_plan(
    equipment: Equipment, machines: tuple[str, ...], labels: WindowLabels, values_WSN: Floats
) -> FeaturePlan:
    """Fit references and sensor model to windows, as a training does, and return their plan."""
    with TemporaryDirectory() as directory:
        windows = write_windows(Path(directory), equipment, machines, labels, [values_WSN])
        chosen_W = np.arange(len(windows))
        spec = fit_spec(windows, chosen_W, TrainConfig(equipment=equipment.equipment_id))
        model = fit_sensor_model(windows, chosen_W, spec, 0)
    assert model is not None
    return plan_features(
        equipment, spec.model_copy(update={"sensor_models": {equipment.design: model}})
    )


def _fault_row(
    design: MachineDesign, kind: FaultKind, values_WSN: Floats, plan: FeaturePlan
) -> dict[str, float]:
    """Give each window a fault of one sensor: how often it is found, alone, and named rightly."""
    random = np.random.default_rng(0)
    found, alone, named = [], [], []
    for values_SN in values_WSN:
        made = with_sensor_fault(design, kind, values_SN, random)
        if made is None:
            continue
        changed_SN, place = made
        kind_S = batch_features(changed_SN[None], plan).finding_WS["kind"][0]
        found.append(kind_S[place] > 0)
        alone.append(kind_S[place] > 0 and np.count_nonzero(kind_S) == 1)
        named.append(kind_S[place] > 0 and NAMES[kind_S[place] - 1] == kind)
    return {
        "windows": len(found),
        "found": float(np.mean(found)),
        "found_and_no_other_accused": float(np.mean(alone)),
        "kind_right_of_found": float(np.sum(named) / max(1, np.sum(found))),
    }


def with_sensor_fault(
    design: MachineDesign, kind: FaultKind, values_SN: Floats, random: np.random.Generator
) -> tuple[Floats, int] | None:
    """Return a window with a fault of one sensor, and the sensor; None if its unit has no other."""
    instruments = [sensor for _, sensor in design.sensors]
    place = int(random.integers(len(instruments)))
    each = instruments[place]
    if kind == "unit_swap" and each.unit not in {*OTHER_UNIT, "degC"}:
        return None
    size = float(random.uniform(0.04, 0.2) * random.choice([-1, 1]))
    if kind == "gain":
        size = float(np.exp(random.choice([-1, 1]) * random.uniform(0.15, 0.6)))
    elif kind == "stuck":
        size = float(random.uniform())
    seconds = values_SN.shape[1]
    fault = SensorFault(place, kind, 0.0, seconds / 3_600, size)
    hour_N = np.arange(seconds) / 3_600
    true_N = values_SN[place].astype(np.float64)
    changed_SN = values_SN.copy()
    changed_SN[place] = np.clip(faulty(each, fault, true_N, hour_N, random), *each.range)
    return changed_SN, place


def _trees(train: Sampled, test: Sampled, plan: FeaturePlan) -> Doubles:
    """Return the health of components by extra trees on the features, in place of a network's."""
    x_WX = batch_features(train.values_WSN, plan).x_WSTF.mean(2).reshape(len(train.values_WSN), -1)
    y_WX = batch_features(test.values_WSN, plan).x_WSTF.mean(2).reshape(len(test.values_WSN), -1)
    trees = ExtraTreesRegressor(TREES, max_features=0.3, min_samples_leaf=2, random_state=0)
    trees.fit(x_WX, train.severity_WV)
    return np.asarray(1.0 - trees.predict(y_WX))


def _causes(
    blame_WV: Floats, health_WV: Doubles, test: Sampled, plan: FeaturePlan, equipment: Equipment
) -> Mapping[str, Mapping[str, float]]:
    """Score rankings of the components where one has a severity above `SEVERE`."""
    mean = plan.statistics.index("mean")
    x_WS = np.abs(batch_features(test.values_WSN, plan).x_WSTF[..., mean].mean(2))
    largest_WV = np.zeros_like(health_WV)
    for place, placed in enumerate(equipment.sensors):
        v = placed.component_index
        largest_WV[:, v] = np.maximum(largest_WV[:, v], x_WS[:, place])
    upstream_WV = largest_WV - 1e3 * _anomalous_upstream(largest_WV > ANOMALOUS, equipment)
    blamed_WV = np.nan_to_num(blame_WV, nan=-1e3)
    joined_WV = np.log(0.02 + np.clip(1.0 - health_WV, 0.0, 1.0)) + 0.03 * blamed_WV
    rankings = {
        "counterfactual": blamed_WV,
        "counterfactual_and_health": joined_WV,
        "health": 1.0 - health_WV,
        "max_z": largest_WV,
        "furthest_upstream_anomaly": upstream_WV,
    }
    return {name: _ranks(score_WV, test.severity_WV) for name, score_WV in rankings.items()}


def _anomalous_upstream(is_anomalous_WV: np.ndarray, equipment: Equipment) -> Doubles:
    """Return how many anomalous components lie upstream of each, 99 of one that is usual."""
    V = len(equipment.components)
    reach_VV = np.zeros((V, V), np.bool_)
    number = {name: place for place, name in enumerate(equipment.component_ids)}
    for each in equipment.connections:
        reach_VV[number[each.source], number[each.target]] = True
    for middle in range(V):
        reach_VV |= reach_VV[:, middle, None] & reach_VV[middle]
    np.fill_diagonal(reach_VV, val=False)
    above_WV = is_anomalous_WV.astype(np.float64) @ reach_VV
    return np.where(is_anomalous_WV, above_WV, 99.0)


def _ranks(score_WV: Doubles, severity_WV: Doubles) -> Mapping[str, float]:
    is_severe_WV = severity_WV > SEVERE
    rows_W = is_severe_WV.any(1)
    best_W = np.where(is_severe_WV, score_WV, -np.inf).max(1)
    rank_W = 1 + (score_WV > best_W[:, None]).sum(1)[rows_W]
    return {
        "windows": int(rows_W.sum()),
        "rank_1": float((rank_W == 1).mean()),
        "rank_3": float((rank_W <= 3).mean()),
        "mean_reciprocal_rank": float((1.0 / rank_W).mean()),
    }


def measure_rig() -> dict[str, object]:
    """Return what an offset of one standard deviation costs version 1, without and with the test.

    The sensor models are fitted to four folds of configurations and scored on the fifth; the
    version's own weights have seen all cycles. Warm-ups are left out.
    """
    equipment = rig_equipment()
    blocks = list(read_blocks(open_archive(SHIPPED_ARCHIVE), 64))
    values_WSN = np.concatenate(
        [
            np.stack(
                [
                    block.values_CR[each].reshape(len(block.grades_CG), CYCLE_S, -1).mean(2)
                    for each in equipment.sensor_ids
                ],
                axis=1,
            )
            for block in blocks
        ]
    ).astype(np.float32)
    grade_WG = np.concatenate([block.grades_CG for block in blocks])
    stable_W = np.concatenate([block.stable_C for block in blocks])
    steady_W = ~warm_up(configurations(grade_WG), stable_W, 50)
    values_WSN, grade_WG = values_WSN[steady_W], grade_WG[steady_W]
    labels = _rig_labels(equipment, grade_WG)
    group_W = configurations(labels.grade_WV)
    fold_W = np.random.default_rng(0).permutation(int(group_W.max()) + 1)[group_W] % 5
    checkpoint = load(WEIGHTS)
    predictor = open_predictor(checkpoint).predictor
    topology = build_topology(equipment, checkpoint.feature_spec)
    spread_S = usual_spread(values_WSN).astype(np.float32)

    def right(bins_WSN: Floats, plan: FeaturePlan, grade_WV: Integers) -> float:
        found = batch_features(bins_WSN, plan)
        (predicted,) = predictor.predict([GraphGroup(topology, found.x_WSTF, found.mask_WST)])
        graded_V = np.flatnonzero((grade_WV >= 0).all(0))
        answer_WV = np.nan_to_num(predicted.probability_WVK[:, graded_V], nan=-1.0).argmax(-1)
        return float((answer_WV == grade_WV[:, graded_V]).all(1).mean())

    rows = []
    for fold in range(5):
        train_W, test_W = np.flatnonzero(fold_W != fold), np.flatnonzero(fold_W == fold)[::4]
        with TemporaryDirectory() as directory:
            windows = write_windows(
                Path(directory), equipment, (equipment.equipment_id,), labels, [values_WSN]
            )
            model = fit_sensor_model(windows, train_W, checkpoint.feature_spec, 0)
        spec = checkpoint.feature_spec.model_copy(
            update={"sensor_models": {equipment.design: model}}
        )
        plans = [plan_features(equipment, each) for each in (checkpoint.feature_spec, spec)]
        clean_WSN, grade_WV = values_WSN[test_W], labels.grade_WV[test_W]
        found_WS = batch_features(clean_WSN, plans[1]).finding_WS["kind"] > 0
        row = {
            "accused": float(found_WS.mean()),
            "windows": float(found_WS.any(1).mean()),
            "clean": right(clean_WSN, plans[1], grade_WV),
        }
        for name, plan in zip(("without", "with"), plans, strict=True):
            offsets = []
            for sensor in range(len(spread_S)):
                bins_WSN = clean_WSN.copy()
                bins_WSN[:, sensor] += spread_S[sensor]
                offsets.append(right(bins_WSN, plan, grade_WV))
            row[name] = float(np.mean(offsets))
        rows.append(row)
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {
        "all_four_right": mean["clean"],
        "offset_costs_points_without_the_test": 100.0 * (mean["clean"] - mean["without"]),
        "offset_costs_points": 100.0 * (mean["clean"] - mean["with"]),
        "healthy_sensors_accused": mean["accused"],
        "windows_with_an_accused_sensor": mean["windows"],
    }


def _rig_labels(equipment: Equipment, grade_WG: Integers) -> WindowLabels:
    labels = _labels((len(grade_WG), len(equipment.components)), np.zeros(len(grade_WG), np.int64))
    grade_WV, health_WV = labels.grade_WV.copy(), labels.health_WV.copy()
    for column, name in enumerate(GRADED_COMPONENTS):
        place = equipment.component_ids.index(name)
        grades = equipment.components[place].grades
        order = [int(grade.name) for grade in grades]
        grade_WV[:, place] = [order.index(grade) for grade in grade_WG[:, column].tolist()]
        health_WV[:, place] = np.array([grade.health for grade in grades])[grade_WV[:, place]]
    return WindowLabels(**{**_fields(labels), "grade_WV": grade_WV, "health_WV": health_WV})


def _labels(shape: tuple[int, ...], machine_W: Integers) -> WindowLabels:
    return WindowLabels(
        machine_W=machine_W,
        start_us_W=600_000_000 * np.arange(shape[0], dtype=np.int64),
        grade_WV=np.full(shape, -1, np.int64),
        health_WV=np.full(shape, np.nan, np.float32),
        rate_WV=np.full(shape, np.nan, np.float32),
        rul_WV=np.full(shape, np.nan, np.float32),
        stable_W=np.ones(shape[0], np.bool_),
    )


def _fields(labels: WindowLabels) -> dict[str, np.ndarray]:
    return {name: getattr(labels, name) for name in WindowLabels.__dataclass_fields__}


def main() -> None:
    """Measure and write JSON."""
    from tests.bench.__main__ import facts  # it imports this module

    parser = argparse.ArgumentParser(prog="python -m tests.bench.sensors")
    parser.add_argument("out", type=Path)
    parser.add_argument("--machines", type=int, default=96)
    parser.add_argument("--scored", type=int, default=15)
    given = parser.parse_args()
    found = {
        "facts": facts() | {"command": " ".join(["python -m tests.bench.sensors", *sys.argv[1:]])},
        "sensors": measure_all(given.machines, given.scored),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
