"""The demonstrations on the command line: import the rig's data, pack or feed them, or import C-MAPSS engines.

Invariant: an error that a user can mend is one line on standard error and exit status 1; everything can be run again.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from app.core.errors import HydraulicDiagnosticsError
from app.core.settings import Settings
from app.demo.cmapss.files import read_engines, read_remaining
from app.demo.cmapss.importer import TOPOLOGY_FILE, EngineProgress, engine_topology, import_engines
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive, pack
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.feed import run_feed
from app.demo.rig.importer import DEFAULT_START, Progress, import_rig
from app.demo.rig.measurements import open_directory, survey
from app.schemas.times import time_argument
from app.serving.observability.logging import configure_logging
from app.store.open import open_store


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: without the program's name.

    Returns:
        The exit status: 0 done, 1 failed, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "pack-rig":
            _pack(options.directory, options.out)
        elif options.command == "import-rig":
            asyncio.run(
                _import(
                    Settings().at(options.dsn),
                    options.equipment_id,
                    options.directory,
                    options.start,
                )
            )
        elif options.command == "import-cmapss":
            asyncio.run(_import_cmapss(Settings().at(options.dsn), options))
        else:
            asyncio.run(_feed(Settings().at(options.dsn), options.equipment_id))
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.demo", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    store = argparse.ArgumentParser(add_help=False)
    store.add_argument(
        "--dsn",
        help="database; without it HYDRAULIC_DSN, which no other user can see, or the local one",
    )
    rig = argparse.ArgumentParser(add_help=False)
    rig.add_argument("--equipment-id", help="register the rig under another id than hydraulic-rig")

    importing = commands.add_parser(
        "import-rig", parents=[store, rig], help="import the rig's readings and labels"
    )
    importing.add_argument(
        "directory",
        nargs="?",
        type=Path,
        help="the published .txt files at any rate; without it the shipped copy",
    )
    importing.add_argument(
        "--start",
        type=time_argument,
        default=DEFAULT_START,
        help="when the first cycle begins (default 2025-01-01T00:00Z)",
    )
    engines = commands.add_parser(
        "import-cmapss",
        parents=[store],
        help="import engines of NASA's C-MAPSS files, each as a machine",
    )
    engines.add_argument("file", type=Path, help="histories as published, such as train_FD001.txt")
    engines.add_argument(
        "--component", required=True, help="the component that failed, such as hpc in FD001"
    )
    engines.add_argument(
        "--rul",
        type=Path,
        help="cycles left after the last line of each engine, such as RUL_FD001.txt; without it none",
    )
    engines.add_argument(
        "--prefix",
        help="engine 7 is registered as PREFIX-7 (default: the file's name without .txt)",
    )
    engines.add_argument(
        "--topology",
        type=Path,
        default=TOPOLOGY_FILE,
        help="of the engines; without it the turbofan's",
    )
    engines.add_argument(
        "--start",
        type=time_argument,
        default=DEFAULT_START,
        help="when the first cycles begin (default 2025-01-01T00:00Z)",
    )
    packing = commands.add_parser(
        "pack-rig", help="pack the published .txt files into one archive, as shipped"
    )
    packing.add_argument("directory", type=Path)
    packing.add_argument("out", type=Path, help="the .tar.xz to write")
    commands.add_parser(
        "feed",
        parents=[store, rig],
        help="write the rig's readings every second, as if measured now",
    )
    return parser


def _pack(directory: Path, out: Path) -> None:
    files = open_directory(directory)
    found = survey(files)
    size = pack(files, out)
    print(f"packed {found.cycles} cycles, {found.readings} readings, into {out}: {size} bytes")


async def _import(
    settings: Settings, equipment_id: str | None, directory: Path | None, start: datetime
) -> None:
    equipment = rig_equipment(equipment_id)
    files = open_archive(SHIPPED_ARCHIVE) if directory is None else open_directory(directory)
    started = time.monotonic()
    print(f"importing {survey(files).cycles} cycles from {files.where} as {equipment.equipment_id}")

    def report(progress: Progress) -> None:
        rate = progress.readings / max(time.monotonic() - started, 1e-6)
        print(
            f"{progress.cycles}/{progress.cycles_total} cycles, {progress.readings} readings, {rate:,.0f} readings/s",
            flush=True,
        )

    store = open_store(settings)
    try:
        done = await import_rig(store, equipment, files, start, report)
    finally:
        await store.close()
    known = done.readings - done.accepted
    print(
        f"imported {done.accepted} new readings, {known} known before, in {time.monotonic() - started:.1f} s"
    )


async def _import_cmapss(settings: Settings, options: argparse.Namespace) -> None:
    topology = engine_topology(options.topology)
    engines = read_engines(options.file)
    remaining = read_remaining(options.rul, len(engines)) if options.rul is not None else None
    prefix, started = options.prefix or options.file.stem, time.monotonic()
    print(
        f"importing {len(engines)} engines from {options.file} as {prefix}-{engines[0].unit} to {prefix}-{engines[-1].unit}"
    )

    def report(progress: EngineProgress) -> None:
        rate = progress.readings / max(time.monotonic() - started, 1e-6)
        print(
            f"{progress.engines}/{len(engines)} engines, {progress.readings} readings, {rate:,.0f} readings/s",
            flush=True,
        )

    store = open_store(settings)
    try:
        done = await import_engines(
            store, topology, engines, options.component, prefix, options.start, report, remaining
        )
    finally:
        await store.close()
    known = done.readings - done.accepted
    print(
        f"imported {done.accepted} new readings, {known} known before, in {time.monotonic() - started:.1f} s"
    )


async def _feed(settings: Settings, equipment_id: str | None) -> None:
    configure_logging(settings.log_level)
    print("feeding the rig's readings as measured now; Ctrl-C ends it", flush=True)
    await run_feed(settings, rig_equipment(equipment_id))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
