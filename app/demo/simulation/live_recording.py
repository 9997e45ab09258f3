"""Records the machines of the live fleet: simulates them once, for `live_files`.

Values are rounded to half of a sensor's noise, which no diagnosis sees and which makes the file
small. Invariant: a recording follows from the design and from `SEED` alone.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from app.demo.simulation.first_day import baseline_as_new
from app.demo.simulation.history import Unit, draw_unit, record_gapless, record_windows
from app.demo.simulation.live_files import (
    LIVE_WINDOWS,
    PAST_STEP,
    PAST_WINDOWS,
    WORN,
    WORN_DESIGN,
    WORN_FAULT,
    LiveMachine,
    write_live,
)
from app.demo.simulation.machine import MachineDesign
from app.demo.simulation.wear import WearPlan, constant_plan, healthy_plan, mode_of
from app.features.binning import Doubles, Floats

SEED = 2026
MACHINES = 2
FIRST_SEVERITY, LAST_SEVERITY = 0.1, 0.6
"""Severity of the fault in the first earlier window and in the present."""
SETTLING_H = 1.0
"""Simulated before the hour that is replayed, so that it does not begin with the warm-up."""


def record_live(design: MachineDesign, out: Path) -> None:
    """Simulate two machines of a design and write them.

    Args:
        design: of the machines.
        out: the file.
    """
    name = design.machine.replace("_", "-")
    machines = []
    for index in range(1, MACHINES + 1):
        drawn = draw_unit(design, index, SEED, 1.0, wearing=0.0, sensor_faults=0.0)
        new = replace(drawn, equipment_id=f"{name}-{index}").with_plan(
            healthy_plan(design.circuit.modes, 1e6)
        )
        machines.append(_recorded(design, new))
    write_live(out, [sensor.sensor_id for _, sensor in design.sensors], machines)


def _recorded(design: MachineDesign, new: Unit) -> LiveMachine:
    past: list[Floats] = []
    present = new
    if new.equipment_id == WORN and design.machine == WORN_DESIGN:
        step_h = PAST_STEP.total_seconds() / 3_600
        for number, severity in enumerate(
            np.linspace(FIRST_SEVERITY, LAST_SEVERITY, PAST_WINDOWS).tolist()
        ):
            hour = np.array([(number - PAST_WINDOWS + 1) * step_h])
            past.append(_windows(new.with_plan(_worn(design, severity)), hour, 100 + number))
        present = new.with_plan(_worn(design, LAST_SEVERITY))
    live_NTS = _without_gap(present)
    return LiveMachine(
        design.equipment(new.equipment_id),
        baseline_as_new(new, lambda unit, hour_N: _windows(unit, hour_N, 1_000)),
        np.concatenate(past) if past else live_NTS[:0],
        live_NTS,
    )


def _worn(design: MachineDesign, severity: float) -> WearPlan:
    modes = design.circuit.modes
    return constant_plan(modes, {mode_of(modes, WORN_FAULT): severity})


def _windows(unit: Unit, hour_N: Doubles, first: int) -> Floats:
    """Simulate windows, [N, T, S], rounded; each has a start, load and weather of its own."""
    seconds = round(unit.design.window.window_s)
    found = record_windows(unit, hour_N, seconds, first)
    return _rounded(unit, np.stack([each.values_TS for each in found]))


def _without_gap(unit: Unit) -> Floats:
    """Simulate the hour that is replayed without a gap; return its windows, [N, T, S], rounded."""
    seconds = round(unit.design.window.window_s)
    live_h = LIVE_WINDOWS * seconds / 3_600
    found = record_gapless(unit, 0.0, SETTLING_H + live_h)
    values_TS = np.concatenate([each.values_TS for each in found])[-LIVE_WINDOWS * seconds :]
    return _rounded(unit, values_TS.reshape(LIVE_WINDOWS, seconds, -1))


def _rounded(unit: Unit, values_NTS: Doubles) -> Floats:
    """Round values to half of each sensor's noise, within its range."""
    step_S = np.array(
        [
            0.5 * (0.002 * sensor.span if sensor.noise is None else sensor.noise)
            for _, sensor in unit.design.sensors
        ]
    )
    step_S = np.where(step_S > 0, step_S, 1e-6)
    low_S = np.array([sensor.range[0] for _, sensor in unit.design.sensors])
    high_S = np.array([sensor.range[1] for _, sensor in unit.design.sensors])
    rounded_NTS: Doubles = np.clip(np.round(values_NTS / step_S) * step_S, low_S, high_S)
    return rounded_NTS.astype(np.float32)
