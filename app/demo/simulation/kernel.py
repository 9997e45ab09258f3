"""Integrates circuits with a fixed step: one compiled function for machines of every design.

Node pressures follow from the volume balance C dp/dt = sum of flows. A step solves it implicitly
(backward Euler with Newton's method, Hairer and Wanner 1996, IV.3), together with the motion of the
actuators and the stroke of the pumps, so it is stable however small a volume is. Flows are
linearised at the last iterate, so what leaves one node enters another and volume is conserved.
Invariant: no random numbers and no reordering of sums: equal arguments give equal bits.
"""

import numpy as np

from app.demo.simulation.compiled import compiled
from app.demo.simulation.flows import (
    actuator_motion,
    branch_flows,
    move_spools,
    pump_flows,
    pump_targets,
)
from app.demo.simulation.layout import (
    Actuator,
    Counter,
    Drive,
    Floats,
    Layout,
    Node,
    One,
    Parameters,
    State,
    System,
)
from app.demo.simulation.physics import (
    ATMOSPHERE_PA,
    EVAPORATING_PA,
    growth,
    kinematic_viscosity,
    stored_oil,
)
from app.demo.simulation.readout import sample_second, sample_steps, warm

ITERATIONS = 100
UNDAMPED, DAMPED = 5, 0.25
"""Iterations with whole steps, and the part of a step in later ones: a valve that opens in one and
closes in the next would else alternate for ever."""
TOLERANCE_PA = 2_000.0


@compiled
def advance(
    layout: Layout,
    parameters: Parameters,
    state: State,
    knots_MK: Floats,
    signals_MKU: Floats,
    out_MTO: Floats,
) -> None:
    """Advance M machines of one design by T seconds.

    Args:
        layout: of the design.
        parameters: of the machines.
        state: of the machines, updated.
        knots_MK: increasing seconds from the beginning; the last is at least T.
        signals_MKU: commands and loads at these times, linear between them.
        out_MTO: receives what the sensors measure, means of each second, SI.
    """
    for m in range(out_MTO.shape[0]):
        one = One(
            layout,
            parameters.node[m],
            parameters.branch[m],
            parameters.spool[m],
            parameters.pump[m],
            parameters.drive[m],
            parameters.actuator[m],
            parameters.body[m],
            parameters.vibration[m],
            parameters.system[m, :, 0],
            state.pressure[m],
            state.spool[m],
            state.spool_speed[m],
            state.coil[m],
            state.spool_command[m],
            state.position[m],
            state.velocity[m],
            state.speed[m],
            state.swash[m],
            state.sensed[m],
            state.body[m],
            state.thermal[m],
            state.counters[m],
        )
        _advance_one(one, knots_MK[m], signals_MKU[m], out_MTO[m])


@compiled
def _advance_one(one: One, knots: Floats, signals: Floats, out: Floats) -> None:
    layout, p, counters = one.layout, one.pressure, one.counters
    n_nodes, n_branches = p.shape[0], layout.branch_a.shape[0]
    n_pumps, n_drives = layout.pump_in.shape[0], layout.drive_signal.shape[0]
    n_actuators = layout.actuator_a.shape[0]
    dt = 1.0 / layout.steps_per_s
    area_a, area_b = one.actuator[Actuator.area_a], one.actuator[Actuator.area_b]
    area_c = one.actuator[Actuator.area_c]

    signal, opening = np.empty(layout.signals), np.empty(n_branches)
    flow, slope_a, slope_b = np.empty(n_branches), np.empty(n_branches), np.empty(n_branches)
    rigid, airy, grown = np.empty(n_nodes), np.empty(n_nodes), np.empty(n_nodes)
    charge, gas_volume = one.node[Node.gas_pressure], one.node[Node.gas_volume]
    exponent = one.node[Node.gas_exponent]
    owed = np.zeros(n_nodes)
    before, change = np.empty(n_nodes), np.empty(n_nodes)
    matrix = np.empty((n_nodes, n_nodes))
    pump_flow, pump_slope, target = np.empty(n_pumps), np.empty(n_pumps), np.empty(n_pumps)
    stroke, pump_torque = np.empty(n_pumps), np.empty(n_pumps)
    moving, gain, rubbing = np.empty(n_actuators), np.empty(n_actuators), np.empty(n_actuators)
    leak = np.empty(n_actuators)
    torque, mean_torque = np.empty(n_drives), np.empty(n_drives)
    loss = np.empty(layout.components)
    segment = 0

    for second in range(out.shape[0]):
        viscosity = viscosity_of(one)
        leak[:] = one.actuator[Actuator.leakage] / viscosity
        loss[:] = 0.0
        mean_torque[:] = 0.0
        out[second, :] = 0.0
        cooler_flow, pumped = 0.0, 0.0
        for step in range(layout.steps_per_s):
            now = second + step * dt
            while segment < knots.shape[0] - 2 and now >= knots[segment + 1]:
                segment += 1
            weight = (now - knots[segment]) / (knots[segment + 1] - knots[segment])
            for u in range(layout.signals):
                signal[u] = (1.0 - weight) * signals[segment, u] + weight * signals[segment + 1, u]
            move_spools(one, signal, opening, dt)
            pump_targets(one, signal, target, dt)
            _volumes(one, rigid, airy)
            before[:] = p
            moving[:] = one.velocity

            for iteration in range(ITERATIONS):
                matrix[:, :] = 0.0
                for i in range(1, n_nodes):
                    grown[i], slope = _node_growth(
                        charge[i], gas_volume[i], exponent[i], rigid[i], airy[i], before[i], p[i]
                    )
                    matrix[i, i] = slope / dt
                    change[i] = (owed[i] - grown[i]) / dt
                branch_flows(one, signal, opening, viscosity, flow, slope_a, slope_b)
                for b in range(n_branches):
                    i, j = layout.branch_a[b], layout.branch_b[b]
                    change[i] -= flow[b]
                    change[j] += flow[b]
                    matrix[i, i] += slope_a[b]
                    matrix[i, j] += slope_b[b]
                    matrix[j, i] -= slope_a[b]
                    matrix[j, j] -= slope_b[b]
                pump_flows(
                    one, target, signal, viscosity, dt, pump_flow, pump_slope, stroke, pump_torque
                )
                for k in range(n_pumps):
                    i, j = layout.pump_in[k], layout.pump_out[k]
                    change[i] -= pump_flow[k]
                    change[j] += pump_flow[k]
                    matrix[i, j] -= pump_slope[k]
                    matrix[j, j] += pump_slope[k]
                actuator_motion(one, signal, moving, gain, rubbing, dt)
                for a in range(n_actuators):
                    i, j = layout.actuator_a[a], layout.actuator_b[a]
                    lost = leak[a] * (p[i] - p[j])
                    change[i] -= area_a[a] * moving[a] + lost
                    change[j] += area_b[a] * moving[a] + lost
                    across = area_a[a] * area_b[a] * gain[a] + leak[a]
                    matrix[i, i] += area_a[a] * area_a[a] * gain[a] + leak[a]
                    matrix[i, j] -= across
                    matrix[j, i] -= across
                    matrix[j, j] += area_b[a] * area_b[a] * gain[a] + leak[a]
                    if area_c[a] > 0.0:
                        c, pushed = layout.actuator_c[a], area_c[a] * gain[a]
                        change[c] -= area_c[a] * moving[a]
                        matrix[c, c] += area_c[a] * pushed
                        matrix[i, c] += area_a[a] * pushed
                        matrix[c, i] += area_a[a] * pushed
                        matrix[j, c] -= area_b[a] * pushed
                        matrix[c, j] -= area_b[a] * pushed
                _solve(matrix, change)
                change[0] = 0.0
                largest = 0.0
                for i in range(1, n_nodes):
                    largest = max(largest, abs(change[i]))
                if largest < TOLERANCE_PA or iteration == ITERATIONS - 1:
                    break
                damping = 1.0 if iteration < UNDAMPED else DAMPED
                for i in range(1, n_nodes):
                    # oil evaporates at once: no step of Newton's method goes past that
                    lowest = EVAPORATING_PA if p[i] > EVAPORATING_PA else -np.inf
                    p[i] = max(p[i] + damping * change[i], lowest)

            # flows and motion of the linearised balance, then everything at the new pressures
            for b in range(n_branches):
                flow[b] += slope_a[b] * change[layout.branch_a[b]]
                flow[b] += slope_b[b] * change[layout.branch_b[b]]
            for k in range(n_pumps):
                pump_flow[k] -= pump_slope[k] * change[layout.pump_out[k]]
            for a in range(n_actuators):
                i, j, c = layout.actuator_a[a], layout.actuator_b[a], layout.actuator_c[a]
                pushed = area_a[a] * change[i] - area_b[a] * change[j] + area_c[a] * change[c]
                moving[a] += gain[a] * pushed
            for i in range(1, n_nodes):
                _, slope = _node_growth(
                    charge[i], gas_volume[i], exponent[i], rigid[i], airy[i], before[i], p[i]
                )
                balanced = grown[i] + slope * change[i]
                p[i] += change[i]
                grown[i], _ = _node_growth(
                    charge[i], gas_volume[i], exponent[i], rigid[i], airy[i], before[i], p[i]
                )
                # what the linearised balance left over is part of the next step's
                owed[i] = balanced - grown[i]
                counters[Counter.stored] += grown[i] * p[i]
                counters[Counter.into_circuit] += grown[i]

            into_tank = 0.0
            for b in range(n_branches):
                i, j = layout.branch_a[b], layout.branch_b[b]
                loss[layout.branch_component[b]] += flow[b] * (p[i] - p[j]) * dt
                if j == 0:
                    into_tank += flow[b]
                if i == 0:
                    into_tank -= flow[b]
            if layout.cooler_branch >= 0:
                cooler_flow += abs(flow[layout.cooler_branch]) * dt
            torque[:] = one.drive[Drive.bearing]
            for k in range(n_pumps):
                d = layout.pump_drive[k]
                torque[d] += pump_torque[k]
                drop = p[layout.pump_out[k]] - p[layout.pump_in[k]]
                heat = pump_torque[k] * one.speed[d] - drop * pump_flow[k]
                loss[layout.pump_component[k]] += heat * dt
                one.swash[k] = stroke[k]
                pumped += pump_flow[k] * dt
                if layout.pump_in[k] == 0:
                    into_tank -= pump_flow[k]
            for a in range(n_actuators):
                i, j = layout.actuator_a[a], layout.actuator_b[a]
                v = moving[a]
                rubbed, lost = rubbing[a] * v * v, leak[a] * (p[i] - p[j])
                given = (area_a[a] * p[i] - area_b[a] * p[j]) * v
                given += area_c[a] * p[layout.actuator_c[a]] * v
                counters[Counter.work] += (given - rubbed) * dt
                counters[Counter.into_circuit] += (area_a[a] - area_b[a] + area_c[a]) * v * dt
                loss[layout.actuator_component[a]] += (rubbed + lost * (p[i] - p[j])) * dt
                if i == 0:
                    into_tank -= area_a[a] * v + lost
                if j == 0:
                    into_tank += area_b[a] * v + lost
                one.velocity[a] = v
                one.position[a] += dt * v
            counters[Counter.into_tank] += into_tank * dt
            for d in range(n_drives):
                inertia, droop = one.drive[Drive.inertia, d], one.drive[Drive.droop, d]
                wanted = one.drive[Drive.speed, d]
                if layout.drive_signal[d] >= 0:
                    wanted *= signal[layout.drive_signal[d]]
                shaft = torque[d] * one.speed[d]
                electric = one.drive[Drive.constant_loss, d]
                electric += one.drive[Drive.torque_loss, d] * torque[d] * torque[d]
                counters[Counter.shaft] += (shaft + electric) * dt
                mean_torque[d] += torque[d] * dt
                rubbed = one.drive[Drive.bearing, d] * one.speed[d]
                loss[layout.drive_component[d]] += (rubbed + electric) * dt
                speed = one.speed[d] + dt / inertia * (droop * wanted - torque[d])
                one.speed[d] = max(speed / (1.0 + dt / inertia * droop), 1.0)
            sample_steps(one, flow, pump_flow, signal, torque, viscosity, dt, out[second])
        heat = 0.0
        for component in range(loss.shape[0]):
            heat += loss[component]
        cooler = warm(one, loss, cooler_flow)
        sample_second(one, mean_torque, heat, pumped, cooler, out[second])


@compiled
def viscosity_of(one: One) -> float:
    """Return the dynamic viscosity of the machine's oil, Pa s."""
    system = one.system
    kinematic = kinematic_viscosity(
        one.thermal[0], system[System.walther_a], system[System.walther_b]
    )
    return float(system[System.density] * kinematic)


@compiled
def _volumes(one: One, rigid: Floats, airy: Floats) -> None:
    """Set the parts of each node's compliance: of the oil, and of the air in it."""
    bulk, air = one.system[System.bulk_modulus], one.system[System.air]
    for i in range(rigid.shape[0]):
        volume = one.node[Node.volume, i]
        rigid[i] = volume / bulk
        airy[i] = volume * air * ATMOSPHERE_PA
        if one.node[Node.gas_volume, i] > 0.0:
            airy[i] = 0.0


@compiled
def _node_growth(
    charge: float, gas_volume: float, exponent: float,
    rigid: float, airy: float, before: float, now: float,
) -> tuple[float, float]:  # fmt: skip
    """Return how much more oil a node takes at its present pressure than before, m3, and dV/dp.

    `charge`, `gas_volume` and `exponent` are of the gas; `gas_volume` is 0 in a node without gas.
    Stored oil is a function of pressure. The compliance at the beginning of a step would take
    more oil at each rise of pressure than the next fall gives back: in each cycle a closed
    accumulator would lose pressure, and any other one would take oil from the tank.
    """
    taken, slope = growth(rigid, airy, before, now)
    if gas_volume > 0.0:
        at_start, _ = stored_oil(before, charge, gas_volume, exponent)
        at_end, compliance = stored_oil(now, charge, gas_volume, exponent)
        taken += at_end - at_start
        slope += compliance
    return taken, slope


@compiled
def _solve(matrix: Floats, right: Floats) -> None:
    """Solve in place by Gauss without pivots: balances of volume are diagonally dominant.

    The last nodes are eliminated first. Supply and return lines, which join most others, are the
    first in a machine's YAML, so that few zeros fill up.
    """
    count = right.shape[0]
    for pivot in range(count - 1, 0, -1):
        inverse = 1.0 / matrix[pivot, pivot]
        for row in range(1, pivot):
            if matrix[row, pivot] != 0.0:
                factor = matrix[row, pivot] * inverse
                for column in range(1, pivot):
                    matrix[row, column] -= factor * matrix[pivot, column]
                right[row] -= factor * right[pivot]
    for row in range(1, count):
        total = right[row]
        for column in range(1, row):
            total -= matrix[row, column] * right[column]
        right[row] = total / matrix[row, row]
