"""Authenticates requests by API keys and checks their scopes.

A key arrives as `Authorization: Bearer KEY` or `X-API-Key: KEY`. The store holds only salted hashes
and compares them in constant time. Look-ups are cached under a keyed hash of the secret, whose
bits no caller can choose: a revoked key stops working within `CACHE_S`, an expired one at once, and
a known key works while the database is away. No key and no hash of one is ever logged or returned.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from math import inf
from typing import Literal, NamedTuple

from cachetools import LRUCache

from app.core.errors import Forbidden, StoreUnavailable, Unauthenticated
from app.store.caller import Caller, set_caller
from app.store.keys import KnownKey, Scope

CACHE_S = 10.0
CACHE_SIZE = 10_000
AWAY_S = 5.0
"""Seconds until the failed lookup of a cached key is tried again."""

ENVIRONMENT = "HYDRAULIC_API_KEY"
"""Name of the key that is set by this environment variable."""

RouteScope = Scope | Literal["operator"]
"""What a route needs; `operator` is the scope admin of the tenant that runs the installation."""

FindKey = Callable[[str], Awaitable[KnownKey | None]]
"""Returns the key of a secret, or None if there is none. May raise StoreUnavailable."""


class _Cached(NamedTuple):
    at: float
    key: KnownKey
    ends: float
    """When the key expires, on the clock of the cache."""


class Authenticator:
    """Checks the API key of a request and its scopes.

    Args:
        find_key: looks a secret up in the store.
        extra_key: an admin key from the environment that needs no store, or None.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        find_key: FindKey,
        extra_key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find_key = find_key
        self._hash_key = secrets.token_bytes(32)
        self._extra_hash = self._hash(extra_key) if extra_key else None
        self._clock = clock
        self._cache: LRUCache[bytes, _Cached] = LRUCache(CACHE_SIZE)
        # apart, so that a flood of wrong keys does not evict those that are known
        self._unknown: LRUCache[bytes, float] = LRUCache(CACHE_SIZE)
        self._lookups: dict[bytes, asyncio.Task[KnownKey | None]] = {}

    async def require(self, headers: Mapping[str, str], scope: RouteScope) -> KnownKey:
        """Return the key of a request if it has a scope; the task works for its tenant from then.

        An operator's work is the installation's: it sees all tenants.

        Args:
            headers: of the request, names in lower case.
            scope: that the request needs; `admin` includes every scope but `operator`.

        Raises:
            Unauthenticated: the request has no key, or an unknown one.
            Forbidden: the key lacks the scope.
            StoreUnavailable: the key is not cached and the database is away.
        """
        secret = key_in(headers)
        if secret is None:
            raise Unauthenticated(
                "expected an API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY', found "
                "none: a first start writes one to var/api_key"
            )
        key = await self._known(secret)
        if key is None:
            raise Unauthenticated(
                "expected a known API key, found one that is unknown or revoked: check it or "
                "request one"
            )
        if scope == "operator":
            if not key.operates:
                raise Forbidden(
                    "expected a key with scope 'admin' of the tenant that operates the "
                    f"installation, found one of tenant '{key.tenant}' with "
                    f"{_listed(key)}: ask the operator"
                )
            set_caller(Caller(None, key.name))
            return key
        if scope not in key.scopes and "admin" not in key.scopes:
            raise Forbidden(
                f"expected a key with scope '{scope}', found one with {_listed(key)}: use another "
                "key"
            )
        set_caller(Caller(key.tenant, key.name))
        return key

    async def _known(self, secret: str) -> KnownKey | None:
        hashed, now = self._hash(secret), self._clock()
        if self._extra_hash is not None and hmac.compare_digest(hashed, self._extra_hash):
            return KnownKey(ENVIRONMENT, frozenset({"admin"}))
        cached = self._cache.get(hashed)
        if cached is None:
            if now - self._unknown.get(hashed, -inf) < CACHE_S:
                return None
        elif now >= cached.ends:
            return None
        elif now - cached.at < CACHE_S:
            return cached.key
        else:
            # only this request waits for the database; others use the cached key meanwhile
            self._cache[hashed] = cached._replace(at=now - CACHE_S + AWAY_S)
        # a caller that goes away must not end the lookup: a revoked key would stay in the cache
        lookup = self._lookups.get(hashed)
        if lookup is None:
            lookup = asyncio.create_task(self._looked_up(secret, hashed, now, cached))
            self._lookups[hashed] = lookup
            lookup.add_done_callback(partial(self._ended, hashed))
        return await asyncio.shield(lookup)

    def _ended(self, hashed: bytes, lookup: asyncio.Task[KnownKey | None]) -> None:
        del self._lookups[hashed]
        if not lookup.cancelled():
            lookup.exception()  # nobody may wait for it any more

    async def _looked_up(
        self, secret: str, hashed: bytes, now: float, cached: _Cached | None
    ) -> KnownKey | None:
        """Look a key up in the database, and cache what was found."""
        try:
            found = await self._find_key(secret)
        except StoreUnavailable:
            if cached is None:
                raise
            self._cache[hashed] = cached._replace(at=self._clock() - CACHE_S + AWAY_S)
            return cached.key
        if found is None:
            self._cache.pop(hashed, None)
            self._unknown[hashed] = now
        else:
            ends = inf if found.valid_s is None else now + found.valid_s
            self._cache[hashed] = _Cached(now, found, ends)
        return found

    def _hash(self, secret: str) -> bytes:
        return hashlib.blake2b(secret.encode(), key=self._hash_key, digest_size=32).digest()


def _listed(key: KnownKey) -> str:
    return ", ".join(sorted(key.scopes)) or "none"


def key_in(headers: Mapping[str, str]) -> str | None:
    """Return the API key in a request's headers, or None."""
    key = headers.get("x-api-key", "").strip()
    if key:
        return key
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None
