"""The baseline of a simulated machine from a first day as new, such as training machines have.

A history is too coarse, or begins too worn, to record a baseline from. Shapes: N windows,
T seconds, S sensors.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from app.demo.simulation.history import Unit, record_windows
from app.demo.simulation.wear import healthy_plan
from app.features.baseline import Baseline
from app.features.binning import Doubles, Floats
from app.features.references import LEAST_WINDOWS, measure_baseline

AS_NEW_H = -2_000.0
"""Operating hour at which the first day begins, so that its season is another one."""
FIRST_WINDOW = 1_000_000
"""Number of its first window: its random numbers differ from those of the history."""

Record = Callable[[Unit, Doubles], Floats]
"""Simulates windows that begin at some operating hours, [N, T, S]."""


def baseline_as_new(unit: Unit, record: Record | None = None) -> Baseline:
    """Simulate the first day of a machine, without wear and sensor faults, and measure it.

    Args:
        unit: the machine.
        record: simulates the windows; default: from `FIRST_WINDOW` on.
    """
    plan = healthy_plan(unit.design.circuit.modes, 1e6)
    new = replace(unit.with_plan(plan), sensor_faults=())
    hour_N = np.linspace(AS_NEW_H, AS_NEW_H + 24.0, LEAST_WINDOWS, endpoint=False)
    values_NTS = (record or _recorded)(new, hour_N)
    equipment = unit.design.equipment(unit.equipment_id)
    measured = measure_baseline(lambda: [values_NTS.transpose(0, 2, 1)], equipment)
    assert measured is not None
    return measured


def _recorded(unit: Unit, hour_N: Doubles) -> Floats:
    seconds = round(unit.design.window.window_s)
    found = record_windows(unit, hour_N, seconds, FIRST_WINDOW)
    return np.stack([each.values_TS for each in found]).astype(np.float32)
