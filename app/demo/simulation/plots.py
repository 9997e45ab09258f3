"""Plots one duty cycle of a machine, healthy and with each fault at a severity of 0.8.

One row per fault: the two sensors that change most, before (grey) and with the fault (red).
"""

import io
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from app.demo.simulation.history import draw_unit, record_windows
from app.demo.simulation.layout import Floats
from app.demo.simulation.machine import MachineDesign
from app.demo.simulation.wear import constant_plan

SEVERITY = 0.8
_LONG = re.compile(r"(?<=[ \"(-])\d+\.\d{2,}")


def cycles(design: MachineDesign, seconds: int) -> tuple[Floats, Floats]:
    """Return a window of machine 1, healthy [T, S] and with each fault [F, T, S]."""
    unit = draw_unit(design, 1, 0, 1e5, wearing=0.0, sensor_faults=0.0)
    hour = np.array([1_000.0])

    def record(severities: dict[int, float]) -> Floats:
        worn = unit.with_plan(constant_plan(design.circuit.modes, severities))
        return record_windows(worn, hour, seconds)[0].values_TS

    modes = range(len(design.circuit.modes))
    return record({}), np.stack([record({mode: SEVERITY}) for mode in modes])


def plot_cycle(design: MachineDesign, path: Path) -> None:
    """Write the plot of a design as SVG."""
    program = next(iter(design.duty.programs.values()))
    seconds = min(max(30, int(program.seconds[-1] - program.seconds[0])), 34)
    healthy_TS, faulty_FTS = cycles(design, seconds)
    instruments = [sensor for _, sensor in design.sensors]
    noise_S = np.array(
        [0.002 * each.span if each.noise is None else each.noise for each in instruments]
    )
    modes = design.circuit.modes
    columns = 2
    # text stays text and ids are fixed: the file is small and the same every time
    with mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "simulation",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 6,
            "lines.linewidth": 0.7,
            "axes.linewidth": 0.4,
        }
    ):
        figure = Figure(figsize=(8, 0.8 * len(modes) + 0.4), layout="constrained")
        axes = figure.subplots(len(modes), columns, sharex=True, squeeze=False)
        for row, mode in enumerate(modes):
            change_S = np.abs(faulty_FTS[row] - healthy_TS).mean(0)
            change_S /= np.std(healthy_TS, axis=0) + 3 * noise_S
            for column, sensor in enumerate(np.argsort(change_S)[::-1][:columns]):
                axis, each = axes[row, column], instruments[sensor]
                axis.plot(np.round(healthy_TS[:, sensor], 2), color="0.6")
                axis.plot(np.round(faulty_FTS[row][:, sensor], 2), color="tab:red")
                axis.set_title(
                    f"{mode.component}: {mode.fault} | {each.sensor_id} [{each.unit}]", pad=2
                )
                axis.tick_params(length=1, pad=1)
                axis.tick_params(axis="x", bottom=row == len(modes) - 1)
                axis.locator_params(axis="x", nbins=2)
                axis.locator_params(axis="y", nbins=2)
        for axis in axes[-1]:
            axis.set_xlabel("s")
        figure.suptitle(
            f"{design.name}, simulated: healthy (grey) and at severity {SEVERITY} (red)"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    # a tenth of a point is enough, and half of the bytes
    short = _LONG.sub(lambda number: f"{float(number[0]):.1f}", text.getvalue())
    path.write_text(re.sub(r"\s*\n\s*", "\n", short), encoding="utf-8")
