"""Measures the simulated machines: speed, and whether their faults are easy to find.

`python -m tests.bench.simulation` writes the JSON; `make bench` has it as a section. A fault counts
as found when a sensor's mean of a minute leaves its thresholds: the fixed ones that all sensors
together cross once in 1,000 healthy machine-hours, from the tails of 60-s means of machines in
health. The discriminant names the faulty component from the means of whole windows; it never sees
the machines that it is tested on. Beside it are extra trees on more statistics of the same windows.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import GroupKFold

from app.demo.simulation.history import Unit, draw_unit, record_windows
from app.demo.simulation.layout import Floats
from app.demo.simulation.machine import MachineDesign, machine_files, read_machine
from app.demo.simulation.wear import constant_plan
from tests.bench.compare import Bench

HOURS = 8_000.0
MINUTE_S = 60
FALSE_ALARMS_A_THOUSAND_HOURS = 1.0


def measure(_: Bench) -> dict[str, object]:
    """Measure every shipped machine, as a section of `make bench`."""
    return measure_designs(machines=15, healthy_hours=50.0)


def measure_designs(machines: int, healthy_hours: float) -> dict[str, object]:
    """Return rows by design: speed, share of faults found by thresholds, named by classifiers."""
    return {
        "machines": machines,
        "healthy_hours": healthy_hours,
        "rows": [_measure(read_machine(name), machines, healthy_hours) for name in machine_files()],
    }


def _measure(design: MachineDesign, machines: int, healthy_hours: float) -> dict[str, object]:
    seconds = round(design.window.window_s)
    modes = design.circuit.modes
    random = np.random.default_rng(0)
    units = [
        draw_unit(design, index, 1, HOURS, wearing=0.0, sensor_faults=0.0)
        for index in range(1, machines + 1)
    ]
    _windows(units[0], {}, 1, MINUTE_S, random)  # compiled before the clock starts
    began_s = time.process_time()
    windows = round(healthy_hours * 3_600 / seconds / machines)
    healthy_WTS = np.concatenate([_windows(u, {}, windows, seconds, random) for u in units])
    factor = len(healthy_WTS) * seconds / (time.process_time() - began_s)

    mild_WTS, spread_WTS, component_W, machine_W = [], [], [], []
    for number, unit in enumerate(units):
        for mode, each in enumerate(modes):
            size = float(random.uniform(0.2, 0.5))
            mild_WTS.append(_windows(unit, {mode: 0.3}, 1, seconds, random)[0])
            spread_WTS.append(_windows(unit, {mode: size}, 1, seconds, random)[0])
            component_W.append(each.component)
            machine_W.append(number)
    found_W = _alarms(np.stack(mild_WTS), *_thresholds(healthy_WTS, seconds))
    spread = np.stack(spread_WTS)
    means_WX = spread.mean(1)
    quantiles = np.quantile(spread, [0.05, 0.5, 0.95], axis=1)
    change = np.abs(np.diff(spread, axis=1)).mean(1)
    more_WX = np.concatenate([means_WX, spread.std(1), change, *quantiles], axis=1)
    truth_W = np.array(component_W)
    linear = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    trees = ExtraTreesClassifier(300, random_state=0)
    return {
        "design": design.design,
        "components": len(design.components),
        "sensors": len(design.sensors),
        "times_real_time": factor,
        "faults": len(modes),
        "found_by_thresholds": float(found_W.mean()),
        "named_by_discriminant": _named(linear, means_WX, truth_W, machine_W),
        "named_by_extra_trees": _named(trees, more_WX, truth_W, machine_W),
    }


def _windows(
    unit: Unit, severities: dict[int, float], count: int, seconds: int, random: np.random.Generator
) -> Floats:
    """Return windows of a machine at hours of its own, [W, T, S]."""
    worn = unit.with_plan(constant_plan(unit.design.circuit.modes, severities))
    hour_W = random.uniform(0, HOURS, count)
    first = int(random.integers(1 << 30))
    return np.stack([each.values_TS for each in record_windows(worn, hour_W, seconds, first)])


def _minutes(values_WTS: Floats) -> Floats:
    windows, seconds, sensors = values_WTS.shape
    whole = seconds // MINUTE_S
    shaped = values_WTS[:, : whole * MINUTE_S].reshape(windows, whole, MINUTE_S, sensors)
    return shaped.mean(2)


def _thresholds(healthy_WTS: Floats, seconds: int) -> tuple[Floats, Floats]:
    """Return the lower and upper threshold of each sensor.

    Each side of each sensor has an equal part of the false alarms. Where the healthy windows are
    too few to reach so far into the tails, the threshold is their extreme value: it finds more
    faults than the right one would.
    """
    mean_WMS = _minutes(healthy_WTS)
    sensors = mean_WMS.shape[-1]
    minutes = mean_WMS.reshape(-1, sensors)
    share = FALSE_ALARMS_A_THOUSAND_HOURS / (1_000 * 3_600 / MINUTE_S) / (2 * sensors)
    return np.quantile(minutes, share, axis=0), np.quantile(minutes, 1 - share, axis=0)


def _alarms(values_WTS: Floats, low_S: Floats, high_S: Floats) -> np.ndarray:
    mean_WMS = _minutes(values_WTS)
    return ((mean_WMS < low_S) | (mean_WMS > high_S)).any((1, 2))


def _named(
    model: LinearDiscriminantAnalysis | ExtraTreesClassifier,
    x_WX: Floats,
    truth_W: np.ndarray,
    machine_W: Sequence[int],
) -> float:
    """Return the share of windows whose component is named, machines held out in five folds."""
    right = np.zeros(len(truth_W), dtype=bool)
    for train, test in GroupKFold(5).split(x_WX, truth_W, machine_W):
        mean_X, spread_X = x_WX[train].mean(0), x_WX[train].std(0) + 1e-9
        model.fit((x_WX[train] - mean_X) / spread_X, truth_W[train])
        right[test] = model.predict((x_WX[test] - mean_X) / spread_X) == truth_W[test]
    return float(right.mean())


def main() -> None:
    """Measure and write JSON."""
    from tests.bench.__main__ import facts  # it imports this module

    parser = argparse.ArgumentParser(prog="python -m tests.bench.simulation")
    parser.add_argument("out", type=Path)
    parser.add_argument("--machines", type=int, default=15)
    parser.add_argument("--healthy-hours", type=float, default=50.0)
    given = parser.parse_args()
    found = {
        "facts": facts()
        | {"command": " ".join(["python -m tests.bench.simulation", *sys.argv[1:]])},
        "simulation": measure_designs(given.machines, given.healthy_hours),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
