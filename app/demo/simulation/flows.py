"""Equations of the elements inside a step: spools, branches, pumps and actuators.

Each gives its flow and the flow's slope against the node pressures, for Newton's method.
Merritt 1967; Wilson, "Rotary-pump theory", Trans. ASME 68, 1946; Jelali and Kroll, "Hydraulic
Servo-systems", 2003; symbols of pumps as in ISO 4391.
"""

import math

from app.demo.simulation.compiled import compiled
from app.demo.simulation.layout import (
    Actuator,
    Branch,
    Floats,
    Loop,
    One,
    Opens,
    Pump,
    Spool,
    Stroke,
    System,
)
from app.demo.simulation.physics import through

CLOSED = 1e-4
SLOW = 2e-3
"""Speed in m/s or rad/s below which friction is proportional to speed."""
STOP_STIFFNESS = 2e8
STOP_DAMPING = 2e5
"""Of the end stops, N/m and Ns/m."""
LOAD_SIGNAL_LAG_S = 0.04
SLIDING = 0.5
"""Sliding friction of a spool as a share of its stiction."""
ENDLESS = 1e8
"""Stroke of what turns without end stops."""


@compiled
def move_spools(one: One, signal: Floats, opening: Floats, dt: float) -> None:
    """Move the spools: second order, held by stiction while the error is small.

    A solenoid's current rises with the time constant of its coil to a share of the rated one, and
    falls at once; below the pull-in current the spring holds the spool (Watton 2009, 6.2).

    x'' = w^2 (u - x) - 2 z w x' (Jelali and Kroll 2003, 4.4); stiction as a dead zone that a spool
    at rest leaves only when the error exceeds it; sliding friction, half of that, lets it stop
    short (Choudhury, Thornhill and Shah 2005).
    """
    layout, spool = one.layout, one.spool
    for s in range(spool.shape[1]):
        x, v = one.spool_at[s], one.spool_speed[s]
        u = signal[layout.spool_signal[s]]
        target = layout.spool_target[s]
        if layout.spool_loop[s] == Loop.position:
            u = spool[Spool.gain, s] * (u - one.position[target])
        elif layout.spool_loop[s] == Loop.pressure:
            u = spool[Spool.gain, s] * (u - one.pressure[target])
        u = min(1.0, max(-1.0, u))
        one.spool_command[s] = u
        if spool[Spool.coil, s] > 0.0:
            u *= _pull(one, s, abs(u), dt)
        error, stiction = u - x, spool[Spool.stiction, s]
        if abs(v) < 0.02 and abs(error) < stiction:
            v = 0.0
        else:
            error -= math.copysign(SLIDING * stiction, error if v == 0.0 else v)
            w = spool[Spool.bandwidth, s]
            damping = 2.0 * spool[Spool.damping, s] * w
            v = (v + dt * w * w * error) / (1.0 + dt * damping + dt * dt * w * w)
        one.spool_at[s] = min(1.0, max(-1.0, x + dt * v))
        one.spool_speed[s] = v
    for b in range(opening.shape[0]):
        opening[b] = 1.0
        if layout.branch_opens[b] == Opens.spool:
            way = layout.branch_sign[b] * one.spool_at[layout.branch_spool[b]]
            overlap = one.branch[Branch.overlap, b]
            opening[b] = max(0.0, (way - overlap) / (1.0 - overlap))


@compiled
def _pull(one: One, s: int, command: float, dt: float) -> float:
    """Move the current of a solenoid; return 1 from its pull-in on, 0 below."""
    share = dt / (one.spool[Spool.coil, s] + dt)
    aim = command * one.spool[Spool.current, s]
    one.coil[s] = min(aim, one.coil[s] + share * (aim - one.coil[s]))
    return 1.0 if one.coil[s] >= one.spool[Spool.pull_in, s] else 0.0


@compiled
def branch_flows(
    one: One,
    signal: Floats,
    opening: Floats,
    viscosity: float,
    flow: Floats,
    slope_a: Floats,
    slope_b: Floats,
) -> None:
    """Compute the flow of each branch and its slopes against the pressures at both ends.

    Clearances are laminar: q = G dp / mu (Merritt 1967, section 3-2). Relief and reducing valves
    open in proportion over a band; their poppets settle within a step.
    """
    layout, branch, p = one.layout, one.branch, one.pressure
    for b in range(flow.shape[0]):
        behind = p[layout.branch_b[b]]
        drop = p[layout.branch_a[b]] - behind
        opens = layout.branch_opens[b]
        clearance = branch[Branch.clearance, b] / viscosity
        linear, turbulent = branch[Branch.laminar, b] * viscosity, branch[Branch.turbulent, b]
        q, da, db = 0.0, 0.0, 0.0
        if opens == Opens.fixed:
            q, da = through(drop, linear, turbulent)
        elif opens == Opens.spool:
            x = opening[b]
            if x > CLOSED:
                q, da = through(drop, linear / x, turbulent / (x * x))
        else:
            setting = branch[Branch.setting, b]
            if layout.branch_signal[b] >= 0:
                setting *= signal[layout.branch_signal[b]]
            ahead = drop - setting
            if opens == Opens.reducing:
                ahead = setting - behind
            x = ahead / branch[Branch.band, b]
            if x > 0.0:
                q, da = through(drop, linear, turbulent)
                if x < 1.0:
                    change = q / branch[Branch.band, b]
                    q, da = q * x, da * x
                    if opens == Opens.relief:
                        da += change
                    elif change > 0.0:
                        db = -change
        flow[b] = q + clearance * drop
        slope_a[b] = da + clearance
        slope_b[b] = db - da - clearance


@compiled
def pump_targets(one: One, signal: Floats, target: Floats, dt: float) -> None:
    """Set the pressure that each pump aims at: its setting, or the highest load and a margin."""
    layout, pump = one.layout, one.pump
    for k in range(target.shape[0]):
        setting = pump[Pump.setting, k]
        if layout.pump_pressure_signal[k] >= 0:
            setting *= signal[layout.pump_pressure_signal[k]]
        if layout.pump_stroke[k] == Stroke.load_sensing:
            load = 0.0
            for s in range(one.spool_at.shape[0]):
                if layout.spool_pump[s] == k:
                    x = one.spool_at[s]
                    if x > 0.03:
                        load = max(load, one.pressure[layout.spool_a[s]])
                    elif x < -0.03:
                        load = max(load, one.pressure[layout.spool_b[s]])
            one.sensed[k] += (load - one.sensed[k]) * dt / (LOAD_SIGNAL_LAG_S + dt)
            setting = min(setting, one.sensed[k] + pump[Pump.margin, k])
        target[k] = setting


@compiled
def pump_flows(
    one: One,
    target: Floats,
    signal: Floats,
    viscosity: float,
    dt: float,
    flow: Floats,
    slope: Floats,
    stroke: Floats,
    torque: Floats,
) -> None:
    """Compute the flow of each pump, its slope against the outlet pressure, stroke and torque.

    q = x D w - Cs D dp / mu and T = x D dp + Cv mu D w + Cf D dp + Tc (Wilson 1946). The stroke of
    a compensated pump follows (setting - p) / band with a lag, bounded by a torque limit.
    """
    layout, pump = one.layout, one.pump
    for k in range(flow.shape[0]):
        outlet = one.pressure[layout.pump_out[k]]
        drop = outlet - one.pressure[layout.pump_in[k]]
        w = one.speed[layout.pump_drive[k]]
        displacement = pump[Pump.displacement, k]
        most = 1.0
        if layout.pump_flow_signal[k] >= 0:
            most = min(1.0, max(0.0, signal[layout.pump_flow_signal[k]]))
        x, dx = most, 0.0
        if layout.pump_stroke[k] != Stroke.fixed:
            most = min(most, pump[Pump.torque_limit, k] / (displacement * max(drop, 1e5)))
            share = dt / (pump[Pump.lag, k] + dt)
            aim = (target[k] - outlet) / pump[Pump.band, k]
            if aim >= most:
                aim = most
            elif aim <= 0.0:
                aim = 0.0
            else:
                dx = share / pump[Pump.band, k]
            x = one.swash[k] + share * (aim - one.swash[k])
        filled = 1.0 - pump[Pump.air_loss, k] * one.system[System.air]
        leak = pump[Pump.leakage, k] * displacement / viscosity
        stroke[k] = x
        flow[k] = x * displacement * w * filled - leak * drop
        slope[k] = dx * displacement * w * filled + leak
        torque[k] = (
            displacement * abs(drop) * (x + pump[Pump.friction, k])
            + pump[Pump.viscous, k] * viscosity * displacement * w
            + pump[Pump.torque, k]
        )


@compiled
def actuator_motion(
    one: One, signal: Floats, moving: Floats, gain: Floats, rubbing: Floats, dt: float
) -> None:
    """Compute the speed of each actuator at the end of the step, and its gain dv / dF.

    m v' = Aa pa - Ab pb + Ac pc - load - friction(v), with Stribeck friction (Fc + (Fs - Fc)
    exp(-(v/vs)^2)) sign v + b v (Armstrong-Helouvry 1994; Jelali and Kroll 2003, 4.5), implicit in
    v by its secant `rubbing`. C is a counterbalance chamber, with area 0 where there is none. The
    resistance of a process acts against the motion.
    """
    layout, actuator = one.layout, one.actuator
    for a in range(moving.shape[0]):
        x, fast = one.position[a], max(abs(moving[a]), SLOW)
        coulomb = actuator[Actuator.coulomb, a]
        ratio = abs(moving[a]) / actuator[Actuator.stribeck_speed, a]
        dry = coulomb + (actuator[Actuator.stribeck, a] - coulomb) * math.exp(-ratio * ratio)
        rubbing[a] = actuator[Actuator.viscous, a] + dry / fast
        damping = rubbing[a]
        if layout.actuator_resistance[a] >= 0:
            damping += signal[layout.actuator_resistance[a]] / fast
        force = -actuator[Actuator.load, a]
        if layout.actuator_load[a] >= 0:
            force -= signal[layout.actuator_load[a]]
        if x > actuator[Actuator.contact, a]:
            force -= actuator[Actuator.stiffness, a] * (x - actuator[Actuator.contact, a])
            damping += actuator[Actuator.stiffness, a] * dt
        stroke = actuator[Actuator.stroke, a]
        if stroke < ENDLESS and (x > stroke or x < 0.0):
            force -= STOP_STIFFNESS * (x - stroke if x > stroke else x)
            damping += STOP_STIFFNESS * dt + STOP_DAMPING
        force += actuator[Actuator.area_a, a] * one.pressure[layout.actuator_a[a]]
        force -= actuator[Actuator.area_b, a] * one.pressure[layout.actuator_b[a]]
        force += actuator[Actuator.area_c, a] * one.pressure[layout.actuator_c[a]]
        gain[a] = dt / (actuator[Actuator.mass, a] + dt * damping)
        moving[a] = gain[a] / dt * (actuator[Actuator.mass, a] * one.velocity[a] + dt * force)
