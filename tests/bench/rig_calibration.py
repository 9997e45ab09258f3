"""Calibrates the simulated rig to healthy cycles of the real one, by least squares.

`python -m tests.bench.rig_calibration` rewrites the values of `app/demo/rig/simulation.yaml` that
are marked as calibrated. It reads the first half of the stable cycles whose four components are as
new; the other half and all faulty cycles stay unseen. The same data give the same values.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import yaml
from scipy.optimize import least_squares

from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.measurements import SENSOR_IDS, CycleBlock, read_blocks
from app.demo.rig.simulated import SIMULATION_FILE, simulate
from app.demo.simulation.layout import Floats
from app.demo.simulation.machine import parse_design

HEALTHY = (100, 100, 0, 130)
"""Grades of cooler, valve, pump and accumulator as new."""


class Range(NamedTuple):
    """Where a fit begins, and between which values it stays, in the unit of the YAML."""

    start: float
    low: float
    high: float


RANGES: Mapping[str, Range] = {
    "tank_ua": Range(25, 2, 80),
    "ambient": Range(22.5, 15, 30),
    "motor_loss": Range(0.2, 0.02, 0.8),
    "vibration": Range(0.45, 0.1, 1),
    "vibration_of_pressure": Range(0.12, 0, 0.6),
    "displacement": Range(6.2, 5, 7.5),
    "volumetric": Range(0.92, 0.8, 0.995),
    "mechanical": Range(0.93, 0.8, 0.995),
    "relief": Range(188, 180, 195),
    "compensator": Range(22, 10, 30),
    "valve_drop": Range(3, 0.2, 20),
    "load": Range(100, 85, 110),
    "return_drop": Range(2.3, 1, 4),
    "accumulator": Range(0.7, 0.2, 2),
    "cooling_displacement": Range(7.3, 6, 9),
    "filter_drop": Range(0.2, 0.02, 1),
    "cooler_line_drop": Range(0.11, 0.02, 1),
    "cooler_drop": Range(9.6, 5, 15),
    "cooler_ua": Range(180, 50, 500),
    "TS1_shift": Range(-2.8, -10, 10),
    "TS2_shift": Range(-2.2, -10, 10),
}
SWITCHING = {
    "closes": Range(0.1, 0.01, 0.5),
    "opens": Range(9.3, 9.0, 9.6),
    "steps": Range(0.1, 0.01, 0.5),
}
"""Seconds at which the switching valve is commanded, and the delay of the load steps."""
STEPS_S = (19, 29, 39, 49)
RAMP_S = 0.01
STEP, SWITCHING_STEP = 3e-3, 0.06
"""Of the numerical derivative as shares of the range: above the tolerance of the solver, and for
times above its time step."""
EVALUATIONS = 60
_MARK = re.compile(r"(: )([^:#]+?)(  # calibrated: (\w+))$", re.MULTILINE)


class Healthy(NamedTuple):
    """Healthy cycles, [C, T, S]: stable ones, used or kept out, and unstable ones."""

    used_CTS: Floats
    unused_CTS: Floats
    unstable_CTS: Floats


def rig_cycles() -> CycleBlock:
    """Read all shipped cycles."""
    (block,) = read_blocks(open_archive(SHIPPED_ARCHIVE), cycles_per_block=1_000_000)
    return block


def stacked(block: CycleBlock) -> Floats:
    """Return the readings of a block as one array at 1 Hz, [C, T, S]."""
    return np.stack([block.values_CR[name] for name in SENSOR_IDS], axis=-1)


def healthy_cycles(block: CycleBlock) -> Healthy:
    """Choose the cycles of the calibration and the others, in the order of the experiment."""
    is_healthy_C = (block.grades_CG == HEALTHY).all(1)
    values_CTS = stacked(block)
    stable_CTS = values_CTS[is_healthy_C & block.stable_C]
    half = len(stable_CTS) // 2
    unstable_CTS = values_CTS[is_healthy_C & ~block.stable_C]
    return Healthy(stable_CTS[:half], stable_CTS[half:], unstable_CTS)


def calibrate(text: str, real_TS: Floats, evaluations: int = EVALUATIONS) -> tuple[str, float]:
    """Fit the calibrated values of a simulation's YAML to a mean healthy cycle.

    The residual of a sensor is in units of its root mean square, so that all count alike; large
    ones count less (soft L1), since a second in which the valve switches depends on milliseconds.

    Args:
        text: the YAML; its calibrated values do not matter.
        real_TS: the cycle.
        evaluations: most steps of the fit.

    Returns:
        The YAML with fitted values; the root mean square of the residuals.
    """
    ranges = {name: RANGES[name] for name in calibrated_names(text)} | SWITCHING
    start, low, high = np.array(list(ranges.values())).T
    scale_S = np.sqrt((real_TS**2).mean(0))

    def written(place: Floats) -> str:
        values = low + place * (high - low)
        return with_values(text, dict(zip(ranges, values.tolist(), strict=True)))

    def residuals(place: Floats) -> Floats:
        design = parse_design(yaml.safe_load(written(place)), "simulation")
        healthy_MF = np.zeros((1, len(design.circuit.modes)))
        simulated_TS = simulate(design, healthy_MF).values_MTS[0]
        found: Floats = ((simulated_TS - real_TS) / scale_S).ravel()
        return found

    place = (start - low) / (high - low)
    step = np.array([SWITCHING_STEP if name in SWITCHING else STEP for name in ranges])
    found = least_squares(
        residuals,
        place,
        bounds=(0, 1),
        diff_step=step / np.maximum(place, 0.05),
        loss="soft_l1",
        f_scale=0.05,
        max_nfev=evaluations,
    )
    return written(found.x), float(np.sqrt((residuals(found.x) ** 2).mean()))


def calibrated_names(text: str) -> tuple[str, ...]:
    """Return the names of the calibrated values of a YAML, without the times of switching."""
    return tuple(match[4] for match in _MARK.finditer(text) if match[4] != "switching")


def with_values(text: str, values: Mapping[str, float]) -> str:
    """Return the YAML with other calibrated values."""

    def replaced(match: re.Match[str]) -> str:
        if match[4] == "switching":
            times = [values["closes"], values["opens"]]
            times += [step + values["steps"] for step in STEPS_S]
            both = [f"{each:.5g}" for time in times for each in (time, time + RAMP_S)]
            first, rest = ", ".join(["0", *both[:6]]), ", ".join([*both[6:], "60"])
            return f"{match[1]}[{first},\n        {rest}]{match[3]}"
        return f"{match[1]}{values[match[4]]:.5g}{match[3]}"

    return _MARK.sub(replaced, text)


def main() -> None:
    """Calibrate and rewrite the YAML."""
    used_CTS = healthy_cycles(rig_cycles()).used_CTS
    text, residual = calibrate(SIMULATION_FILE.read_text(encoding="utf-8"), used_CTS.mean(0))
    SIMULATION_FILE.write_text(text, encoding="utf-8")
    print(f"calibrated to {len(used_CTS)} cycles: residual {residual:.4f} of the sensors' values")


if __name__ == "__main__":
    main()
