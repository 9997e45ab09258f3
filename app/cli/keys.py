"""`hydraulic keys`: creates, lists, rotates and revokes API keys in the store of the environment.

Invariant: a secret is printed once, by the command that creates it, and nowhere else.
"""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic_core import to_json

from app.cli.equipment import with_store
from app.core.command_line import (
    AsJson,
    Dsn,
    command_group,
    split_commas,
    time_argument,
    whole_number,
)
from app.core.errors import UnknownError
from app.store.caller import DEFAULT_TENANT
from app.store.keys import MAX_OVERLAP_S, SCOPES, ApiKey, CreatedKey, Scope, check_expiry

commands = command_group("Create, list, rotate and revoke API keys of the service.")

Expires = Annotated[
    datetime | None,
    typer.Option(parser=time_argument, metavar="TIME", help="Until when it is accepted."),
]


Tenant = Annotated[
    str, typer.Option(metavar="NAME", help="Whose equipment it sees; see `hydraulic tenants`.")
]


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
    expires: Expires = None,
    tenant: Tenant = DEFAULT_TENANT,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print its secret, once."""
    chosen = [_scope(each) for each in split_commas(scopes)]
    check_expiry(expires, datetime.now(UTC))
    work = with_store(
        dsn, lambda store: store.create_key(name, chosen, None, expires, tenant=tenant)
    )
    _print(asyncio.run(work), as_json)


@commands.command(epilog="Example: hydraulic keys rotate 'plant historian' --overlap-s 3600")
def rotate(
    name: Annotated[str, typer.Argument(help="Of the owner.")],
    expires: Expires = None,
    overlap_s: Annotated[
        int,
        typer.Option(
            parser=whole_number(0, MAX_OVERLAP_S),
            metavar="SECONDS",
            help="For how long the old secret is accepted as well.",
        ),
    ] = 0,
    tenant: Tenant = DEFAULT_TENANT,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Replace the secret of a key and print the new one, once; its expiry stays unless given."""
    now = datetime.now(UTC)
    check_expiry(expires, now)
    work = with_store(
        dsn, lambda store: store.rotate_key(name, expires, overlap_s, now, tenant=tenant)
    )
    _print(asyncio.run(work), as_json)


def _print(created: CreatedKey, as_json: bool) -> None:
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
    """List keys with their state and last use, without their secrets."""
    keys = asyncio.run(with_store(dsn, lambda store: store.list_keys()))
    if as_json:
        typer.echo(to_json(keys).decode())
        return
    now = datetime.now(UTC)
    for key in keys:
        scopes, used = ",".join(key.scopes), key.last_used_at
        last = "never used" if used is None else f"used {_minute(used)}"
        state = _state(key, now)
        typer.echo(
            f"{key.key_id}\t{key.shown}...\t{scopes}\t{state}\t{last}\t{key.tenant}\t{key.name}"
        )


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None and key.revoked_at <= now:
        return f"revoked {_minute(key.revoked_at)}"
    if key.expires_at is not None and key.expires_at <= now:
        return f"expired {_minute(key.expires_at)}"
    # after a rotation the old secret is revoked in the future
    ends = [each for each in (key.revoked_at, key.expires_at) if each is not None]
    return f"in force until {_minute(min(ends))}" if ends else "in force"


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}Z"


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
