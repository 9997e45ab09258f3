"""Simulates load cycles of the rig with the elements of the simulated machines.

A cycle is simulated after others of the same machine with the same faults, so that pressures are
periodic and the oil is as warm as the losses make it. Needs the extra `simulation`.
Shapes: M cycles, each of a machine of its own, T seconds, S sensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import CYCLE_S, GRADED_COMPONENTS, SENSOR_IDS
from app.demo.simulation.instruments import calibrate
from app.demo.simulation.kernel import advance
from app.demo.simulation.layout import GROUPS, Floats, Spool, State, System
from app.demo.simulation.machine import MachineDesign, read_machine

SIMULATION_FILE = Path(__file__).resolve().parent / "simulation.yaml"

FAULTS: Mapping[str, str] = {
    "cooler": "fouling",
    "valve": "weak_solenoid",
    "pump": "leakage",
    "accumulator": "gas_loss",
}
"""The fault of each graded component."""

WARM_UP_FACTOR = 120.0
"""How much faster oil and bodies warm in the first cycle, so that they are steady at its end."""


class Cycles(NamedTuple):
    """Simulated cycles: what the sensors of `SENSOR_IDS` read, and the final states.

    `values_MTS` is in the sensors' units.
    """

    values_MTS: Floats
    state: State


def rig_simulation() -> MachineDesign:
    """Read the rig as a simulated machine."""
    return read_machine(str(SIMULATION_FILE))


def simulate(
    design: MachineDesign,
    severity_MF: Floats,
    *,
    factor: Mapping[str, Floats] | None = None,
    ambient_M: Floats | None = None,
    warmth_M: Floats | None = None,
    start_degC: float = 40.0,
) -> Cycles:
    """Simulate a cycle of each of M machines, without errors of the instruments.

    Args:
        design: of the rig.
        severity_MF: of each fault mode of the design.
        factor: of each group, float64[M, parameters, elements]: scatter of the machines; None for
            the design's values.
        ambient_M: temperature around each machine in degC; None for the design's mean.
        warmth_M: added to the steady temperature of the oil, K; None for 0.
        start_degC: of the oil before the cycles that warm it up.
    """
    circuit, count = design.circuit, len(severity_MF)
    if factor is None:
        factor = {name: np.ones((count, *circuit.base[name].shape)) for name in GROUPS}
    parameters = circuit.parameters(factor, severity_MF)
    if ambient_M is not None:
        parameters.system[:, System.ambient, 0] = ambient_M
    (program,) = design.duty.programs.values()
    knots = np.array(program.seconds)
    signals = np.array([program.signals[name] for name in design.duty.rest]).T
    # contiguous, as of the other machines, so that the kernel is compiled for one kind of array
    knots_MK = np.repeat(knots[None], count, axis=0)
    signals_MKU = np.repeat(signals[None], count, axis=0)
    state = circuit.rest(parameters, np.full(count, start_degC), np.empty((count, 0)))
    out_MTO = np.empty((count, CYCLE_S, len(design.sensors)))
    parameters.system[:, System.time_factor, 0] = WARM_UP_FACTOR
    advance(circuit.layout, parameters, state, knots_MK, signals_MKU, out_MTO)
    parameters.system[:, System.time_factor, 0] = 1.0
    if warmth_M is not None:
        state.thermal[:] += warmth_M[:, None]
    # one more at the true speed, so that what is not periodic yet settles
    for _ in range(2):
        state.counters[:] = 0.0
        advance(circuit.layout, parameters, state, knots_MK, signals_MKU, out_MTO)
    instruments = [sensor for _, sensor in design.sensors]
    factor_S = np.array([each.usual.factor for each in instruments])
    shift_S = np.array([each.shift for each in instruments])
    order = [[each.sensor_id for each in instruments].index(name) for name in SENSOR_IDS]
    values_MTS = (out_MTO * factor_S + shift_S)[:, :, order]
    # the rig's controller computes SE every other second and holds it, over cycles too
    efficiency_MT = values_MTS[:, :, SENSOR_IDS.index("SE")]
    efficiency_MT[:, 0::2] = np.roll(efficiency_MT[:, 1::2], 1, axis=1)
    return Cycles(values_MTS, state)


def severity_of(component: str, grade: int, health: float) -> float:
    """Return the severity of a component's simulated fault for a grade of the rig.

    The control current of the valve and the charge of the accumulators are what the grades say;
    `1 - health` of the topology is what is assumed of cooler and pump, whose grades have no unit.
    """
    if component == "valve":
        return (1 - grade / 100) / 0.3
    if component == "accumulator":
        return float(((1 - grade / 130) / 0.8) ** (1 / 0.8))
    return 1 - health


SIZES: Mapping[str, tuple[float, float]] = {
    "cooler": (0.75, 1.1),
    "valve": (0.95, 1.05),
    "pump": (0.15, 1.0),
    "accumulator": (0.9, 1.1),
}
"""Factors between which a machine's severities are drawn: how wrong `severity_of` may be."""
COIL_FACTOR = (0.5, 4.0)
"""The same for the time constant of the solenoid, which no healthy cycle shows."""


def _between(low: float, high: float, random: np.random.Generator) -> float:
    """Draw evenly on the logarithm."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


class Sample(NamedTuple):
    """Simulated cycles of several machines with the rig's grades.

    `machine_M` numbers the machines; the first cycles of each are healthy ones, `is_baseline_M`.
    """

    values_MTS: Floats
    grades_MG: NDArray[np.int64]
    machine_M: NDArray[np.int64]
    is_baseline_M: NDArray[np.bool_]


def draw_machine(
    design: MachineDesign, number: int, cycles: int, baseline: int, random: np.random.Generator
) -> Sample:
    """Simulate cycles of one machine with random grades, as its instruments read them.

    Machines differ in the scatter of their parameters, the calibration of their instruments, the
    solenoid of the valve and the size of the faults; cycles in ambient and oil temperature.

    Args:
        design: of the rig.
        number: of the machine.
        cycles: with random grades.
        baseline: healthy cycles before them.
        random: source of chance.
    """
    circuit, count = design.circuit, baseline + cycles
    drawn = circuit.scattered(random)
    drawn["spool"][Spool.coil] *= _between(*COIL_FACTOR, random)
    size = {name: _between(*SIZES[name], random) for name in GRADED_COMPONENTS}
    modes = [(mode.component, mode.fault) for mode in circuit.modes]
    severity_MF = np.zeros((count, len(modes)))
    grades_MG = np.empty((count, len(GRADED_COMPONENTS)), np.int64)
    equipment = rig_equipment()
    for place, name in enumerate(GRADED_COMPONENTS):
        grades = equipment.components[equipment.component_index(name)].grades
        chosen_M = np.append(np.zeros(baseline, int), random.integers(len(grades), size=cycles))
        grade_K = np.array([int(each.name) for each in grades])
        size_K = [severity_of(name, int(each.name), each.health) for each in grades]
        grades_MG[:, place] = grade_K[chosen_M]
        severity_M = np.array(size_K)[chosen_M] * size[name]
        severity_MF[:, modes.index((name, FAULTS[name]))] = np.clip(severity_M, 0, 1)
    # what drifts after the baseline, as oil and settings do from day to day
    unchanged = {name: np.ones_like(each) for name, each in drawn.items()}
    drifts = [unchanged] * baseline + [circuit.scattered(random) for _ in range(cycles)]
    ambient = design.ambient.mean_degC + 3 * random.standard_normal()
    simulated = simulate(
        design,
        severity_MF,
        factor={
            name: each * np.stack([drift[name] for drift in drifts]) for name, each in drawn.items()
        },
        ambient_M=ambient + 0.7 * random.standard_normal(count),
        warmth_M=1.0 * random.standard_normal(count),
    )
    values_MTS = simulated.values_MTS
    instruments = {sensor.sensor_id: sensor for _, sensor in design.sensors}
    ordered = [instruments[name] for name in SENSOR_IDS]
    calibration = calibrate(ordered, random)
    noise_S = np.array([each.noise or 0.0 for each in ordered])
    values_MTS = values_MTS * calibration.gain_S + calibration.offset_S
    values_MTS += noise_S * random.standard_normal(values_MTS.shape)
    low_S, high_S = np.array([each.range for each in ordered]).T
    return Sample(
        np.clip(values_MTS, low_S, high_S),
        grades_MG,
        np.full(count, number),
        np.arange(count) < baseline,
    )
