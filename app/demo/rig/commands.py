"""Commands of the rig: import, pack and feed its measurements."""

import argparse
import asyncio
from pathlib import Path

from app.core.settings import Settings
from app.demo.machine import Commands, add_start, run_import
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive, pack
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.feed import run_feed
from app.demo.rig.importer import import_rig
from app.demo.rig.measurements import open_directory, survey
from app.serving.observability.logging import configure_logging


def add_commands(commands: Commands, database: argparse.ArgumentParser) -> None:
    """Add `import-rig`, `pack-rig` and `feed`; `database` has the options of the database."""
    rig = argparse.ArgumentParser(add_help=False)
    rig.add_argument("--equipment-id", help="id of the machine (default hydraulic-rig)")
    importing = commands.add_parser(
        "import-rig", parents=[database, rig], help="import the rig's readings and labels"
    )
    importing.add_argument(
        "directory",
        nargs="?",
        type=Path,
        help="the published .txt files at any rate; default: the shipped copy",
    )
    add_start(importing, "the first cycle begins")
    importing.set_defaults(run=_import)
    packing = commands.add_parser(
        "pack-rig", help="pack the published .txt files into one archive, as shipped"
    )
    packing.add_argument("directory", type=Path)
    packing.add_argument("out", type=Path, help="the .tar.xz to write")
    packing.set_defaults(run=_pack)
    feeding = commands.add_parser(
        "feed", parents=[database, rig], help="write the rig's readings every second, as live data"
    )
    feeding.set_defaults(run=_feed)


def _pack(options: argparse.Namespace) -> None:
    files = open_directory(options.directory)
    found = survey(files)
    size = pack(files, options.out)
    print(
        f"packed {found.cycles} cycles, {found.readings} readings, into {options.out}: {size} bytes"
    )


def _import(options: argparse.Namespace) -> None:
    equipment = rig_equipment(options.equipment_id)
    directory = options.directory
    files = open_archive(SHIPPED_ARCHIVE) if directory is None else open_directory(directory)
    print(f"importing {survey(files).cycles} cycles from {files.where} as {equipment.equipment_id}")
    asyncio.run(
        run_import(
            Settings().at(options.dsn),
            "cycles",
            lambda store, report: import_rig(store, equipment, files, options.start, report),
        )
    )


def _feed(options: argparse.Namespace) -> None:
    settings = Settings().at(options.dsn)
    configure_logging(settings.log_level)
    print("feeding the rig's readings as measured now; Ctrl-C ends it", flush=True)
    asyncio.run(run_feed(settings, rig_equipment(options.equipment_id)))
