"""Command-line options of training, shared by the commands of `python -m train`."""

import argparse
from typing import get_args, get_origin

from pydantic import ValidationError

from app.core.errors import InputError
from app.features.statistics import Statistic
from train.config import TrainConfig


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
    """Make a training's config of what was given on the command line.

    Raises:
        InputError: a value is not one that the config takes.
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
            f"--{'.'.join(map(str, item['loc'])) or 'options'}: {item['msg']}"
            for item in error.errors()
        )
        raise InputError(f"the training can't run so: {found}") from error


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of `TrainConfig`, told by the field's own description; values are checked by the config."""
    for name, field in TrainConfig.model_fields.items():
        told = (field.description or "").replace("%", "%%")
        many = get_origin(field.annotation) is tuple
        shown = " ".join(map(str, field.default)) if many else field.default
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            nargs="*" if many else None,
            choices=get_args(Statistic) if name == "statistics" else None,
            metavar=name.rpartition("_")[2].upper(),
            help=f"{told} Default: {shown}." if shown not in (None, "") else told,
        )
