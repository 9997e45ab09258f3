"""`hydraulic store`: checks a database, backs it up and restores it."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_json

from app.core.command_line import FAILED, AsJson, Dsn, command_group
from app.core.settings import Settings
from app.store.backup import back_up
from app.store.backup import restore as restore_backup
from app.store.check import passed
from app.store.check_server import Check
from app.store.embedded.server import ensure_embedded
from app.store.store import embedded_directory, open_store

commands = command_group("Check a database, back it up and restore it.")


@commands.command(epilog="Example: hydraulic store check --dsn postgresql://db.plant/hydraulic")
def check(dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Run the application's statements against a database, and report what falls short.

    They run in a schema of their own, which is rolled back; nothing of yours is written. Exit
    status 1 when one of them fails.
    """
    found = asyncio.run(_checked(dsn))
    if as_json:
        typer.echo(to_json([each._asdict() for each in found], indent=2).decode())
    else:
        for name, level, message in found:
            typer.echo(f"{level:<7}{name:<28}{message}")
    if not passed(found):
        raise typer.Exit(FAILED)


@commands.command(epilog="Example: hydraulic store backup --out /backup/hydraulic-2026-11-30.dump")
def backup(
    out: Annotated[
        Path, typer.Option(help="File to write; its manifest is written beside it as OUT.json.")
    ],
    dsn: Dsn = None,
) -> None:
    """Back the database up into a file, while the service runs.

    The login must see all rows: a superuser, or one with BYPASSRLS.
    """
    made = asyncio.run(back_up(_address(dsn), out))
    typer.echo(
        f"wrote {out}: {made.size_bytes:,} bytes, {sum(made.rows.values()):,} rows of "
        f"{len(made.rows)} tables, schema {made.schema_revision}"
    )


@commands.command(
    epilog="Example: hydraulic store restore /backup/hydraulic-2026-11-30.dump "
    "--dsn postgresql://db.plant/hydraulic"
)
def restore(
    file: Annotated[Path, typer.Argument(help="As `hydraulic store backup` wrote it.")],
    dsn: Dsn = None,
) -> None:
    """Restore a backup into an empty database and verify that nothing is missing."""
    made = asyncio.run(restore_backup(_address(dsn), file))
    typer.echo(
        f"restored {sum(made.rows.values()):,} rows of {len(made.rows)} tables as of "
        f"{made.made_at:%Y-%m-%d %H:%M:%S}Z; the audit log is intact"
    )


def _address(dsn: str | None) -> str:
    settings = Settings().at(dsn)
    if settings.dsn is not None:
        return settings.dsn.get_secret_value()
    return ensure_embedded(embedded_directory(settings))


async def _checked(dsn: str | None) -> list[Check]:
    store = open_store(Settings().at(dsn))
    try:
        return await store.check()
    finally:
        await store.close()
