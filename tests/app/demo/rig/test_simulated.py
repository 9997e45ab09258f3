"""The rig as a simulated machine: near the real one in health, and its faults move it alike."""

from functools import cache

import numpy as np
import pytest
import yaml

from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import GRADED_COMPONENTS, SENSOR_IDS
from app.demo.rig.simulated import (
    FAULTS,
    SIMULATION_FILE,
    draw_machine,
    rig_simulation,
    severity_of,
    simulate,
)
from app.demo.simulation.layout import Counter, Floats
from app.demo.simulation.machine import parse_design
from tests.app.demo.simulation.circuits import run
from tests.bench.rig_calibration import HEALTHY, healthy_cycles, rig_cycles, stacked
from tests.bench.rig_transfer import theil

MOST_THEIL = {"VS1": 0.03, **dict.fromkeys(("PS1", "PS2", "PS3", "FS1", "SE"), 0.015)}
OTHER_THEIL = 0.01

MOVED = {
    "cooler": {("TS3", 30): 1, ("CE", 30): -1, ("CP", 30): -1, ("PS5", 30): -1, ("FS2", 30): -1},
    "valve": {("PS1", 9): 1, ("PS2", 9): -1, ("FS1", 9): -1, ("PS1", 10): 1, ("FS1", 10): 1},
    "pump": {("PS1", 15): -1, ("FS1", 15): -1, ("FS1", 35): -1, ("SE", 15): -1},
    "accumulator": {("PS1", 0): 1, ("FS1", 10): -1, ("FS1", 19): 1, ("FS1", 39): -1},
}
"""Direction in which the worst fault of a component moves a sensor in a second of the cycle."""


def grades_of(component: str) -> list[int]:
    """Return the grades of a component, from new to worst."""
    equipment = rig_equipment()
    return [
        int(each.name) for each in equipment.components[equipment.component_index(component)].grades
    ]


@cache
def simulated_cycles() -> dict[str, Floats]:
    """Return a healthy cycle and one with the worst grade of each component, [T, S]."""
    design, equipment = rig_simulation(), rig_equipment()
    modes = [(mode.component, mode.fault) for mode in design.circuit.modes]
    severity_MF = np.zeros((1 + len(GRADED_COMPONENTS), len(modes)))
    for row, name in enumerate(GRADED_COMPONENTS, 1):
        health = equipment.components[equipment.component_index(name)].grades[-1].health
        severity = severity_of(name, grades_of(name)[-1], health)
        severity_MF[row, modes.index((name, FAULTS[name]))] = severity
    values_MTS = simulate(design, severity_MF).values_MTS
    return dict(zip(("healthy", *GRADED_COMPONENTS), values_MTS, strict=True))


def test_sensors_are_those_of_the_rig():
    real = {
        sensor.sensor_id: (sensor.quantity, sensor.unit, tuple(sensor.range or ()), each.type)
        for each in rig_equipment().components
        for sensor in each.sensors
    }
    simulated = rig_simulation().equipment("rig-1")
    found = {
        sensor.sensor_id: (sensor.quantity, sensor.unit, tuple(sensor.range or ()), each.type)
        for each in simulated.components
        for sensor in each.sensors
    }
    # the idle branch of PS4 has a place of its own in the simulation only
    for sensor_id in set(SENSOR_IDS) - {"PS4"}:
        assert found[sensor_id] == real[sensor_id], sensor_id
    assert found.keys() == real.keys() == set(SENSOR_IDS)
    assert simulated.cycle_s == rig_equipment().cycle_s


@pytest.mark.parametrize("sensor", SENSOR_IDS)
def test_cycles_that_the_calibration_did_not_use_are_simulated(sensor):
    place = SENSOR_IDS.index(sensor)
    real_CT = healthy_cycles(rig_cycles()).unused_CTS[..., place]
    found = theil(real_CT, simulated_cycles()["healthy"][:, place])
    assert found < MOST_THEIL.get(sensor, OTHER_THEIL)


@pytest.mark.parametrize("component", GRADED_COMPONENTS)
def test_faults_move_the_known_sensors_as_on_the_real_rig(component):
    block = rig_cycles()
    place, own_CG = GRADED_COMPONENTS.index(component), block.grades_CG
    worst = own_CG[:, place] == grades_of(component)[-1]
    others = [g for g in range(len(GRADED_COMPONENTS)) if g != place]
    chosen = block.stable_C & worst
    if component != "valve":
        chosen &= (own_CG[:, others] == np.array(HEALTHY)[others]).all(1)
    else:
        # the shipped cycles have no configuration in which the valve alone is at its worst
        chosen &= (own_CG[:, [0]] == HEALTHY[0]).all(1)
    values_CTS = stacked(block)
    healthy_TS = values_CTS[(own_CG == HEALTHY).all(1) & block.stable_C].mean(0)
    real_TS = values_CTS[chosen].mean(0) - healthy_TS
    simulated = simulated_cycles()
    simulated_TS = simulated[component] - simulated["healthy"]
    for (sensor, second), sign in MOVED[component].items():
        s = SENSOR_IDS.index(sensor)
        assert sign * simulated_TS[second, s] > 0, (sensor, second)
        assert sign * real_TS[second, s] > 0, (sensor, second)


def test_a_weak_solenoid_delays_opening_and_not_closing():
    simulated = simulated_cycles()
    late_TS = simulated["valve"] - simulated["healthy"]
    closing, opening = late_TS[:9], late_TS[9:11]
    ps2 = SENSOR_IDS.index("PS2")
    assert abs(closing[:, ps2]).max() < 0.05
    assert opening[0, ps2] < -5


def test_balances_of_oil_and_energy_close_within_1_percent():
    design = rig_simulation()
    (program,) = design.duty.programs.values()
    knots, signals = [-1.0], [[0.0, 0.0]]
    rows = np.array([program.signals[name] for name in design.duty.rest]).T.tolist()
    for repeat in range(5):
        knots += [repeat * 60 + second + 0.001 for second in program.seconds[:-1]]
        signals += rows[:-1]
    _, state = run(design, 290, [*knots, 1e4], [*signals, rows[-1]])
    totals = state.counters[0]
    used = totals[Counter.heat] + totals[Counter.work] + totals[Counter.stored]
    assert used == pytest.approx(totals[Counter.shaft], rel=0.01)
    exchanged = totals[Counter.into_tank] + totals[Counter.into_circuit]
    assert abs(exchanged) < 0.01 * 1e-3 * design.oil.volume_l
    base = design.circuit.base
    bodies = (base["body"][1] * (state.body[0] - 40)).sum()
    oil = base["system"][6, 0] * (state.thermal[0, 0] - 40)
    assert bodies + oil + totals[Counter.rejected] == pytest.approx(totals[Counter.heat], rel=0.01)


def test_valves_in_series_around_little_oil_settle():
    data = yaml.safe_load(SIMULATION_FILE.read_text())
    data["lines"] |= {"v": 0.03, "w": 0.03}
    design = parse_design(data, "rig")
    values_TS = simulate(design, np.zeros((1, len(design.circuit.modes)))).values_MTS[0]
    pressure_TS = values_TS[:, [SENSOR_IDS.index("PS1"), SENSOR_IDS.index("PS2")]]
    healthy_TS = simulated_cycles()["healthy"][:, :2]
    # the seconds of a switch of valve or load depend on how much oil there is
    still = [second for second in range(60) if second not in (0, 9, 10, 19, 29, 39, 49)]
    assert np.abs(pressure_TS - healthy_TS)[still].max() < 1.0


def test_a_drawn_machine_is_repeatable_and_begins_with_its_baseline():
    one, two = (draw_machine(rig_simulation(), 3, 4, 2, np.random.default_rng(5)) for _ in range(2))
    assert one.values_MTS.tobytes() == two.values_MTS.tobytes()
    assert one.values_MTS.shape == (6, 60, len(SENSOR_IDS))
    assert one.is_baseline_M.tolist() == [True] * 2 + [False] * 4
    assert (one.grades_MG[:2] == HEALTHY).all()
    for place, name in enumerate(GRADED_COMPONENTS):
        assert set(one.grades_MG[:, place].tolist()) <= set(grades_of(name))
