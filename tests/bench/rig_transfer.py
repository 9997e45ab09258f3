"""Measures the simulated rig: how near it is to the real one, and what a model learns from it.

`python -m tests.bench.rig_transfer FILE` writes the JSON; `make bench` has it as a section. Models
of simulated faults see no real faulty cycle: their features are differences from the machine's own
healthy baseline, in units of their spread over simulated cycles. Real cycles are stable ones that
the calibration did not use; the baseline of the real rig are those that it did use.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold
from sklearn.tree import DecisionTreeClassifier

from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import GRADED_COMPONENTS, SENSOR_IDS
from app.demo.rig.simulated import Sample, draw_machine, rig_simulation, simulate
from app.demo.simulation.layout import Floats
from app.features.statistics import Statistic, step_statistics
from app.schemas.equipment import Sensor
from tests.bench.compare import Bench
from tests.bench.rig_calibration import HEALTHY, healthy_cycles, rig_cycles, stacked
from tests.system import PROJECT_DIR
from train.evaluation.ordinal import fit_ordinal, measure

MACHINES, CYCLES, BASELINE = 40, 48, 5
"""Simulated machines, cycles of each with random grades, and healthy ones of its baseline."""
SEED = 7
FOLDS = 5
TREES = 300
LEAF = 3
"""Fewest cycles in a leaf of a tree."""
STEPS = 12
STATISTICS: tuple[Statistic, ...] = ("mean", "spread", "dip", "peak", "slope")
LEFT_OUT = ("PS4",)
"""Sensors whose faulty readings the simulation does not claim: an idle branch."""

SHIPPED = PROJECT_DIR / "app/weights/1/metrics.json"

CHANCE = "chance"
SIMULATED_TREES = "simulated faults: extra trees"
SIMULATED_ORDINAL = "simulated faults: ordinal score and discriminant"
SIMULATED_RANK = "simulated faults: extra trees, thresholds of the grades from real cycles"
REAL_TREES = "real cycles: extra trees"
REAL_ORDINAL = "real cycles: ordinal score and discriminant"
REAL_SHIPPED = "real cycles: version 1 as shipped, folds of its training"

Grades = NDArray[np.int64]


class Cycles(NamedTuple):
    """Features of cycles relative to the machine's baseline, [W, S, T, F], and grade numbers."""

    x_WSTF: Floats
    grade_WG: Grades
    group_W: Grades


def measure_rig(_: Bench) -> dict[str, object]:
    """Measure the rig as a section of `make bench`."""
    return measure_all(MACHINES, CYCLES)


def measure_all(machines: int, cycles: int) -> dict[str, object]:
    """Return Theil's coefficients by sensor and the scores of all models by component."""
    block = rig_cycles()
    healthy = healthy_cycles(block)
    design = rig_simulation()
    none_MF = np.zeros((1, len(design.circuit.modes)))
    simulated_TS = simulate(design, none_MF).values_MTS[0]
    real = real_cycles()
    return {
        "used": len(healthy.used_CTS),
        "unused": len(healthy.unused_CTS),
        "unstable": len(healthy.unstable_CTS),
        "theil": [
            {
                "sensor": name,
                "unused": theil(healthy.unused_CTS[..., s], simulated_TS[:, s]),
                "unstable": theil(healthy.unstable_CTS[..., s], simulated_TS[:, s]),
                "shape": theil(
                    healthy.unused_CTS[..., s] - healthy.unused_CTS[..., s].mean(),
                    simulated_TS[:, s] - simulated_TS[:, s].mean(),
                ),
            }
            for s, name in enumerate(SENSOR_IDS)
        ],
        "machines": machines,
        "cycles": machines * cycles,
        "scored": len(real.x_WSTF),
        "folds": FOLDS,
        "rows": score(simulated_cycles(machines, cycles), real),
    }


def theil(real: Floats, simulated: Floats) -> float:
    """Return Theil's inequality coefficient, 0 for equal series and 1 at worst.

    U = rms(y - x) / (rms(y) + rms(x)) (Theil, "Economic forecasts and policy", 1961).
    """
    simulated = np.broadcast_to(simulated, real.shape)
    sizes = np.sqrt((real**2).mean()) + np.sqrt((simulated**2).mean())
    apart = np.sqrt(((real - simulated) ** 2).mean())
    return float(apart / sizes) if sizes > 0 else 0.0


def real_cycles() -> Cycles:
    """Return the stable cycles of the real rig without those of the calibration."""
    block = rig_cycles()
    is_used_C = (block.grades_CG == HEALTHY).all(1) & block.stable_C
    is_used_C[np.flatnonzero(is_used_C)[BASELINE:]] = False
    x_WSTF = features(stacked(block))
    x_WSTF = x_WSTF - x_WSTF[is_used_C].mean(0)
    chosen_C = block.stable_C & ~is_used_C
    _, group_C = np.unique(block.grades_CG, axis=0, return_inverse=True)
    return Cycles(
        x_WSTF[chosen_C], numbers(block.grades_CG[chosen_C]), group_C.reshape(-1)[chosen_C]
    )


def simulated_cycles(machines: int, cycles: int) -> Cycles:
    """Simulate machines with faults; each is a group."""
    design = rig_simulation()

    def one(number: int) -> Sample:
        random = np.random.default_rng([SEED, number])
        return draw_machine(design, number, cycles, BASELINE, random)

    with ThreadPoolExecutor(2) as threads:
        drawn = list(threads.map(one, range(machines)))
    parts = []
    for each in drawn:
        x_WSTF = features(each.values_MTS)
        x_WSTF = x_WSTF - x_WSTF[each.is_baseline_M].mean(0)
        faulty_M = ~each.is_baseline_M
        parts.append(
            Cycles(x_WSTF[faulty_M], numbers(each.grades_MG[faulty_M]), each.machine_M[faulty_M])
        )
    x_WSTF, grade_WG, group_W = map(np.concatenate, zip(*parts, strict=True))
    return Cycles(x_WSTF, grade_WG, group_W)


def features(values_MTS: Floats) -> Floats:
    """Return statistics of each 5-s step, sensors in the order of the topology, [M, S, T, F]."""
    order = [SENSOR_IDS.index(each.sensor_id) for each in _sensors()]
    values_MSN = np.moveaxis(values_MTS, 1, 2)[:, order].astype(np.float32)
    found, _ = step_statistics(values_MSN, STEPS, STATISTICS)
    return found.astype(np.float64)


def numbers(grades_WG: Grades) -> Grades:
    """Return the numbers of the grades of the topology, 0 as new."""
    equipment = rig_equipment()
    found_WG = np.empty_like(grades_WG)
    for place, name in enumerate(GRADED_COMPONENTS):
        grades = equipment.components[equipment.component_index(name)].grades
        for number, grade in enumerate(grades):
            found_WG[grades_WG[:, place] == int(grade.name), place] = number
    return found_WG


def score(simulated: Cycles, real: Cycles) -> list[dict[str, object]]:
    """Return macro-F1, share within one grade and rank correlation by component and model.

    Macro-F1 is the mean of the folds of the real configurations; models of simulated faults are
    fitted once and scored on the same folds.
    """
    equipment, scale_STF = rig_equipment(), simulated.x_WSTF.std(0) + 1e-3
    folds = list(GroupKFold(FOLDS).split(real.x_WSTF, groups=real.group_W))
    rows: list[dict[str, object]] = []
    for place, name in enumerate(GRADED_COMPONENTS):
        index = equipment.component_index(name)
        sensors = [
            s for s in equipment.sensors_in_reach(index) if _sensors()[s].sensor_id not in LEFT_OUT
        ]
        health_K = np.array([each.health for each in equipment.components[index].grades])
        a_WL, b_WL = (
            (each.x_WSTF / scale_STF)[:, sensors].reshape(len(each.x_WSTF), -1)
            for each in (simulated, real)
        )
        a_W, b_W = simulated.grade_WG[:, place], real.grade_WG[:, place]
        trees = _trees(a_WL, a_W)
        wear_W = trees.predict_proba(b_WL) @ trees.classes_
        ordinal = _ordinal(a_WL, a_W, simulated.group_W, health_K, b_WL)
        predicted = {
            CHANCE: np.empty_like(b_W),
            SIMULATED_TREES: trees.predict(b_WL),
            SIMULATED_ORDINAL: ordinal,
            SIMULATED_RANK: np.empty_like(b_W),
            REAL_TREES: np.empty_like(b_W),
            REAL_ORDINAL: np.empty_like(b_W),
        }
        for train, test in folds:
            guess = DummyClassifier(strategy="uniform", random_state=0).fit(b_WL[train], b_W[train])
            predicted[CHANCE][test] = guess.predict(b_WL[test])
            steps = DecisionTreeClassifier(max_leaf_nodes=len(health_K), class_weight="balanced")
            steps.fit(wear_W[train, None], b_W[train])
            predicted[SIMULATED_RANK][test] = steps.predict(wear_W[test, None])
            predicted[REAL_TREES][test] = _trees(b_WL[train], b_W[train]).predict(b_WL[test])
            predicted[REAL_ORDINAL][test] = _ordinal(
                b_WL[train], b_W[train], real.group_W[train], health_K, b_WL[test]
            )
        for model, found_W in predicted.items():
            order_W = wear_W if model == SIMULATED_TREES else found_W
            rows.append(
                {
                    "component": name,
                    "model": model,
                    "macro_f1": _macro_f1(b_W, found_W, folds, len(health_K)),
                    "within_one": float((np.abs(found_W - b_W) <= 1).mean()),
                    "rank": float(spearmanr(order_W, b_W).statistic),
                }
            )
        rows.append({"component": name, "model": REAL_SHIPPED, "macro_f1": _shipped(name)})
    return rows


def _shipped(component: str) -> float:
    evaluation = json.loads(SHIPPED.read_text(encoding="utf-8"))["evaluation"]
    cards = evaluation.get("scorecards") or evaluation["contenders"]
    return float(next(iter(cards.values()))["grades"][component]["mean_macro_f1"])


def _sensors() -> list[Sensor]:
    return [each for component in rig_equipment().components for each in component.sensors]


def _trees(x_WL: Floats, grade_W: Grades) -> ExtraTreesClassifier:
    return ExtraTreesClassifier(TREES, min_samples_leaf=LEAF, random_state=0).fit(x_WL, grade_W)


def _ordinal(
    x_WL: Floats, grade_W: Grades, group_W: Grades, health_K: Floats, unseen_WL: Floats
) -> Grades:
    moments = measure(x_WL, grade_W, group_W, health_K)
    fitted = fit_ordinal(moments, np.ones(x_WL.shape[1], np.bool_))
    logits_WK = unseen_WL @ fitted.weight_LK + fitted.bias_K
    found_W: Grades = fitted.grade_K[logits_WK.argmax(1)]
    return found_W


def _macro_f1(
    truth_W: Grades,
    found_W: Grades,
    folds: list[tuple[Grades, Grades]],
    grades: int,
) -> float:
    by_fold = []
    for _, test in folds:
        present = [k for k in range(grades) if k in truth_W[test]]
        by_fold.append(
            f1_score(truth_W[test], found_W[test], labels=present, average="macro", zero_division=0)
        )
    return float(np.mean(by_fold))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rig_transfer")
    parser.add_argument("out", type=Path)
    parser.add_argument("--machines", type=int, default=MACHINES)
    parser.add_argument("--cycles", type=int, default=CYCLES)
    return parser


def main() -> None:
    """Measure and write JSON."""
    from tests.bench.__main__ import facts  # it imports this module

    given = _parser().parse_args()
    command = " ".join(["python -m tests.bench.rig_transfer", *sys.argv[1:]])
    found = {
        "facts": facts() | {"command": command},
        "rig": measure_all(given.machines, given.cycles),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
