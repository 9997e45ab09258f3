"""`hydraulic audit`: lists the log of administrative writes and verifies its chain of hashes."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic_core import to_json

from app.cli.equipment import with_store
from app.core.command_line import FAILED, AsJson, Dsn, command_group, whole_number

commands = command_group("List administrative writes, and verify that none was changed.")

_NOTED = re.compile(r"(\d{1,18}):([0-9a-f]{64})")


@commands.command("list", epilog="Example: hydraulic audit list --limit 20")
def list_entries(
    limit: Annotated[
        int,
        typer.Option(parser=whole_number(1, 100_000), metavar="NUMBER", help="Most entries."),
    ] = 100,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """List the newest entries, newest first."""
    entries = asyncio.run(with_store(dsn, lambda store: store.audit_page(limit)))
    if as_json:
        typer.echo(to_json(entries).decode())
        return
    for each in entries:
        details = json.dumps({**each.details}, ensure_ascii=False)
        typer.echo(
            f"{each.entry_id}\t{each.at:%Y-%m-%d %H:%M:%S}Z\t{each.tenant}\t{each.actor}\t"
            f"{each.action}\t{each.subject}\t{details}"
        )


@commands.command(epilog="Example: hydraulic audit verify --noted 1042:5feceb66ffc86f38d952...")
def verify(
    noted: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENTRY:HASH",
            help="As an earlier `verify` printed it; finds a chain that was computed anew.",
        ),
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Verify the chain; name the first broken entry and end with 1, or print the newest hash.

    Keep what it prints outside of the database, such as in a ticket or a printed report.
    """
    hashes = dict(_parsed(noted or []))
    check = asyncio.run(with_store(dsn, lambda store: store.verify_audit(hashes)))
    if check.broken is not None:
        typer.echo(
            f"error: expected entry {check.broken} as it was written, found that {check.reason}: "
            f"the entries before it ({check.entries}) are intact; compare with a backup",
            err=True,
        )
        raise typer.Exit(FAILED)
    typer.echo(f"{check.entries}:{check.head}")


def _parsed(noted: Sequence[str]) -> list[tuple[int, str]]:
    found = [(each, _NOTED.fullmatch(each)) for each in noted]
    for given, match in found:
        if match is None:
            raise typer.BadParameter(
                f"expected ENTRY:HASH as `verify` prints it, found '{given}'", param_hint="--noted"
            )
    return [(int(match[1]), match[2]) for _, match in found if match is not None]
