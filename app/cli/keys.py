"""`hydraulic keys`: creates, lists and revokes API keys in the store of the environment.

Invariant: a secret is printed once, when it is created, and nowhere else.
"""

import asyncio
from typing import Annotated

import typer
from pydantic_core import to_json

from app.cli.equipment import with_store
from app.core.command_line import AsJson, Dsn, command_group, split_commas, whole_number
from app.core.errors import UnknownError
from app.store.keys import SCOPES, Scope

commands = command_group("Create, list and revoke API keys of the service.")


@commands.command(epilog="Example: hydraulic keys create 'plant historian' --scopes read,ingest")
def create(
    name: Annotated[str, typer.Argument(help="Of the owner.")],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scopes",
            metavar="SCOPES",
            help=f"Of {', '.join(SCOPES)}, with commas; admin has all.",
        ),
    ],
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print its secret, once."""
    chosen = [_scope(each) for each in split_commas(scopes)]
    created = asyncio.run(with_store(dsn, lambda store: store.create_key(name, chosen)))
    typer.echo(to_json(created).decode() if as_json else created.secret)


def _scope(given: str) -> Scope:
    for scope in SCOPES:
        if scope == given:
            return scope
    raise typer.BadParameter(
        f"expected scopes of {', '.join(SCOPES)}, found '{given}'", param_hint="--scopes"
    )


@commands.command("list", epilog="Example: hydraulic keys list --json")
def list_keys(dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List keys, without their secrets."""
    keys = asyncio.run(with_store(dsn, lambda store: store.list_keys()))
    if as_json:
        typer.echo(to_json(keys).decode())
        return
    for key in keys:
        revoked = key.revoked_at
        state = "in force" if revoked is None else f"revoked {revoked:%Y-%m-%d %H:%M}Z"
        typer.echo(f"{key.key_id}\t{key.shown}...\t{','.join(key.scopes)}\t{state}\t{key.name}")


@commands.command(epilog="Example: hydraulic keys revoke 3")
def revoke(
    key_id: Annotated[
        int,
        typer.Argument(
            parser=whole_number(1, 2**31 - 1), metavar="NUMBER", help="As `list` shows it."
        ),
    ],
    dsn: Dsn = None,
) -> None:
    """Revoke a key; replicas notice within 10 s."""
    if not asyncio.run(with_store(dsn, lambda store: store.revoke_key(key_id))):
        raise UnknownError(
            f"expected the number of a key, found {key_id}: see `hydraulic keys list`"
        )
