"""The arrays that the kernel integrates: parameters, states, and which element joins what.

A circuit of any machine is N nodes of oil volume (node 0 is the tank), joined by branches
(resistances, metering edges, check, relief and reducing valves), pumps on drives, and actuators
(cylinders and motors). All values are SI but temperatures, which are in degC; pressures are gauge.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

HEAT_J_KGK = 1_900.0
"""Specific heat of mineral oil."""
EXPANSION_K = 7e-4
"""Thermal expansion of mineral oil."""

Node = IntEnum("Node", ["volume", "gas_pressure", "gas_volume", "gas_exponent", "filled"], start=0)
Branch = IntEnum(
    "Branch", ["turbulent", "laminar", "clearance", "setting", "band", "overlap"], start=0
)
Spool = IntEnum(
    "Spool",
    ["bandwidth", "damping", "stiction", "gain", "coil", "current", "pull_in"],
    start=0,
)
Pump = IntEnum(
    "Pump",
    [
        "displacement", "leakage", "viscous", "friction", "torque", "setting", "band", "lag",
        "torque_limit", "margin", "air_loss",
    ],
    start=0,
)  # fmt: skip
Drive = IntEnum(
    "Drive",
    ["inertia", "speed", "droop", "bearing", "constant_loss", "torque_loss", "volts"],
    start=0,
)
Actuator = IntEnum(
    "Actuator",
    [
        "area_a", "area_b", "area_c", "mass", "viscous", "coulomb", "stribeck", "stribeck_speed",
        "leakage", "load", "stiffness", "contact", "stroke",
    ],
    start=0,
)  # fmt: skip
Body = IntEnum("Body", ["share", "capacity", "to_oil", "to_ambient"], start=0)
Vibration = IntEnum("Vibration", ["base", "of_pressure", "wear", "air"], start=0)
System = IntEnum(
    "System",
    [
        "air", "bulk_modulus", "density", "walther_a", "walther_b", "oil_volume", "heat_capacity",
        "tank_ua", "ambient", "cooler_ua", "cold_capacity", "cold_offset", "fan_from", "fan_to",
        "time_factor", "dirt",
    ],
    start=0,
)  # fmt: skip

GROUPS: dict[str, type[IntEnum]] = {
    "node": Node,
    "branch": Branch,
    "spool": Spool,
    "pump": Pump,
    "drive": Drive,
    "actuator": Actuator,
    "body": Body,
    "vibration": Vibration,
    "system": System,
}
"""Parameters of each group of elements, in the order of their rows."""


class Opens(IntEnum):
    """What opens a branch: nothing, a spool, the drop across it, the pressure behind it."""

    fixed = 0
    spool = 1
    relief = 2
    reducing = 3


class Loop(IntEnum):
    """What commands a spool."""

    open = 0
    position = 1
    pressure = 2


class Stroke(IntEnum):
    """What sets the stroke of a pump."""

    fixed = 0
    pressure = 1
    load_sensing = 2


class Measure(IntEnum):
    """What a sensor may measure; those before `power` are means over the steps of a second.

    `valve_command` is the opening commanded to a spool, by current or pilot pressure;
    `efficiency` is the hydraulic power at the outlet of a branch over the first drive's electric
    power; `cooler_effectiveness` the oil's cooling over what its inlet is warmer than the ambient.
    """

    pressure = 0
    differential_pressure = 1
    flow = 2
    position = 3
    velocity = 4
    spool = 5
    speed = 6
    pump_flow = 7
    swash = 8
    leakage = 9
    force = 10
    command = 11
    torque = 12
    valve_command = 13
    power = 14
    current = 15
    vibration = 16
    oil_temperature = 17
    body_temperature = 18
    cooler_outlet = 19
    return_temperature = 20
    fan = 21
    level = 22
    contamination = 23
    ambient = 24
    cooler_power = 25
    cooler_effectiveness = 26
    efficiency = 27


class Counter(IntEnum):
    """Totals for balances: energies in J, volumes in m3."""

    shaft = 0
    heat = 1
    work = 2
    stored = 3
    rejected = 4
    into_tank = 5
    into_circuit = 6


class Layout(NamedTuple):
    """One circuit: which element joins what. Indices of -1 say that there is none."""

    components: int
    signals: int
    steps_per_s: int
    cooler_branch: int
    branch_a: Ints
    branch_b: Ints
    branch_opens: Ints
    branch_spool: Ints
    branch_sign: Ints
    branch_signal: Ints
    branch_component: Ints
    spool_loop: Ints
    spool_signal: Ints
    spool_target: Ints
    spool_a: Ints
    spool_b: Ints
    spool_pump: Ints
    pump_in: Ints
    pump_out: Ints
    pump_drive: Ints
    pump_stroke: Ints
    pump_flow_signal: Ints
    pump_pressure_signal: Ints
    pump_component: Ints
    drive_signal: Ints
    drive_component: Ints
    actuator_a: Ints
    actuator_b: Ints
    actuator_c: Ints
    actuator_load: Ints
    actuator_resistance: Ints
    actuator_component: Ints
    body_component: Ints
    vibration_drive: Ints
    vibration_node: Ints
    output_measure: Ints
    output_index: Ints


class Parameters(NamedTuple):
    """Parameters of M machines: of each group, float64[M, parameters, elements]."""

    node: Floats
    branch: Floats
    spool: Floats
    pump: Floats
    drive: Floats
    actuator: Floats
    body: Floats
    vibration: Floats
    system: Floats


class State(NamedTuple):
    """States of M machines: float64[M, elements]; `thermal` is oil and return line in degC."""

    pressure: Floats
    spool: Floats
    spool_speed: Floats
    coil: Floats
    spool_command: Floats
    position: Floats
    velocity: Floats
    speed: Floats
    swash: Floats
    sensed: Floats
    body: Floats
    thermal: Floats
    counters: Floats


class One(NamedTuple):
    """Layout, parameters and state of one machine inside the kernel, without the axis M."""

    layout: Layout
    node: Floats
    branch: Floats
    spool: Floats
    pump: Floats
    drive: Floats
    actuator: Floats
    body: Floats
    vibration: Floats
    system: Floats
    pressure: Floats
    spool_at: Floats
    spool_speed: Floats
    coil: Floats
    spool_command: Floats
    position: Floats
    velocity: Floats
    speed: Floats
    swash: Floats
    sensed: Floats
    body_degC: Floats
    thermal: Floats
    counters: Floats
