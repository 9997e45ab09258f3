"""A made-up press with two hours of readings and labels: `python -m tests.made_press DIRECTORY`.

The tutorial of an own machine uses it. It writes `press.yaml`, `readings.csv` (long: one line a
reading) and `labels.csv` (lines of `start,end,component,health`). Nothing of it is shipped. Every
labelled component wears and is repaired several times, each at a period of its own, so that a split
by time trains on what it holds out. The readings follow the wear: pressure falls with the pump, the
stroke slows with the cylinder, the filter's pressure difference rises, the oil warms with the
cooler.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EQUIPMENT_ID = "press-7"
END = datetime(2025, 1, 1, 2, tzinfo=UTC)
"""End of the readings: fixed, so that the tutorial can name a time."""
READINGS_S = 7_200
LABEL_S = 240
"""Seconds of one label: four windows."""

TOPOLOGY = f"""\
equipment_id: {EQUIPMENT_ID}
name: Press 7
design: made-press
grid_s: 1
window_s: 60
steps: 12
components:
  - component_id: pump
    type: pump
    sensors:
      - {{sensor_id: P_pump, quantity: pressure, unit: bar, range: [0, 400]}}
      - {{sensor_id: Q_pump, quantity: flow, unit: l/min, range: [0, 120]}}
  - component_id: valve
    type: valve
    sensors:
      - {{sensor_id: P_valve, quantity: pressure, unit: bar, range: [0, 400]}}
  - component_id: cylinder
    type: cylinder
    sensors:
      - {{sensor_id: X_ram, quantity: position, unit: mm, range: [0, 600]}}
      - {{sensor_id: P_ram, quantity: pressure, unit: bar, range: [0, 400]}}
  - component_id: filter
    type: filter
    sensors:
      - {{sensor_id: DP_filter, quantity: differential_pressure, unit: bar, range: [0, 10]}}
  - component_id: cooler
    type: cooler
    sensors:
      - {{sensor_id: T_cooler, quantity: temperature, unit: degC, range: [-20, 120]}}
  - component_id: tank
    type: tank
    sensors:
      - {{sensor_id: T_tank, quantity: temperature, unit: degC, range: [-20, 120]}}
connections:
  - {{source: tank, target: pump, medium: suction_line, evidence: none}}
  - {{source: pump, target: valve, medium: pressure_line, evidence: both}}
  - {{source: valve, target: cylinder, medium: pressure_line, evidence: both}}
  - {{source: cylinder, target: filter, medium: return_line, evidence: forward}}
  - {{source: filter, target: cooler, medium: return_line, evidence: forward}}
  - {{source: cooler, target: tank, medium: return_line, evidence: forward}}
"""

PERIODS = {"pump": 5, "cylinder": 3, "filter": 4, "cooler": 7}
"""Labels from one repair of a component to the next."""


def write(directory: Path) -> None:
    """Write the three files."""
    directory.mkdir(parents=True, exist_ok=True)
    start = END - timedelta(seconds=READINGS_S)
    (directory / "press.yaml").write_text(TOPOLOGY, encoding="utf-8")
    times = [
        f"{start + timedelta(seconds=second):%Y-%m-%dT%H:%M:%SZ}" for second in range(READINGS_S)
    ]
    lines = ["equipment_id,sensor_id,time,value"]
    for sensor_id, values_N in readings().items():
        lines += [
            f"{EQUIPMENT_ID},{sensor_id},{time},{value:.3f}"
            for time, value in zip(times, values_N.tolist(), strict=True)
        ]
    (directory / "readings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lines = ["start,end,component,health"]
    for component_id in PERIODS:
        healths = health(component_id)[::LABEL_S].tolist()
        for place, value in enumerate(healths):
            first = start + timedelta(seconds=place * LABEL_S)
            last = first + timedelta(seconds=LABEL_S)
            lines.append(f"{first.isoformat()},{last.isoformat()},{component_id},{value:.2f}")
    (directory / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def health(component_id: str) -> NDArray[np.float64]:
    """Return a component's health at each second: it falls from 1 in steps, then is repaired."""
    period = PERIODS[component_id]
    place_N = np.arange(READINGS_S) // LABEL_S
    return 1.0 - 0.9 * (place_N % period) / (period - 1)


def readings() -> dict[str, NDArray[np.float64]]:
    """Return each sensor's values, one a second."""
    generator = np.random.default_rng(7)
    second_N = np.arange(READINGS_S)
    wear = {component_id: 1.0 - health(component_id) for component_id in PERIODS}
    stroke_N = 0.5 - 0.5 * np.cos(2 * np.pi * second_N / 15.0)  # four strokes a window
    reached_N = stroke_N ** (1.0 + 1.5 * wear["cylinder"])
    pump_N = 250.0 - 70.0 * wear["pump"] - 60.0 * stroke_N
    oil_N = 45.0 + 18.0 * wear["cooler"] + 2.0 * np.sin(2 * np.pi * second_N / 3_600.0)
    clean: dict[str, Any] = {
        "P_pump": (pump_N, 1.5),
        "Q_pump": (60.0 - 18.0 * wear["pump"] + 15.0 * stroke_N, 0.6),
        "P_valve": (0.95 * pump_N - 4.0, 1.5),
        "X_ram": (20.0 + 500.0 * reached_N, 2.0),
        "P_ram": (30.0 + 0.7 * pump_N * reached_N, 1.5),
        "DP_filter": (0.8 + 4.0 * wear["filter"] + 0.4 * stroke_N, 0.05),
        "T_cooler": (oil_N - 12.0 + 9.0 * wear["cooler"], 0.2),
        "T_tank": (oil_N, 0.2),
    }
    return {
        name: values_N + noise * generator.normal(size=READINGS_S)
        for name, (values_N, noise) in clean.items()
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.made_press", description=__doc__)
    parser.add_argument("directory", type=Path)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Write the files into the directory that is named."""
    write(_parser().parse_args(arguments).directory)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
