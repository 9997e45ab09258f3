"""Small machines for tests, and what the kernel computes for them."""

from typing import Any

import numpy as np

from app.demo.simulation.kernel import advance
from app.demo.simulation.layout import GROUPS, Floats, State
from app.demo.simulation.machine import MachineDesign, parse_design

DRIVE = {
    "id": "drive", "kind": "drive", "speed_rpm": 1500, "torque_Nm": 150, "slip_percent": 3,
    "vibration_line": "p",
}  # fmt: skip
DRIVE_SENSORS = [{"id": "speed", "measures": "speed", "range": [0, 3000]}]
PUMP = {
    "id": "pump", "kind": "pump", "drive": "drive", "outlet": "p", "displacement_cm3": 40,
    "pressure_bar": 200,
}  # fmt: skip
RELIEF = {
    "id": "relief", "kind": "relief", "inlet": "p", "setting_bar": 180, "flow_l_min": 60,
}  # fmt: skip
TANK = {
    "id": "tank", "kind": "tank",
    "sensors": [{"id": "oil", "measures": "oil_temperature", "range": [-40, 120]}],
}  # fmt: skip


def machine(*components: dict[str, Any], **changes: Any) -> MachineDesign:
    """Return a machine of drive, pump, relief valve and these components."""
    data = {
        "machine": "small",
        "name": "Small circuit",
        "design": "small",
        "description": "For tests.",
        "window": {"window_s": 60, "steps": 2},
        "oil": {"volume_l": 60},
        "ambient": {"mean_degC": 20, "season_K": 0, "day_K": 0},
        "lines": {"p": 2.0},
        "duty": {
            "rest": {"command": 0.0},
            "programs": {"work": {"seconds": [0, 10], "signals": {"command": [0, 0]}}},
        },
        "components": [*components, {**DRIVE, "sensors": DRIVE_SENSORS}, PUMP, RELIEF, TANK],
        **changes,
    }
    return parse_design(data, "small")


def run(
    design: MachineDesign,
    seconds: int,
    knots: list[float],
    signals: list[list[float]],
    severity: dict[tuple[str, str], float] | None = None,
    count: int = 1,
) -> tuple[Floats, State]:
    """Run machines without scatter from rest at 40 degC: values [M, T, O] in SI, last state."""
    circuit = design.circuit
    severity_MF = np.zeros((count, len(circuit.modes)))
    for index, mode in enumerate(circuit.modes):
        severity_MF[:, index] = (severity or {}).get((mode.component, mode.fault), 0.0)
    factor = {name: np.ones((count, *circuit.base[name].shape)) for name in GROUPS}
    parameters = circuit.parameters(factor, severity_MF)
    position_MA = np.zeros((count, len(circuit.layout.actuator_a)))
    state = circuit.rest(parameters, np.full(count, 40.0), position_MA)
    out_MTO = np.empty((count, seconds, len(design.sensors)))
    advance(
        circuit.layout,
        parameters,
        state,
        np.repeat(np.array([knots]), count, axis=0),
        np.repeat(np.array([signals], dtype=float), count, axis=0),
        out_MTO,
    )
    return out_MTO, state
