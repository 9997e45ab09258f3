"""`hydraulic tenants`: makes, lists, exports and removes tenants, and gives equipment to them."""

import asyncio
import re
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_json

from app.cli.equipment import with_store
from app.core.command_line import FAILED, AsJson, Dsn, command_group
from app.core.errors import UnknownEquipment, UnknownError
from app.store.store import Store

commands = command_group("Make, list, export and remove tenants, and give equipment to them.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the tenant.")]


@commands.command(epilog="Example: hydraulic tenants create plant-north")
def create(name: Name, dsn: Dsn = None) -> None:
    """Make a tenant; `hydraulic keys create --tenant NAME` makes its keys."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,62}", name):
        raise typer.BadParameter(
            f"expected at most 63 lower-case letters, digits and hyphens, found '{name}'",
            param_hint="NAME",
        )
    asyncio.run(with_store(dsn, lambda store: store.create_tenant(name)))


@commands.command("list", epilog="Example: hydraulic tenants list --json")
def list_tenants(dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List tenants with the number of their machines."""
    found = asyncio.run(with_store(dsn, lambda store: store.list_tenants()))
    if as_json:
        typer.echo(to_json(found).decode())
        return
    for each in found:
        typer.echo(f"{each.tenant}\t{each.equipment}\t{each.created_at:%Y-%m-%d %H:%M}Z")


@commands.command(epilog="Example: hydraulic tenants move plant-north press-1 press-2")
def move(
    name: Name,
    equipment_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Of the machines.")],
    dsn: Dsn = None,
) -> None:
    """Give machines with their history to a tenant; all of them, or none if one is unknown."""

    async def work(store: Store) -> None:
        if name not in {each.tenant for each in await store.list_tenants()}:
            raise UnknownError(
                f"expected the name of a tenant, found '{name}': see `hydraulic tenants list`"
            )
        known = await store.get_equipment_of(equipment_ids, deleted=True)
        for equipment_id in equipment_ids:
            if equipment_id not in known:
                raise UnknownEquipment(equipment_id)
        await store.move_equipment(name, equipment_ids)

    asyncio.run(with_store(dsn, work))


@commands.command(epilog="Example: hydraulic tenants export plant-north --out plant-north")
def export(
    name: Name,
    out: Annotated[Path, typer.Option(help="Directory to make; only you can read it.")],
    dsn: Dsn = None,
) -> None:
    """Write all that a tenant owns into files: JSON lines, and readings as CSV.

    `hydraulic readings import` reads those of `out/readings` again.
    """
    counts = asyncio.run(with_store(dsn, lambda store: store.export_tenant(name, out)))
    for kind, count in counts.items():
        typer.echo(f"{kind}\t{count}")


@commands.command(epilog="Example: hydraulic tenants remove plant-north --yes")
def remove(
    name: Name,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove it; without it, only count its rows.")
    ] = False,
    dsn: Dsn = None,
) -> None:
    """Remove a tenant with its machines, readings, diagnoses and keys, and verify that.

    It can't be undone. Entries of the audit log stay; backups are not touched. Exit status 1 when
    anything else is left.
    """
    found = asyncio.run(
        with_store(dsn, lambda store: store.remove_tenant(name) if yes else store.tenant_rows(name))
    )
    for each in found:
        typer.echo(f"{each.name}\t{each.rows}\t{'kept' if each.kept else 'removed'}")
    if not yes:
        typer.echo("nothing was removed: repeat with --yes")
    elif any(each.rows and not each.kept for each in found):
        raise typer.Exit(FAILED)
