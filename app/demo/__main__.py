"""Commands of the demonstration machines: imports, archives and the live feed of the rig.

`python -m app.demo --help` lists the commands that the folders of the machines add.
Invariant: every command can be repeated; an expected error is one line on standard error.
"""

import argparse
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

import app.demo
from app.core.errors import HydraulicDiagnosticsError


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def machines() -> Iterator[ModuleType]:
    """Import the module `commands` of every folder of this package that has one."""
    for folder in pkgutil.iter_modules(app.demo.__path__, "app.demo."):
        name = f"{folder.name}.commands"
        if folder.ispkg and importlib.util.find_spec(name) is not None:
            yield importlib.import_module(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.demo", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    database = argparse.ArgumentParser(add_help=False)
    database.add_argument(
        "--dsn",
        help="database; default: HYDRAULIC_DSN, which other users can't see, or the local one",
    )
    for machine in machines():
        machine.add_commands(commands, database)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
