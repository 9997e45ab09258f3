"""Commands of the rig: import, pack and feed its measurements."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from app.core.command_line import Dsn, reported
from app.core.settings import Settings
from app.demo.machine import DEFAULT_START, REPEAT, Start, run_import
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive, pack
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.feed import run_feed
from app.demo.rig.importer import import_rig
from app.demo.rig.measurements import open_directory, survey
from app.serving.observability.feed_metrics import FeedMetrics
from app.serving.observability.logging import configure_logging

commands = typer.Typer()

EquipmentId = Annotated[
    str | None, typer.Option(help="Id of the machine.", show_default="hydraulic-rig")
]


@commands.command("import-rig", epilog="Example: hydraulic demo import-rig")
def import_rig_command(
    directory: Annotated[
        Path | None,
        typer.Argument(help="The published .txt files at any rate; default the shipped copy."),
    ] = None,
    equipment_id: EquipmentId = None,
    start: Start = DEFAULT_START,
    dsn: Dsn = None,
) -> None:
    """Import the rig's readings and labels."""
    equipment = rig_equipment(equipment_id)
    files = open_archive(SHIPPED_ARCHIVE) if directory is None else open_directory(directory)
    print(f"importing {survey(files).cycles} cycles from {files.where} as {equipment.equipment_id}")
    with reported(REPEAT):
        asyncio.run(
            run_import(
                Settings().at(dsn),
                "cycles",
                lambda store, report: import_rig(store, equipment, files, start, report),
            )
        )


@commands.command(epilog="Example: hydraulic demo pack-rig published/ rig.tar.xz")
def pack_rig(
    directory: Annotated[Path, typer.Argument(help="The published .txt files.")],
    out: Annotated[Path, typer.Argument(help="The .tar.xz to write.")],
) -> None:
    """Pack the published .txt files into one archive, as shipped."""
    files = open_directory(directory)
    found = survey(files)
    size = pack(files, out)
    print(f"packed {found.cycles} cycles, {found.readings} readings, into {out}: {size} bytes")


@commands.command(epilog="Example: hydraulic demo live --equipment-id rig-2")
def live(equipment_id: EquipmentId = None, dsn: Dsn = None) -> None:
    """Write the rig's readings every second, as live data, until Ctrl-C."""
    settings = Settings().at(dsn)
    configure_logging(settings.log_level)
    print("feeding the rig's readings as measured now; Ctrl-C ends it", flush=True)
    with reported(REPEAT):
        asyncio.run(run_feed(settings, rig_equipment(equipment_id), FeedMetrics()))
