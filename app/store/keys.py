"""API keys and their scopes, and the key that the first start creates.

Invariant: a secret is returned once, when it is created; the database has only its SHA-256. A
secret has 256 random bits, so the hash needs no salt. The first key is also written to one file of
mode 0600, before the store gets its hash.
"""

import asyncio
import hashlib
import logging
import os
import secrets
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict

from app.core.file_locks import open_lock, try_lock
from app.core.settings import Settings
from app.store.partitions import Repository
from app.store.pool import first_value

logger = logging.getLogger(__name__)

FIRST_KEY_FILE = "api_key"
LOCK_POLL_S = 0.05

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


async def ensure_first_key(store: KeyRepository, settings: Settings) -> None:
    """Create an admin key when the store has no key and the environment gives none.

    Args:
        store: migrated.
        settings: the key is written to `var_dir`; with an `api_key` none is created.

    Raises:
        StoreError: the store did not answer.
        OSError: the file can't be written.
    """
    if settings.api_key is not None:
        return
    settings.var_dir.mkdir(parents=True, exist_ok=True)
    path = settings.var_dir / FIRST_KEY_FILE
    lock_fd = open_lock(settings.var_dir / f"{FIRST_KEY_FILE}.lock")
    try:
        while not try_lock(lock_fd):
            await asyncio.sleep(LOCK_POLL_S)
        if await store.any_key():
            return
        secret = new_secret()
        # the file comes first: a key that is stored but was never written would lock everybody out
        _write_private(path, secret)
        await store.create_key("first start", SCOPES, secret)
    finally:
        os.close(lock_fd)
    logger.info(
        "first key made", extra={"file": str(path), "use": f"Authorization: Bearer $(cat {path})"}
    )


def _write_private(path: Path, secret: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
