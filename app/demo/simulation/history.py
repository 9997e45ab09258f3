"""Simulates machines of a design: windows sampled along their wear, or without a gap.

Shapes: W windows, T seconds, S sensors, F fault modes.
Invariant: machine i of a seed is the same for any number of machines, and each of its windows
depends on the seed, i and the window's number alone.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from app.demo.simulation.duty import Style, draw_style, timeline, together
from app.demo.simulation.instruments import (
    Calibration,
    SensorFault,
    calibrate,
    draw_sensor_faults,
    read_out,
)
from app.demo.simulation.kernel import advance
from app.demo.simulation.layout import Floats, Loop, Node, Parameters, State, System
from app.demo.simulation.machine import MachineDesign
from app.demo.simulation.physics import recharged
from app.demo.simulation.wear import WearPlan, draw_plan

WARM_UP_S = 90
"""Simulated before each sampled window; heat moves up to `_WARMEST` times as fast in it."""
_COLDEST, _WARMEST = 2.0, 45.0
JOB_S = 3_600
"""Length of a job in a history without a gap."""
PART_S = 60
"""Seconds between changes of severity in it."""
SHIFT_H = 8.0
YEAR_H = 8_766.0


@dataclass(frozen=True, slots=True)
class Unit:
    """One machine of a design: its scatter, use, instruments, wear and sensor faults."""

    design: MachineDesign
    equipment_id: str
    seed: tuple[int, int]
    factor: dict[str, Floats]
    style: Style
    calibration: Calibration
    plan: WearPlan
    sensor_faults: tuple[SensorFault, ...]
    year_phase: float

    def random(self, purpose: int, number: int = 0) -> np.random.Generator:
        """Return the source of chance for one purpose, such as window `number`."""
        return np.random.default_rng(np.random.SeedSequence([*self.seed, purpose, number]))

    def with_plan(self, plan: WearPlan) -> "Unit":
        """Return the machine with another wear."""
        return replace(self, plan=plan)

    def ambient(self, hour: float, random: np.random.Generator) -> float:
        """Return the temperature around the machine at an operating hour."""
        ambient = self.design.ambient
        season = math.sin(2 * math.pi * (hour / YEAR_H + self.year_phase))
        day = math.sin(2 * math.pi * hour / 24)
        weather = 0.3 * ambient.season_K * float(random.standard_normal())
        return ambient.mean_degC + ambient.season_K * season + ambient.day_K * day + weather


class Recording(NamedTuple):
    """Readings of one machine from an operating hour on: float64[T, S] at 1 Hz."""

    hour: float
    values_TS: Floats


def draw_unit(
    design: MachineDesign,
    index: int,
    seed: int,
    hours: float,
    *,
    wearing: float,
    sensor_faults: float,
    prefix: str | None = None,
) -> Unit:
    """Draw machine `index` of a seed.

    Args:
        design: of the machine.
        index: counts from 1.
        seed: of all machines.
        hours: length of its history.
        wearing: expected number of components that wear within it.
        sensor_faults: expected number of sensor faults in it.
        prefix: of its id; default: the name of the design.
    """
    name = prefix or design.machine.replace("_", "-")
    random = np.random.default_rng(np.random.SeedSequence([seed, index]))
    circuit = design.circuit
    instruments = [sensor for _, sensor in design.sensors]
    return Unit(
        design=design,
        equipment_id=f"{name}-{index:03d}",
        seed=(seed, index),
        factor=circuit.scattered(random),
        style=draw_style(design.duty, random),
        calibration=calibrate(instruments, random),
        plan=draw_plan(circuit.modes, hours, wearing, random),
        sensor_faults=draw_sensor_faults(instruments, hours, sensor_faults, random),
        year_phase=float(random.uniform()),
    )


def sampled_hours(unit: Unit, hours: float, windows: int) -> Floats:
    """Draw one operating hour in each of equal parts of the history."""
    part_W = np.arange(windows) + unit.random(1).uniform(0.0, 0.95, windows)
    return part_W * hours / windows


def record_windows(unit: Unit, hour_W: Floats, seconds: int, first: int = 0) -> list[Recording]:
    """Simulate windows, each from a state of its own.

    Args:
        unit: the machine.
        hour_W: operating hour at the beginning of each.
        seconds: length of each.
        first: number of the first window.
    """
    design, circuit = unit.design, unit.design.circuit
    randoms = [unit.random(2, first + window) for window in range(len(hour_W))]
    ambient_W = np.array([unit.ambient(h, r) for h, r in zip(hour_W, randoms, strict=True)])
    drawn = [
        timeline(design.duty, unit.style, int(hour // SHIFT_H), WARM_UP_S + seconds, random)
        for hour, random in zip(hour_W, randoms, strict=True)
    ]
    knots_WK, signals_WKU = together(drawn)
    parameters = _parameters(unit, hour_W, ambient_W)
    oil_W = ambient_W + np.array([random.uniform(10, 30) for random in randoms])
    state = circuit.rest(parameters, oil_W, _resting_positions(design, len(hour_W)))
    faster_W = np.array(
        [math.exp(r.uniform(math.log(_COLDEST), math.log(_WARMEST))) for r in randoms]
    )
    parameters.system[:, System.time_factor, 0] = faster_W
    sensors = len(design.sensors)
    before = np.empty((len(hour_W), WARM_UP_S, sensors))
    advance(circuit.layout, parameters, state, knots_WK, signals_WKU, before)
    parameters.system[:, System.time_factor, 0] = 1.0
    true_WTO = np.empty((len(hour_W), seconds, sensors))
    advance(circuit.layout, parameters, state, knots_WK - WARM_UP_S, signals_WKU, true_WTO)
    instruments = [sensor for _, sensor in design.sensors]
    return [
        Recording(
            float(hour),
            read_out(
                instruments, unit.calibration, unit.sensor_faults, true_TO, float(hour), random
            ),
        )
        for hour, true_TO, random in zip(hour_W, true_WTO, randoms, strict=True)
    ]


def record_gapless(
    unit: Unit, start_h: float, hours: float, plan: Callable[[], WearPlan] | None = None
) -> Iterator[Recording]:
    """Simulate without a gap from a warm start, in parts of up to `PART_S`.

    Args:
        unit: the machine.
        start_h: operating hour of the beginning.
        hours: length; may be infinite.
        plan: returns the wear at present, before each part and before the warm start; default: the
            machine's.
    """
    design, circuit = unit.design, unit.design.circuit
    instruments = [sensor for _, sensor in design.sensors]
    now_s, end_s = round(start_h * 3_600), (start_h + hours) * 3_600
    state: State | None = None
    charge_N: Floats | None = None
    last_U: Floats | None = None
    while now_s < end_s:
        # jobs begin at whole multiples, so that each is the same wherever a history starts
        job = now_s // JOB_S
        seconds = int(min(end_s, (job + 1) * JOB_S)) - now_s
        hour = now_s / 3_600
        random = unit.random(3, job)
        ambient_W = np.array([unit.ambient(hour, unit.random(4, int(hour // 24)))])
        if state is None:
            worn = unit if plan is None else unit.with_plan(plan())
            state = _warm_state(worn, hour, ambient_W, random)
        knots, signals = timeline(
            design.duty, unit.style, int(hour // SHIFT_H), seconds + 1, random, last_U
        )
        last_U = np.array([np.interp(seconds, knots, signal_K) for signal_K in signals.T])
        for first in range(0, seconds, PART_S):
            part_h = (now_s + first) / 3_600
            worn = unit if plan is None else unit.with_plan(plan())
            parameters = _parameters(worn, np.array([part_h]), ambient_W)
            charge_N = _with_charges(state, charge_N, parameters.node[0])
            true_TO = np.empty((1, min(PART_S, seconds - first), len(instruments)))
            advance(circuit.layout, parameters, state, knots[None] - first, signals[None], true_TO)
            faults = unit.sensor_faults
            yield Recording(
                part_h,
                read_out(instruments, unit.calibration, faults, true_TO[0], part_h, random),
            )
        now_s += seconds


def _warm_state(unit: Unit, hour: float, ambient_W: Floats, random: np.random.Generator) -> State:
    """Return the state of a machine that has run for an hour."""
    design, circuit = unit.design, unit.design.circuit
    parameters = _parameters(unit, np.array([hour]), ambient_W)
    parameters.system[:, System.time_factor, 0] = 3_600 / WARM_UP_S
    knots, signals = timeline(design.duty, unit.style, int(hour // SHIFT_H), WARM_UP_S, random)
    state = circuit.rest(parameters, ambient_W + 25.0, _resting_positions(design, 1))
    unread = np.empty((1, WARM_UP_S, len(design.sensors)))
    advance(circuit.layout, parameters, state, knots[None], signals[None], unread)
    return state


def _with_charges(state: State, before_N: Floats | None, node_PN: Floats) -> Floats:
    """Change the pressures of accumulators with their charges, and return the charges."""
    charge_N: Floats = node_PN[Node.gas_pressure]
    if before_N is not None:
        for node in np.flatnonzero(node_PN[Node.gas_volume]):
            pressure = float(state.pressure[0, node])
            state.pressure[0, node] = recharged(pressure, before_N[node], charge_N[node])
    return charge_N


def _parameters(unit: Unit, hour_W: Floats, ambient_W: Floats) -> Parameters:
    circuit = unit.design.circuit
    severity_WF = np.stack([unit.plan.severities(float(hour)) for hour in hour_W])
    factor = {
        name: np.broadcast_to(values, (len(hour_W), *values.shape))
        for name, values in unit.factor.items()
    }
    parameters = circuit.parameters(factor, severity_WF)
    parameters.system[:, System.ambient, 0] = ambient_W
    return parameters


def _resting_positions(design: MachineDesign, count: int) -> Floats:
    """Return positions of the actuators that the duty cycle holds at rest; others begin at 0."""
    layout = design.circuit.layout
    rest = list(design.duty.rest.values())
    position_MA = np.zeros((count, len(layout.actuator_a)))
    for spool, loop in enumerate(layout.spool_loop):
        if loop == Loop.position:
            position_MA[:, layout.spool_target[spool]] = rest[layout.spool_signal[spool]]
    return position_MA
