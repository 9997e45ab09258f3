"""Runs `hydraulic` in this process and returns its exit status, output and messages."""

from typing import NamedTuple

from typer.testing import CliRunner

from app.cli.main import root


class Done(NamedTuple):
    """A command that ended."""

    status: int
    out: str
    err: str


def hydraulic(*arguments: str) -> Done:
    """Run `hydraulic ARGUMENTS`; an unexpected error is raised."""
    done = CliRunner().invoke(root, arguments, catch_exceptions=False, prog_name="hydraulic")
    return Done(done.exit_code, done.stdout, done.stderr)
