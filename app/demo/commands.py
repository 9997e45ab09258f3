"""`hydraulic demo`: imports, archives and live feeds of the demonstration machines.

Every folder of this package that has a module `commands` with `commands`, a `typer.Typer`, adds
its commands. Invariant: every command can be repeated.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator

import typer

import app.demo
from app.core.command_line import command_group


def machines() -> Iterator[typer.Typer]:
    """Import the module `commands` of every folder of this package that has one."""
    for folder in pkgutil.iter_modules(app.demo.__path__, "app.demo."):
        name = f"{folder.name}.commands"
        if folder.ispkg and importlib.util.find_spec(name) is not None:
            yield importlib.import_module(name).commands


commands = command_group("Machines to try the service with: imports, archives and live feeds.")
for machine in machines():
    commands.add_typer(machine)
