"""API keys and their scopes, and the key that the first start creates.

A secret is `hd_HANDLE_RANDOM`. The handle is no secret: it finds the one row whose salted hash is
then compared in constant time, so no step depends on how much of a wrong secret is right. The
random part has 256 bits, which no dictionary has, so one round of SHA-256 is enough.
Invariant: a secret is returned once, when it is created; the database has only its salted hash. The
first key is also written to one file of mode 0600, before the store gets its hash.
"""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict

from app.core.errors import ConflictError, InputError, StoreError, UnknownError
from app.core.file_locks import open_lock, try_lock
from app.core.settings import Settings
from app.schemas.times import LATEST
from app.store.caller import DEFAULT_TENANT, SERVICE, acting_as, current_caller
from app.store.partitions import Repository
from app.store.pool import Session
from app.store.statements import first_value, queries

logger = logging.getLogger(__name__)

FIRST_KEY_FILE = "api_key"
LOCK_POLL_S = 0.05
MAX_OVERLAP_S = 30 * 86_400

Scope = Literal["read", "ingest", "label", "diagnose", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "hd_"
_HANDLE_BYTES = 8
_SALT_BYTES = 16
_SHOWN = len(PREFIX) + 6
_SECRET = re.compile(rf"{PREFIX}([0-9a-f]{{{2 * _HANDLE_BYTES}}})_[A-Za-z0-9_-]{{43}}")
_ABSENT = (bytes(_SALT_BYTES), bytes(32))
"""Salt and hash that a secret is compared with if no key has its handle; no secret has them."""


class ApiKey(BaseModel):
    """A key without its secret.

    `shown` is the start of the secret, to recognise a key. `revoked_at` may be in the future.
    `last_used_at` is at most about a minute older than the last use. The key sees the equipment of
    its tenant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key_id: int
    tenant: str
    name: str
    shown: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class CreatedKey(BaseModel):
    """A new key with its secret, which can't be read again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: ApiKey
    secret: str


class KnownKey(NamedTuple):
    """A key in force that a request presented.

    Args:
        name: of its owner.
        scopes: that it has; `admin` includes all.
        tenant: whose equipment it sees.
        valid_s: for how long it is still accepted, seconds; None without end.
    """

    name: str
    scopes: frozenset[str]
    tenant: str = DEFAULT_TENANT
    valid_s: float | None = None

    @property
    def operates(self) -> bool:
        """Whether it may administer the installation and not only a tenant."""
        return self.tenant == DEFAULT_TENANT and "admin" in self.scopes


def new_secret() -> str:
    """Return a random secret for a key to be created."""
    return f"{PREFIX}{secrets.token_hex(_HANDLE_BYTES)}_{secrets.token_urlsafe(32)}"


def handle_of(secret: str) -> str:
    """Return what finds the row of a secret; for one made before handles, the start of its hash."""
    match = _SECRET.fullmatch(secret)
    return match[1] if match else hashlib.sha256(secret.encode()).hexdigest()[: 2 * _HANDLE_BYTES]


def hash_secret(secret: str, salt: bytes) -> bytes:
    """Return the salted hash of a secret, as the database has it."""
    return hashlib.sha256(salt + hashlib.sha256(secret.encode()).digest()).digest()


class KeyRepository(Repository):
    """API keys."""

    async def create_key(
        self,
        name: str,
        scopes: Sequence[str],
        secret: str | None = None,
        expires_at: datetime | None = None,
        *,
        tenant: str | None = None,
    ) -> CreatedKey:
        """Create a key.

        Args:
            name: of the owner; a tenant's keys in force have different names.
            scopes: at least one of `SCOPES`.
            secret: from `new_secret`, if the caller has already saved it; default: a new one.
            expires_at: until when it is accepted; None without end.
            tenant: whose equipment it sees; None for the caller's.

        Raises:
            ConflictError: a key that is not revoked has this name.
            UnknownError: there is no such tenant.
            StoreError: a scope is unknown.
        """
        tenant = tenant or current_caller().owner
        async with self._database.session() as session:
            if not await session.fetchval(queries()["has_tenant"], tenant):
                raise UnknownError(
                    f"expected the name of a tenant, found '{tenant}': list them with "
                    "`hydraulic tenants list`, or create it",
                    "tenant",
                )
            return await _create(session, tenant, name, scopes, secret, expires_at)

    async def find_key(self, secret: str) -> KnownKey | None:
        """Return the key of a secret; None if unknown, revoked or expired.

        It is looked up for the service: the caller is known only afterwards.
        """
        handle = handle_of(secret)
        with acting_as(SERVICE):
            rows = await self._database.fetch("find_key", handle)
            salt, secret_hash = (rows[0]["salt"], rows[0]["secret_hash"]) if rows else _ABSENT
            if not hmac.compare_digest(hash_secret(secret, salt), secret_hash):
                return None
            if rows[0]["is_noted_late"]:
                with contextlib.suppress(StoreError):  # such as a database that only reads
                    await self._database.once("note_key_use", handle)
        name, tenant, scopes = rows[0]["name"], rows[0]["tenant"], frozenset(rows[0]["scopes"])
        return KnownKey(name, scopes, tenant, rows[0]["valid_s"])

    async def revoke_key(self, key_id: int) -> bool:
        """Revoke a key for good, even the last one; return whether it exists."""
        return bool(await self._database.fetch("revoke_key", key_id))

    async def revoke_key_of(self, name: str, tenant: str | None = None) -> None:
        """Revoke the key of a name for good.

        Args:
            name: of the key.
            tenant: that it belongs to; None for the caller's.

        Raises:
            UnknownError: no key in force has this name.
            ConflictError: it is the last one with the scope admin, or the last of these without
                expiry.
        """
        named, tenant = queries(), tenant or current_caller().owner
        async with self._database.session() as session, session.transaction():
            await session.execute(named["lock_keys"])
            await _check_admins_left(session, tenant, name, "rotate this one")
            if not await session.fetch(named["retire_key"], tenant, name, 0.0):
                raise _unknown(name)

    async def rotate_key(
        self,
        name: str,
        expires_at: datetime | None,
        overlap_s: float,
        now: datetime,
        *,
        tenant: str | None = None,
    ) -> CreatedKey:
        """Replace the secret of a key.

        Args:
            name: of the key.
            expires_at: of the new secret; None for that of the old one.
            overlap_s: for how long the old secret is accepted beside the new one.
            now: UTC.
            tenant: that it belongs to; None for the caller's.

        Raises:
            UnknownError: no key in force has this name.
            InputError: the old key has expired, and no new expiry is given.
            ConflictError: it is the last one with the scope admin and without expiry, and a new
                expiry is given.
        """
        named, tenant = queries(), tenant or current_caller().owner
        async with self._database.session() as session, session.transaction():
            await session.execute(named["lock_keys"])
            if expires_at is not None:
                await _check_admins_left(
                    session, tenant, name, "leave `expires` out", lasting_only=True
                )
            old = await session.fetchrow(named["retire_key"], tenant, name, overlap_s)
            if old is None:
                raise _unknown(name)
            expires_at = expires_at or old["expires_at"]
            if expires_at is not None and expires_at <= now:
                raise InputError(
                    f"expected an expiry after now, found that '{name}' expired at "
                    f"{expires_at.isoformat(timespec='seconds')}: give a later one as `expires`",
                    "expires",
                )
            return await _create(session, tenant, name, old["scopes"], None, expires_at)

    async def list_keys(self) -> list[ApiKey]:
        """Return all keys, also revoked and expired ones, oldest first."""
        return [ApiKey(**row) for row in await self._database.fetch("list_keys")]

    async def key_page(self, limit: int, after: int = 0, tenant: str | None = None) -> list[ApiKey]:
        """Return the first of a tenant's keys after a key id; of the caller's tenant for None."""
        tenant = tenant or current_caller().owner
        rows = await self._database.fetch("key_page", tenant, after, limit)
        return [ApiKey(**row) for row in rows]

    async def any_key(self) -> bool:
        """Return whether a key exists that is not revoked."""
        return bool(first_value(await self._database.fetch("any_key")))


async def _create(
    session: Session,
    tenant: str,
    name: str,
    scopes: Sequence[str],
    secret: str | None,
    expires_at: datetime | None,
) -> CreatedKey:
    secret = secret or new_secret()
    salt = secrets.token_bytes(_SALT_BYTES)
    row = await session.fetchrow(
        queries()["create_key"],
        tenant,
        name,
        secret[:_SHOWN],
        handle_of(secret),
        salt,
        hash_secret(secret, salt),
        sorted(set(scopes)),
        expires_at,
    )
    if row is None:
        raise ConflictError(
            f"expected a name that no key in force has, found '{name}': choose another name, or "
            "rotate or revoke that key",
            "name",
        )
    return CreatedKey(key=ApiKey(**row), secret=secret)


async def _check_admins_left(
    session: Session, tenant: str, name: str, instead: str, *, lasting_only: bool = False
) -> None:
    """Refuse to end a key that nobody could replace over HTTP, now or after the others expire.

    Args:
        session: with the set of keys locked.
        tenant: that the key belongs to.
        name: of the key.
        instead: what to do if creating another key is not wanted.
        lasting_only: refuse it for a key without expiry only.

    Raises:
        ConflictError: no other key in force has the scope admin and lasts as long.
    """
    is_lasting = {
        row["name"]: row["is_lasting"]
        for row in await session.fetch(queries()["admins_in_force"], tenant)
    }
    is_last = is_lasting.pop(name, None)
    if is_last is None or (lasting_only and not is_last) or tenant != DEFAULT_TENANT:
        return  # operators can replace the keys of other tenants
    if not any(other or not is_last for other in is_lasting.values()):
        without = " and without expiry" if is_last else ""
        raise ConflictError(
            f"expected another key with scope 'admin'{without} beside '{name}', found none: create "
            f"one first, or {instead}",
            "name",
        )


def check_expiry(expires: datetime | None, now: datetime) -> None:
    """Refuse an expiry of a key that is not after now.

    Raises:
        InputError: it is not, or it is too late to be meant.
    """
    if expires is not None and not now < expires <= LATEST:
        raise InputError(
            f"expected an expiry after now ({now.isoformat(timespec='seconds')}) and before "
            f"{LATEST.year}, found {expires.isoformat()}: give another time, or leave it "
            "out",
            "expires",
        )


def _unknown(name: str) -> UnknownError:
    return UnknownError(
        f"expected the name of a key that is not revoked, found '{name}': list the keys with "
        "GET /v1/keys or `hydraulic keys list`",
        "name",
    )


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
