"""The command `hydraulic`: operators' commands, each group in a module imported when it is used.

`COMMANDS` names the modules; each has `commands`, a `typer.Typer`. A new file is a new line there.
The group `train` is named, not imported: `app` does not depend on `train`, whose libraries are an
extra.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from app.core.command_line import WRONG_USE, reported
from app.core.errors import SettingsError

OWN = ("app", "train", "cluster")


class Module(NamedTuple):
    """A module of commands: its help, and the extra that installs what it imports."""

    name: str
    help: str
    extra: str = ""


COMMANDS = {
    "doctor": Module("app.cli.doctor", "Find what keeps the service from running."),
    "equipment": Module("app.cli.equipment", "Register, list, check and draw machines."),
    "readings": Module("app.cli.readings", "Import files of readings."),
    "diagnose": Module("app.cli.diagnose", "How healthy each component of a machine is, and why."),
    "keys": Module("app.cli.keys", "API keys of the service."),
    "tenants": Module("app.cli.tenants", "Tenants, each with its own equipment and keys."),
    "store": Module("app.cli.store", "Check, back up and restore the database."),
    "audit": Module("app.cli.audit", "The log of administrative writes."),
    "release": Module("app.cli.release", "Versions, their traffic and its changes.", "release"),
    "fleet": Module("app.fleet.commands", "Score every machine offline.", "fleet"),
    "train": Module("train.commands", "Train, evaluate and tune networks.", "train"),
    "demo": Module("app.demo.commands", "Machines to try the service with."),
}


class LazyGroup(TyperGroup):
    """Lists commands without importing them; imports the one that runs.

    Expected errors of a command become one line and an exit status.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return a command with its help only."""
        found = COMMANDS.get(cmd_name)
        return found and TyperCommand(cmd_name, help=found.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the arguments name, imported, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            try:
                module = import_module(COMMANDS[name].name)
            except ModuleNotFoundError as error:
                raise _missing(name, error) from error
            command = get_command(module.commands)
            command.name = name
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run a command and report its error."""
        with reported():
            try:
                return super().invoke(ctx)
            except ModuleNotFoundError as error:
                raise _missing(ctx.invoked_subcommand, error) from error

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; wrong use is a plain line, which a log or a test can search."""
        try:
            status = super().main(*args, **options | {"standalone_mode": False})
        except typer.TyperException as error:
            error.show()  # type: ignore[attr-defined]
            status = error.exit_code
        sys.exit(status)


def _missing(command: str | None, error: ModuleNotFoundError) -> Exception:
    """Return the error of a command whose extra is not installed, else the given one."""
    extra = COMMANDS[command].extra if command in COMMANDS else ""
    package = (error.name or "").partition(".")[0]
    if not extra or package in OWN:
        return error
    return SettingsError(
        f"expected the package {package}, which `hydraulic {command}` needs, found none: install "
        f"the extra {extra} with `pip install --constraint constraints.txt --editable '.[{extra}]'`"
    )


root = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted. "
    "Completion in your shell: hydraulic --install-completion",
)


def _print_version(is_given: bool) -> None:
    if is_given:
        from importlib.metadata import version

        typer.echo(version("hydraulic-diagnostics"))
        raise typer.Exit


@root.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Diagnose hydraulic machines: register, import, ask, train and release."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 2 wrong use."""
    try:
        root(args=None if arguments is None else list(arguments), prog_name="hydraulic")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else WRONG_USE if ended.code else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
