"""What the packages share to define commands: options, groups of options, times and errors.

Exit statuses of every command: 0 done, 1 failed, 2 wrong use, 130 interrupted; a failure is one
line on standard error.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, get_type_hints

import typer

from app.core.errors import HydraulicDiagnosticsError

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130

Dsn = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Database; default HYDRAULIC_DSN, which other users can't see, or the local one.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def command_group(text: str) -> typer.Typer:
    """Return an empty group of commands with its help."""
    group = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        help=text,
    )
    group.callback()(lambda: None)  # a group also when it has one command only
    return group


@contextmanager
def reported(hint: str = "") -> Iterator[None]:
    """Report an expected error or an interruption, and end with its exit status.

    Args:
        hint: what the user can do after an interruption.

    Raises:
        Exit: instead of an error of the project, or of Ctrl-C.
    """
    try:
        yield
    except HydraulicDiagnosticsError as error:
        typer.echo(f"error: {error.message}", err=True)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        typer.echo(f"interrupted; {hint}" if hint else "interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from error


def time_argument(text: str | datetime) -> datetime:
    """Parse a command-line argument: an ISO 8601 time with its zone, as UTC.

    Raises:
        BadParameter: the text is no time, or has no zone.
    """
    try:
        found = text if isinstance(text, datetime) else datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"expected an ISO 8601 time such as 2025-01-01T00:00Z, found '{text}'"
        ) from error
    if found.tzinfo is None:
        raise typer.BadParameter(f"expected a time with its zone, found '{text}': add Z for UTC")
    return found.astimezone(UTC)


def whole_number(least: int, most: int) -> Callable[[str | int], int]:
    """Return the parser of an argument that is a whole number in [least, most]."""

    def parse(text: str | int) -> int:
        if not str(text).isdecimal() or not least <= int(text) <= most:
            raise typer.BadParameter(
                f"expected a whole number from {least} to {most}, found '{text}'"
            )
        return int(text)

    return parse


def split_commas(given: Sequence[str] | None) -> list[str]:
    """Return the values of an option that may be repeated or hold values with commas between."""
    return [part for each in given or [] for part in each.split(",") if part]


def _group_of(hint: Any) -> Any:
    """Return the dataclass of an annotation, None if it has none."""
    # Typer's own annotations are instances of dataclasses
    found = (hint, *getattr(hint, "__metadata__", ()))
    return next((each for each in found if isinstance(each, type) and is_dataclass(each)), None)


def with_groups(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each field of its parameters that are dataclasses.

    Commands that share options take them as one value; Typer itself knows only single options.

    Args:
        command: its parameters that are dataclasses, or `Annotated` with one, have fields with
            Typer's annotations.

    Returns:
        The command that Typer can register.
    """
    hints = get_type_hints(command, include_extras=True)
    given = inspect.signature(command).parameters
    groups = {name: group for name in given if (group := _group_of(hints[name]))}
    parameters = [
        each.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in given.items()
        if name not in groups
    ]
    for group in groups.values():
        of_fields = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=of_fields[field.name],
            )
            for field in fields(group)
        ]

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return command(**values)

    del run.__wrapped__  # its signature has the groups
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run
