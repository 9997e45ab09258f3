"""Commands of the simulated machines: list, describe, generate, feed, inject and plot.

They import the kernel, whose compiler is an extra, only when they simulate.
"""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from app.core.errors import InputError, SettingsError
from app.core.settings import Settings
from app.demo.machine import DEFAULT_START
from app.demo.simulation.drawing import as_mermaid, as_text
from app.demo.simulation.machine import machine_files, read_machine


def add_commands(commands: Any, database: Any) -> None:
    """Add none to `python -m app.demo`: these belong to `hydraulic demo`."""


def list_machines() -> None:
    """List the simulated machines."""
    for name in machine_files():
        design = read_machine(name)
        faults = sum(len(each.faults) for each in design.components)
        print(
            f"{name:20} {len(design.components)} components, {len(design.sensors)} sensors, "
            f"{faults} faults: {design.name}"
        )


def describe(machine: str, form: Literal["text", "mermaid"] = "text") -> None:
    """Draw a machine.

    Args:
        machine: name of a shipped one, or a folder with a machine.yaml.
        form: for the terminal, or Mermaid for a document.
    """
    design = read_machine(machine)
    print((as_text if form == "text" else as_mermaid)(design), end="")


def generate(
    machine: str,
    machines: int = 1,
    hours: float = 24.0,
    out: Path | None = None,
    *,
    store: bool = False,
    sample: int = 0,
    window_s: int = 600,
    seed: int = 0,
    wearing: float = 2.5,
    sensor_faults: float = 1.0,
    first: int = 1,
    start: datetime = DEFAULT_START,
    dsn: str | None = None,
) -> None:
    """Generate histories with labels, into a folder or the store.

    Args:
        machine: name of a shipped one, or a folder with a machine.yaml.
        machines: how many.
        hours: operating hours of each history.
        out: an empty folder for Parquet, labels, topologies and a manifest.
        store: write into the store instead.
        sample: windows of each machine, spread over the history; 0 for every second.
        window_s: length of a sampled window.
        seed: of all chance.
        wearing: expected number of components of a machine that wear.
        sensor_faults: expected number of sensor faults of a machine.
        first: number of the first machine.
        start: time of operating hour 0.
        dsn: database; None for that of the settings.

    Raises:
        InputError: not exactly one of `out` and `store`, or a number out of its range.
    """
    _need_simulation()
    from app.demo.simulation.generate import Order, generate_files, generate_into_store

    if (out is None) != store:
        raise InputError("expected either --out or --store: name one place to write to", "out")
    order = Order(
        read_machine(machine), machines, hours, start, seed, sample, window_s, wearing,
        sensor_faults, first,
    ).checked()  # fmt: skip
    if out is None:
        generate_into_store(order, Settings().at(dsn))
        return

    def report(done: int, readings: int) -> None:
        print(f"{done}/{machines} machines, {readings} readings", flush=True)

    manifest = generate_files(order, out, report)
    print(f"generated {manifest['readings']} simulated readings in {out}")


def feed(
    machine: str,
    machines: int = 1,
    speed: float = 1.0,
    hours: float | None = None,
    past_h: float = 1.0,
    *,
    seed: int = 0,
    wearing: float = 0.0,
    url: str | None = None,
    dsn: str | None = None,
) -> None:
    """Feed machines as they run, into the store or over HTTP, until Ctrl-C.

    Args:
        machine: name of a shipped one, or a folder with a machine.yaml.
        machines: how many.
        speed: simulated seconds per second until the present is reached; then 1.
        hours: length of the history; None for no end.
        past_h: how many hours ago it begins.
        seed: of all chance.
        wearing: expected number of components of a machine that wear in the first 24 h.
        url: of a service, to write over HTTP instead of into the store.
        dsn: database; None for that of the settings.
    """
    _need_simulation()
    from app.demo.simulation.history import draw_unit
    from app.demo.simulation.live import feed_http, feed_store

    design, settings = read_machine(machine), Settings().at(dsn)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=past_h)
    length = math.inf if hours is None else hours
    units = [
        draw_unit(design, index, seed, hours or 24.0, wearing=wearing, sensor_faults=0.0)
        for index in range(1, machines + 1)
    ]
    names = ", ".join(unit.equipment_id for unit in units)
    print(f"feeding simulated machines {names}; Ctrl-C ends it", flush=True)
    if url is None:
        asyncio.run(feed_store(units, start, length, speed, settings))
    else:
        key = None if settings.api_key is None else settings.api_key.get_secret_value()
        asyncio.run(feed_http(units, start, length, speed, url, key, settings.var_dir))


def inject(
    fault: str, equipment: str, severity: float = 0.8, over: float = 1.0, machine: str | None = None
) -> None:
    """Let a fault grow in a machine that is fed.

    Args:
        fault: component.fault, or the fault alone when one component has it.
        equipment: id of the machine, such as excavator-001.
        severity: that it reaches, above 0, at most 1; 1 is failure.
        over: operating hours until then.
        machine: of which design; default: the id without its number.

    Raises:
        ReadingError: there is no such design or fault, or a number is out of range.
    """
    from app.demo.simulation.injections import Injection
    from app.demo.simulation.injections import inject as inject_into
    from app.demo.simulation.wear import healthy_plan, mode_of

    modes = read_machine(machine or equipment.rpartition("-")[0]).circuit.modes
    healthy_plan(modes, 1.0).injected(fault, severity, 0.0, over)
    mode = modes[mode_of(modes, fault)]
    name = f"{mode.component}.{mode.fault}"
    now = datetime.now(UTC)
    injection = Injection(fault=name, severity=severity, over_h=over, start=now)
    inject_into(Settings().var_dir, equipment, injection)
    print(f"{name} of {equipment} grows to severity {severity:g} over {over:g} h")


def plot(machine: str, out: Path) -> None:
    """Plot a duty cycle, healthy and with each fault, as SVG files.

    Args:
        machine: name of a shipped one, or a folder with a machine.yaml.
        out: an SVG file.
    """
    _need_simulation()
    from app.demo.simulation.plots import plot_cycle

    plot_cycle(read_machine(machine), out)
    print(f"plotted {machine} into {out}")


def _need_simulation() -> None:
    """Raise when the extra is not installed.

    Raises:
        SettingsError: numba or pyarrow is missing.
    """
    from importlib.util import find_spec

    missing = [name for name in ("numba", "pyarrow") if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"expected the packages of the simulation, found no {' and no '.join(missing)}: "
            "install the extra with "
            "`pip install --constraint constraints.txt --editable '.[simulation]'`"
        )
