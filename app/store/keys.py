"""API keys: who may do what.

Invariant: a secret is returned once, when it is made; the database holds its SHA-256 alone. A secret is 256 random
bits, so that the hash needs no salt.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from app.store.pool import Database, first_value

Scope = Literal["read", "ingest", "diagnose", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "ingest", "diagnose", "admin")

PREFIX = "hd_"
_SHOWN = len(PREFIX) + 6


class ApiKey(BaseModel):
    """A key without its secret; `shown` is how it begins, to tell keys apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: int
    name: str
    shown: str
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None


class CreatedKey(BaseModel):
    """A new key with its secret, which is not to be had again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: ApiKey
    secret: str


class KnownKey(NamedTuple):
    """Whose a key is that was shown, and what it may do."""

    name: str
    scopes: frozenset[str]


def hash_secret(secret: str) -> str:
    """Return the SHA-256 of a secret in hexadecimal, by which it is looked up."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """Return the secret of a key that does not exist yet."""
    return PREFIX + secrets.token_urlsafe(32)


async def create_key(
    database: Database, name: str, scopes: Sequence[str], secret: str | None = None
) -> CreatedKey:
    """Make a key.

    Args:
        database: migrated.
        name: whose it is.
        scopes: some of read, ingest, diagnose, admin; at least one.
        secret: of `new_secret`, when it had to be put somewhere before; a new one when left out.

    Raises:
        StoreUnavailable: the database can't be reached.
        StoreError: it refused, such as an unknown scope.
    """
    secret = secret or new_secret()
    rows = await database.once(
        "create_key", name, secret[:_SHOWN], bytes.fromhex(hash_secret(secret)), sorted(set(scopes))
    )
    return CreatedKey(key=ApiKey(**rows[0]), secret=secret)


async def find_key(database: Database, secret_hash: str) -> KnownKey | None:
    """Return the key with this hash; None when there is none or it was revoked.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    rows = await database.fetch("find_key", bytes.fromhex(secret_hash))
    return KnownKey(rows[0]["name"], frozenset(rows[0]["scopes"])) if rows else None


async def revoke_key(database: Database, key_id: int) -> bool:
    """Revoke a key for good; tells whether there is one of this id.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    return bool(await database.fetch("revoke_key", key_id))


async def list_keys(database: Database) -> list[ApiKey]:
    """Return all keys, revoked ones too, oldest first.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    return [ApiKey(**row) for row in await database.fetch("list_keys")]


async def any_key(database: Database) -> bool:
    """Tell whether a key exists that was not revoked.

    Raises:
        StoreUnavailable: the database can't be reached.
    """
    return bool(first_value(await database.fetch("any_key")))
