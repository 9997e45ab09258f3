"""`hydraulic demo` for the simulated machines: list, describe, generate, feed, inject and plot.

They import the kernel, whose compiler is an extra, only when they simulate.
"""

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.core.command_line import Dsn, reported
from app.core.errors import InputError, SettingsError
from app.core.settings import Settings
from app.demo.machine import DEFAULT_START, Start
from app.demo.simulation.drawing import as_mermaid, as_text
from app.demo.simulation.machine import machine_files, read_machine

commands = typer.Typer()

Machine = Annotated[str, typer.Argument(help="One of `list`, or a folder with a machine.yaml.")]
Machines = Annotated[int, typer.Option(min=1, help="How many machines.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all chance.")]
Wearing = Annotated[
    float, typer.Option(min=0, help="Expected number of components of a machine that wear.")
]


@commands.command("list", epilog="Example: hydraulic demo list")
def list_machines() -> None:
    """List the simulated machines."""
    for name in machine_files():
        design = read_machine(name)
        faults = sum(len(each.faults) for each in design.components)
        print(
            f"{name:20} {len(design.components)} components, {len(design.sensors)} sensors, "
            f"{faults} faults: {design.name}"
        )


@commands.command(epilog="Example: hydraulic demo describe excavator")
def describe(
    machine: Machine,
    form: Annotated[
        Literal["text", "mermaid"], typer.Option(help="For the terminal, or for a document.")
    ] = "text",
) -> None:
    """Draw a simulated machine: components, sensors, faults, connections, duty cycle."""
    with reported():
        design = read_machine(machine)
    print((as_text if form == "text" else as_mermaid)(design), end="")


@commands.command(epilog="Example: hydraulic demo generate excavator --hours 24 --out histories")
def generate(
    machine: Machine,
    machines: Machines = 1,
    hours: Annotated[float, typer.Option(help="Operating hours of each history.")] = 24.0,
    out: Annotated[
        Path | None,
        typer.Option(help="Empty folder for Parquet, labels, topologies and a manifest."),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Write into the database instead.")
    ] = False,
    sample: Annotated[
        int, typer.Option(min=0, help="Windows of each machine along its history; 0: every second.")
    ] = 0,
    window_s: Annotated[int, typer.Option(min=10, help="Length of a sampled window.")] = 600,
    seed: Seed = 0,
    wearing: Wearing = 2.5,
    sensor_faults: Annotated[
        float, typer.Option(min=0, help="Expected number of sensor faults of a machine.")
    ] = 1.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SEVERITY",
            help="component.fault, as `describe` lists them, that grows to a severity at the end.",
        ),
    ] = None,
    first: Annotated[int, typer.Option(min=1, help="Number of the first machine.")] = 1,
    start: Start = DEFAULT_START,
    dsn: Dsn = None,
) -> None:
    """Generate histories of simulated machines with labels, into a folder or the database."""
    with reported():
        _need_extra()
        from app.demo.simulation.generate import Order, generate_files, generate_into_store

        if (out is None) != store:
            raise InputError("expected either --out or --store: name one place to write to", "out")
        order = Order(
            read_machine(machine), machines, hours, start, seed, sample, window_s, wearing,
            sensor_faults, first, faults=_severities(fault or ()),
        ).checked()  # fmt: skip
        if out is None:
            generate_into_store(order, Settings().at(dsn))
            return

        def report(done: int, readings: int) -> None:
            print(f"{done}/{machines} machines, {readings} readings", flush=True)

        manifest = generate_files(order, out, report)
        print(f"generated {manifest['readings']} simulated readings in {out}")


@commands.command(epilog="Example: hydraulic demo feed excavator --machines 2 --speed 60")
def feed(
    machine: Machine,
    machines: Machines = 1,
    speed: Annotated[
        float, typer.Option(help="Simulated seconds per second until the present; then 1.")
    ] = 1.0,
    hours: Annotated[
        float | None, typer.Option(help="Length of the history; default without end.")
    ] = None,
    past_h: Annotated[float, typer.Option(help="How many hours ago it begins.")] = 1.0,
    seed: Seed = 0,
    wearing: Wearing = 0.0,
    url: Annotated[
        str | None, typer.Option(help="Service to write to over HTTP, instead of the database.")
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Feed simulated machines as they run, until Ctrl-C."""
    with reported():
        _need_extra()
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


@commands.command(
    epilog="Example: hydraulic demo inject pump.leakage --equipment excavator-001 --severity 0.8"
)
def inject(
    fault: Annotated[str, typer.Argument(help="component.fault, as `describe` lists them.")],
    equipment: Annotated[str, typer.Option(help="Id of a machine that is fed.")],
    severity: Annotated[float, typer.Option(help="Above 0, at most 1, which is failure.")] = 0.8,
    over: Annotated[float, typer.Option(help="Operating hours until then.")] = 1.0,
    machine: Annotated[
        str | None, typer.Option(help="Its design; default its id without the number.")
    ] = None,
) -> None:
    """Let a fault grow in a machine that `feed` feeds."""
    from app.demo.simulation.injections import Injection
    from app.demo.simulation.injections import inject as inject_into
    from app.demo.simulation.wear import healthy_plan, mode_of

    with reported():
        modes = read_machine(machine or equipment.rpartition("-")[0]).circuit.modes
        healthy_plan(modes, 1.0).injected(fault, severity, 0.0, over)
        mode = modes[mode_of(modes, fault)]
        name = f"{mode.component}.{mode.fault}"
        now = datetime.now(UTC)
        injection = Injection(fault=name, severity=severity, over_h=over, start=now)
        inject_into(Settings().var_dir, equipment, injection)
        print(f"{name} of {equipment} grows to severity {severity:g} over {over:g} h")


@commands.command(epilog="Example: hydraulic demo plot excavator excavator.svg")
def plot(
    machine: Machine, out: Annotated[Path, typer.Argument(help="The SVG file to write.")]
) -> None:
    """Plot a duty cycle of a simulated machine, healthy and with each fault."""
    with reported():
        _need_extra("matplotlib")
        from app.demo.simulation.plots import plot_cycle

        plot_cycle(read_machine(machine), out)
        print(f"plotted {machine} into {out}")


@commands.command("record-live", epilog="Example: hydraulic demo record-live robot live.parquet")
def record_live_machines(
    machine: Machine, out: Annotated[Path, typer.Argument(help="The Parquet file to write.")]
) -> None:
    """Record the two machines of a design that the live demonstration replays."""
    with reported():
        _need_extra()
        from app.demo.simulation.live_recording import record_live

        record_live(read_machine(machine), out)
        print(f"recorded two simulated machines in {out}")


def _severities(texts: Sequence[str]) -> dict[str, float]:
    """Return the severities of faults by name, from texts `NAME=SEVERITY`.

    Raises:
        InputError: one is not of this form, or a fault is named twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            severity = float(number)
        except ValueError:
            raise InputError(
                f"expected a fault as component.fault=SEVERITY, found '{text}': write it such as "
                "pump.leakage=0.6",
                "fault",
            ) from None
        if name in found:
            raise InputError(f"expected each fault once, found '{name}' twice: name one", "fault")
        found[name] = severity
    return found


def _need_extra(*others: str) -> None:
    """Raise when packages of the simulation are missing.

    Raises:
        SettingsError: they are.
    """
    missing = [name for name in ("numba", "pyarrow", *others) if find_spec(name) is None]
    if missing:
        extra = "train" if others else "simulation"
        raise SettingsError(
            f"expected the packages of the simulation, found no {' and no '.join(missing)}: "
            f"install the extra {extra} with "
            f"`pip install --constraint constraints.txt --editable '.[{extra}]'`"
        )
