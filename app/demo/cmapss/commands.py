"""Command of the C-MAPSS engines: import their histories."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from app.core.command_line import Dsn, reported
from app.core.settings import Settings
from app.demo.cmapss.files import read_engines, read_remaining
from app.demo.cmapss.importer import TOPOLOGY_FILE, engine_topology, import_engines
from app.demo.machine import DEFAULT_START, REPEAT, Start, run_import

commands = typer.Typer()


@commands.command(
    epilog="Example: hydraulic demo import-cmapss train_FD001.txt --component hpc",
)
def import_cmapss(
    file: Annotated[Path, typer.Argument(help="Published histories, such as train_FD001.txt.")],
    component: Annotated[
        str, typer.Option(help="The component that failed, such as hpc in FD001.")
    ],
    rul: Annotated[
        Path | None,
        typer.Option(
            help="Cycles left after each engine's last line, such as RUL_FD001.txt; default 0."
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(help="Engine 7 becomes PREFIX-7; default the file's name without .txt."),
    ] = None,
    topology: Annotated[
        Path, typer.Option(help="Of the engines.", show_default="turbofan.yaml")
    ] = TOPOLOGY_FILE,
    start: Start = DEFAULT_START,
    dsn: Dsn = None,
) -> None:
    """Import engines of NASA's C-MAPSS files, each as a machine."""
    equipment = engine_topology(topology)
    engines = read_engines(file)
    remaining = read_remaining(rul, len(engines)) if rul is not None else None
    name = prefix or file.stem
    names = f"{name}-{engines[0].unit} to {name}-{engines[-1].unit}"
    print(f"importing {len(engines)} engines from {file} as {names}")
    order = (equipment, engines, component, name, start)
    with reported(REPEAT):
        asyncio.run(
            run_import(
                Settings().at(dsn),
                "engines",
                lambda store, report: import_engines(store, *order, report, remaining),
            )
        )
