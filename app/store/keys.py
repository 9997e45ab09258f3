"""API keys and their scopes.

Invariant: a secret is returned once, when it is created; the database has only its SHA-256. A
secret has 256 random bits, so the hash needs no salt.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict

from app.store.partitions import Repository
from app.store.pool import first_value

Scope = Literal["read", "ingest", "diagnose", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "hd_"
_SHOWN = len(PREFIX) + 6


class ApiKey(BaseModel):
    """A key without its secret; `shown` is the start of the secret, to recognise a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: int
    name: str
    shown: str
    scopes: tuple[str, ...]
    created_at: datetime
    revoked_at: datetime | None


class CreatedKey(BaseModel):
    """A new key with its secret, which can't be read again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: ApiKey
    secret: str


class KnownKey(NamedTuple):
    """Owner and scopes of a key that a request presented."""

    name: str
    scopes: frozenset[str]


def hash_secret(secret: str) -> str:
    """Return the SHA-256 of a secret as hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_secret() -> str:
    """Return a random secret for a key to be created."""
    return PREFIX + secrets.token_urlsafe(32)


class KeyRepository(Repository):
    """API keys."""

    async def create_key(
        self, name: str, scopes: Sequence[str], secret: str | None = None
    ) -> CreatedKey:
        """Create a key.

        Args:
            name: of the owner.
            scopes: at least one of `SCOPES`.
            secret: from `new_secret`, if the caller has already saved it; default: a new one.

        Raises:
            StoreError: a scope is unknown.
        """
        secret = secret or new_secret()
        digest = bytes.fromhex(hash_secret(secret))
        rows = await self._database.once(
            "create_key", name, secret[:_SHOWN], digest, sorted(set(scopes))
        )
        return CreatedKey(key=ApiKey(**rows[0]), secret=secret)

    async def find_key(self, secret_hash: str) -> KnownKey | None:
        """Return the key with this SHA-256 in hexadecimal; None if unknown or revoked."""
        rows = await self._database.fetch("find_key", bytes.fromhex(secret_hash))
        return KnownKey(rows[0]["name"], frozenset(rows[0]["scopes"])) if rows else None

    async def revoke_key(self, key_id: int) -> bool:
        """Revoke a key for good; return whether it exists."""
        return bool(await self._database.fetch("revoke_key", key_id))

    async def list_keys(self) -> list[ApiKey]:
        """Return all keys, including revoked ones, oldest first."""
        return [ApiKey(**row) for row in await self._database.fetch("list_keys")]

    async def any_key(self) -> bool:
        """Return whether a key exists that is not revoked."""
        return bool(first_value(await self._database.fetch("any_key")))
