"""What a second of simulation leaves: heat in oil and bodies, and the measured quantities."""

import math

from app.demo.simulation.compiled import compiled
from app.demo.simulation.layout import (
    EXPANSION_K,
    HEAT_J_KGK,
    Actuator,
    Body,
    Counter,
    Drive,
    Floats,
    Measure,
    One,
    Pump,
    System,
    Vibration,
)
from app.demo.simulation.physics import effectiveness

NORMAL_LEVEL = 0.75
"""Share of the tank that is filled at rest and 40 degC."""
RETURN_LAG_S = 20.0


@compiled
def warm(one: One, loss: Floats, cooler_flow: float) -> tuple[float, float, float]:
    """Warm oil and bodies by the losses of a second; return cooling, outlet of the cooler and fan.

    Bodies take a share of their component's losses and give it to oil and ambient. The cooler takes
    effectiveness times the smaller heat capacity flow times the temperature difference; a
    thermostat sets its fan. `System.time_factor` speeds up the warming before a record begins.
    """
    system = one.system
    dt = system[System.time_factor]
    ambient, oil = system[System.ambient], one.thermal[0]
    total, rejected = 0.0, 0.0
    for component in range(loss.shape[0]):
        total += loss[component]
    into_oil = total
    for b in range(one.body_degC.shape[0]):
        capacity, to_oil = one.body[Body.capacity, b], one.body[Body.to_oil, b]
        to_ambient = one.body[Body.to_ambient, b]
        heat = one.body[Body.share, b] * loss[one.layout.body_component[b]]
        body = (one.body_degC[b] + dt / capacity * (heat + to_oil * oil + to_ambient * ambient)) / (
            1.0 + dt / capacity * (to_oil + to_ambient)
        )
        one.body_degC[b] = body
        into_oil += to_oil * (body - oil) - heat
        rejected += to_ambient * (body - ambient)
    cooling, outlet, fan = 0.0, oil, 0.0
    if one.layout.cooler_branch >= 0:
        fan_from = system[System.fan_from]
        fan = min(1.0, max(0.1, (oil - fan_from) / (system[System.fan_to] - fan_from)))
        hot = cooler_flow * system[System.density] * HEAT_J_KGK
        cold = system[System.cold_capacity] * fan
        share = effectiveness(system[System.cooler_ua] * fan**0.4, hot, cold)
        difference = max(0.0, oil - ambient - system[System.cold_offset])
        cooling = share * min(hot, cold) * difference
        if hot > 1.0:
            outlet = oil - cooling / hot
    lost = system[System.tank_ua] * (oil - ambient) + cooling
    one.thermal[0] = oil + dt * (into_oil - lost) / system[System.heat_capacity]
    one.counters[Counter.heat] += total
    one.counters[Counter.rejected] += (rejected + lost) * dt
    return cooling, outlet, fan


@compiled
def sample_steps(
    one: One,
    flow: Floats,
    pump_flow: Floats,
    signal: Floats,
    torque: Floats,
    viscosity: float,
    dt: float,
    out: Floats,
) -> None:
    """Add the values of a step to the means of its second."""
    layout, p = one.layout, one.pressure
    for o in range(out.shape[0]):
        measure, i = layout.output_measure[o], layout.output_index[o]
        value = 0.0
        if measure == Measure.efficiency:
            # the useful power, until the second's electric one is known
            value = flow[i] * p[layout.branch_b[i]]
        elif measure >= Measure.power:
            continue
        elif measure == Measure.pressure:
            value = p[i]
        elif measure == Measure.differential_pressure:
            value = p[layout.branch_a[i]] - p[layout.branch_b[i]]
        elif measure == Measure.flow:
            value = flow[i]
        elif measure == Measure.position:
            value = one.position[i]
        elif measure == Measure.velocity:
            value = abs(one.velocity[i])
        elif measure == Measure.spool:
            value = one.spool_at[i]
        elif measure == Measure.speed:
            value = one.speed[i]
        elif measure == Measure.pump_flow:
            value = pump_flow[i]
        elif measure == Measure.swash:
            value = one.swash[i]
        elif measure == Measure.leakage:
            leak = one.pump[Pump.leakage, i] * one.pump[Pump.displacement, i] / viscosity
            value = leak * p[layout.pump_out[i]]
        elif measure == Measure.force:
            value = one.actuator[Actuator.area_a, i] * p[layout.actuator_a[i]]
            value -= one.actuator[Actuator.area_b, i] * p[layout.actuator_b[i]]
        elif measure == Measure.command:
            value = signal[i]
        elif measure == Measure.torque:
            value = torque[i]
        elif measure == Measure.valve_command:
            value = one.spool_command[i]
        out[o] += value * dt


@compiled
def _electric(one: One, torque: Floats, d: int) -> float:
    """Return the electric power of a drive, W."""
    losses = one.drive[Drive.torque_loss, d] * torque[d] * torque[d]
    return float(torque[d] * one.speed[d] + one.drive[Drive.constant_loss, d] + losses)


@compiled
def sample_second(
    one: One,
    torque: Floats,
    heat: float,
    pumped: float,
    cooler: tuple[float, float, float],
    out: Floats,
) -> None:
    """Set what is measured once a second.

    Args:
        one: the machine.
        torque: of the drives, mean of the second.
        heat: losses of the second, J.
        pumped: volume of the pumps in it, m3.
        cooler: what `warm` returns.
        out: receives the values.
    """
    layout, system, drive = one.layout, one.system, one.drive
    oil = one.thermal[0]
    # oil returns warmer than the tank by the losses in it
    rise = min(heat / max(pumped * system[System.density] * HEAT_J_KGK, 200.0), 15.0)
    one.thermal[1] += (oil + rise - one.thermal[1]) / RETURN_LAG_S
    for o in range(out.shape[0]):
        measure, i = layout.output_measure[o], layout.output_index[o]
        if measure < Measure.power:
            continue
        value = 0.0
        if measure in (Measure.power, Measure.current):
            value = _electric(one, torque, i)
            if measure == Measure.current:
                value /= drive[Drive.volts, i]
        elif measure == Measure.efficiency:
            value = out[o] / _electric(one, torque, 0)
        elif measure == Measure.vibration:
            d = layout.vibration_drive[i]
            turn = one.speed[d] / drive[Drive.speed, d]
            load = one.pressure[layout.vibration_node[i]] * 1e-7
            steady = one.vibration[Vibration.base, i] * turn
            steady *= 1.0 + one.vibration[Vibration.of_pressure, i] * load
            worn = one.vibration[Vibration.wear, i] * turn
            air = one.vibration[Vibration.air, i] * system[System.air]
            value = math.sqrt(steady * steady + worn * worn + air * air)
        elif measure == Measure.oil_temperature:
            value = oil
        elif measure == Measure.body_temperature:
            value = one.body_degC[i]
        elif measure == Measure.cooler_outlet:
            value = cooler[1]
        elif measure == Measure.return_temperature:
            value = one.thermal[1]
        elif measure == Measure.fan:
            value = cooler[2]
        elif measure == Measure.level:
            gained = one.counters[Counter.into_tank] / system[System.oil_volume]
            value = NORMAL_LEVEL * (1.0 + gained) * (1.0 + EXPANSION_K * (oil - 40.0))
        elif measure == Measure.contamination:
            value = system[System.dirt]
        elif measure == Measure.ambient:
            value = system[System.ambient]
        elif measure == Measure.cooler_power:
            value = cooler[0]
        elif measure == Measure.cooler_effectiveness:
            warmer = oil - system[System.ambient] - system[System.cold_offset]
            value = (oil - cooler[1]) / warmer if warmer > 0.1 else 0.0
        out[o] = value
