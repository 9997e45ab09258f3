"""Creates, lists and revokes API keys in the store of the environment: `python -m app.cli.keys`.

Invariant: a secret is printed once, when it is created, and nowhere else.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import TextIO

from app.core.errors import HydraulicDiagnosticsError
from app.core.settings import Settings
from app.store.keys import SCOPES
from app.store.store import Store, open_store


def main(arguments: Sequence[str], out: TextIO) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed."""
    options = _parser().parse_args(arguments)
    try:
        asyncio.run(_run(options, open_store(Settings()), out))
    except HydraulicDiagnosticsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app.cli.keys", description="API keys of the service"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="create a key; its secret is printed once")
    create.add_argument("name", help="of the owner")
    create.add_argument(
        "--scopes", nargs="+", choices=SCOPES, required=True, help="permissions; admin has all"
    )
    commands.add_parser("list", help="list keys, without their secrets")
    revoke = commands.add_parser("revoke", help="revoke a key; replicas notice within 10 s")
    revoke.add_argument("key_id", type=int, help="as `list` shows it")
    return parser


async def _run(options: argparse.Namespace, store: Store, out: TextIO) -> None:
    try:
        await store.migrate()
        if options.command == "create":
            created = await store.create_key(options.name, options.scopes)
            out.write(f"{created.secret}\n")
        elif options.command == "list":
            for key in await store.list_keys():
                revoked = key.revoked_at
                state = "in force" if revoked is None else f"revoked {revoked:%Y-%m-%d %H:%M}Z"
                scopes = ",".join(key.scopes)
                out.write(f"{key.key_id}\t{key.shown}...\t{scopes}\t{state}\t{key.name}\n")
        elif not await store.revoke_key(options.key_id):
            raise HydraulicDiagnosticsError(
                f"expected the number of a key, found {options.key_id}: see "
                "`python -m app.cli.keys list`"
            )
    finally:
        await store.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout))
