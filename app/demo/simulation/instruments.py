"""What the instruments of a machine make of the true values: calibration, noise and faults.

A sensor fault is separate from the machine's: it changes one sensor's values and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from app.demo.simulation.elements.base import Instrument
from app.demo.simulation.layout import Floats

FaultKind = Literal["stuck", "drift", "offset", "gain", "spike", "noise", "dropout", "unit_swap"]
FAULT_KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

OTHER_UNIT = {
    "bar": 14.504, "l/min": 0.26417, "rpm": 1 / 60, "kW": 1.341, "mm": 1 / 25.4, "m/s": 3.2808,
    "mm/s": 1 / 25.4, "Nm": 0.73756, "kN": 0.22481, "deg": 0.017453, "%": 0.01, "A": 1000.0,
}  # fmt: skip
"""Factor from a unit to the one that it is confused with: psi, gpm, Hz, hp, inch, and so on."""


class SensorFault(NamedTuple):
    """A fault of a sensor over operating hours [start_h, end_h).

    `size` is in parts of the range for stuck, drift, offset, spike and noise, and a factor for
    gain.
    """

    sensor: int
    kind: FaultKind
    start_h: float
    end_h: float
    size: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Offset and gain of each sensor of one machine, float64[S]."""

    offset_S: Floats
    gain_S: Floats


def calibrate(instruments: Sequence[Instrument], random: np.random.Generator) -> Calibration:
    """Draw the calibration of one machine's instruments."""
    offset_S = np.array(
        [0.002 * each.span if each.offset is None else each.offset for each in instruments]
    )
    gain_S = np.array([each.gain for each in instruments])
    return Calibration(
        offset_S * random.standard_normal(len(instruments)),
        1.0 + gain_S * random.standard_normal(len(instruments)),
    )


def draw_sensor_faults(
    instruments: Sequence[Instrument], hours: float, expected: float, random: np.random.Generator
) -> tuple[SensorFault, ...]:
    """Draw the sensor faults of one machine, `expected` of them on average."""
    found = []
    for _ in range(int(random.poisson(expected))):
        sensor = int(random.integers(len(instruments)))
        kind = FAULT_KINDS[int(random.integers(len(FAULT_KINDS)))]
        if kind == "unit_swap" and instruments[sensor].unit not in {*OTHER_UNIT, "degC"}:
            kind = "gain"
        start_h = float(random.uniform(-0.1, 0.95) * hours)
        duration_h = hours * float(random.uniform(0.03, 0.25))
        size = float(random.uniform(0.04, 0.2) * random.choice([-1, 1]))
        if kind == "gain":
            size = float(np.exp(random.choice([-1, 1]) * random.uniform(0.15, 0.6)))
        elif kind == "stuck":
            size = float(random.uniform(0.0, 1.0))
        found.append(SensorFault(sensor, kind, start_h, start_h + duration_h, size))
    return tuple(sorted(found, key=lambda each: (each.start_h, each.sensor)))


def read_out(
    instruments: Sequence[Instrument],
    calibration: Calibration,
    faults: Sequence[SensorFault],
    true_TO: Floats,
    hour: float,
    random: np.random.Generator,
) -> Floats:
    """Return the values of a recording, float64[T, S], NaN where there is none.

    Args:
        instruments: of the machine.
        calibration: of the machine.
        faults: of its sensors.
        true_TO: what the kernel measured, SI.
        hour: operating hour at the beginning.
        random: source of noise.
    """
    low_S = np.array([each.range[0] for each in instruments])
    high_S = np.array([each.range[1] for each in instruments])
    noise_S = np.array(
        [0.002 * each.span if each.noise is None else each.noise for each in instruments]
    )
    factor_S = np.array([each.usual.factor for each in instruments])
    noise_TS = noise_S * random.standard_normal(true_TO.shape)
    shift_S = np.array([each.shift for each in instruments])
    value_TS = true_TO * factor_S * calibration.gain_S + calibration.offset_S + shift_S + noise_TS
    hour_T = hour + np.arange(len(true_TO)) / 3_600
    for fault in faults:
        active_T = (hour_T >= fault.start_h) & (hour_T < fault.end_h)
        if active_T.any():
            s = fault.sensor
            value_TS[active_T, s] = faulty(
                instruments[s], fault, value_TS[active_T, s], hour_T[active_T], random
            )
    clipped_TS: Floats = np.clip(value_TS, low_S, high_S)
    return clipped_TS


def faulty(
    instrument: Instrument,
    fault: SensorFault,
    value_T: Floats,
    hour_T: Floats,
    random: np.random.Generator,
) -> Floats:
    """Return the readings of a sensor with a fault, not clipped to its range.

    Args:
        instrument: the sensor.
        fault: active throughout.
        value_T: its readings without the fault.
        hour_T: operating hour of each.
        random: source of noise, spikes and gaps.
    """
    span, count = instrument.span, len(value_T)
    changed_T: Floats
    match fault.kind:
        case "stuck":
            # at a value that the machine has had
            changed_T = np.full(count, np.quantile(value_T, fault.size))
        case "drift":
            share_T = (hour_T - fault.start_h) / (fault.end_h - fault.start_h)
            changed_T = value_T + 1.5 * fault.size * span * share_T
        case "offset":
            changed_T = value_T + fault.size * span
        case "gain":
            changed_T = value_T * fault.size
        case "spike":
            hit_T = random.uniform(size=count) < 0.03
            height_T = 3 * abs(fault.size) * span * random.choice([-1, 1], count)
            changed_T = value_T + hit_T * height_T
        case "noise":
            changed_T = value_T + 0.5 * abs(fault.size) * span * random.standard_normal(count)
        case "dropout":
            gone_T = np.repeat(random.uniform(size=count // 10 + 1) < 0.6, 10)[:count]
            changed_T = np.where(gone_T, np.nan, value_T)
        case "unit_swap":
            changed_T = value_T * OTHER_UNIT.get(instrument.unit, 1.8)
            if instrument.unit == "degC":
                changed_T += 32
    return changed_T
