"""Command of the C-MAPSS engines: import their histories."""

import argparse
import asyncio
from pathlib import Path

from app.core.settings import Settings
from app.demo.cmapss.files import read_engines, read_remaining
from app.demo.cmapss.importer import TOPOLOGY_FILE, engine_topology, import_engines
from app.demo.machine import Commands, add_start, run_import


def add_commands(commands: Commands, database: argparse.ArgumentParser) -> None:
    """Add `import-cmapss`; `database` has the options of the database."""
    parser = commands.add_parser(
        "import-cmapss",
        parents=[database],
        help="import engines of NASA's C-MAPSS files, each as a machine",
    )
    parser.add_argument("file", type=Path, help="published histories, such as train_FD001.txt")
    parser.add_argument(
        "--component", required=True, help="the component that failed, such as hpc in FD001"
    )
    parser.add_argument(
        "--rul",
        type=Path,
        help="cycles left after each engine's last line, such as RUL_FD001.txt; default: 0",
    )
    parser.add_argument(
        "--prefix", help="engine 7 becomes PREFIX-7 (default: the file's name without .txt)"
    )
    parser.add_argument(
        "--topology", type=Path, default=TOPOLOGY_FILE, help="of the engines (default: turbofan)"
    )
    add_start(parser, "the first cycles begin")
    parser.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> None:
    topology = engine_topology(options.topology)
    engines = read_engines(options.file)
    remaining = read_remaining(options.rul, len(engines)) if options.rul is not None else None
    prefix = options.prefix or options.file.stem
    names = f"{prefix}-{engines[0].unit} to {prefix}-{engines[-1].unit}"
    print(f"importing {len(engines)} engines from {options.file} as {names}")
    order = (topology, engines, options.component, prefix, options.start)
    asyncio.run(
        run_import(
            Settings().at(options.dsn),
            "engines",
            lambda store, report: import_engines(store, *order, report, remaining),
        )
    )
