"""Command-line parts shared by the commands of `python -m train`."""

import argparse
import sys
from collections.abc import Callable
from typing import get_args, get_origin

from pydantic import ValidationError

from app.core.errors import HydraulicDiagnosticsError, InputError
from app.features.statistics import Statistic
from train.config import TrainConfig


def run_command(command: Callable[[], int], interrupted: str) -> int:
    """Run a command and print its error, if any.

    Args:
        command: returns the exit status.
        interrupted: what the user can do after an interruption.

    Returns:
        The exit status of the command; 1 if it failed with a message, 130 if it was interrupted.
    """
    try:
        return command()
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 130


def command_parser(
    name: str, doc: str | None, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a command; its description is the first line of the module docstring."""
    # without abbreviations: `--ds` would get a password past `without_secrets` into the manifest
    return argparse.ArgumentParser(
        allow_abbrev=False,
        prog=f"python -m train {name}".strip(),
        description=(doc or "").split("\n", maxsplit=1)[0],
        epilog=epilog,
    )


def add_database(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the database."""
    parser.add_argument(
        "--dsn",
        help="database; default HYDRAULIC_DSN, which other users can't see, else the local server",
    )


def without_secrets(arguments: list[str]) -> list[str]:
    """Return a command's arguments without the database's address, which may hold a password."""
    return without(arguments, "--dsn")


def without(arguments: list[str], *options: str) -> list[str]:
    """Return a command's arguments without some options and their values."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument.partition("=")[0] in options:
            skip = not skip and argument in options
        else:
            kept.append(argument)
    return kept


def config_of(options: argparse.Namespace) -> TrainConfig:
    """Return the config that the command line describes.

    Raises:
        InputError: the config refuses a value.
    """
    given = {
        name: value
        for name, value in vars(options).items()
        if name in TrainConfig.model_fields and value is not None
    }
    try:
        return TrainConfig(**given)
    except ValidationError as error:
        found = "; ".join(
            f"--{'.'.join(map(str, item['loc'])).replace('_', '-') or 'options'}: {item['msg']}"
            for item in error.errors()
        )
        raise InputError(f"invalid training options: {found}") from error


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of `TrainConfig`, described by the field's docstring."""
    for name, field in TrainConfig.model_fields.items():
        description = (field.description or "").replace("%", "%%")
        many = get_origin(field.annotation) is tuple
        default = " ".join(map(str, field.default)) if many else field.default
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            nargs="*" if many else None,
            choices=get_args(Statistic) if name == "statistics" else None,
            metavar=name.rpartition("_")[2].upper(),
            help=description if default in (None, "") else f"{description} Default: {default}.",
        )
