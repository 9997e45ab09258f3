"""Authenticates requests by API keys and checks their scopes.

A key arrives as `Authorization: Bearer KEY` or `X-API-Key: KEY`. The store holds only SHA-256
hashes. Lookups are cached: a revoked key stops working within `CACHE_S`, and a known key works
while the database is away. No key and no hash of one is ever logged or returned.
"""

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from math import inf

from cachetools import LRUCache

from app.core.errors import Forbidden, StoreUnavailable, Unauthenticated
from app.store.keys import KnownKey, Scope, hash_secret

CACHE_S = 10.0
CACHE_SIZE = 10_000
AWAY_S = 5.0
"""Seconds until the failed lookup of a cached key is tried again."""

ENVIRONMENT = "HYDRAULIC_API_KEY"
"""Name of the key that is set by this environment variable."""

FindKey = Callable[[str], Awaitable[KnownKey | None]]
"""Returns the key of a hash, or None if there is none. May raise StoreUnavailable."""


class Authenticator:
    """Checks the API key of a request and its scopes.

    Args:
        find_key: looks a key hash up in the store.
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
        self._extra_hash = hash_secret(extra_key) if extra_key else None
        self._clock = clock
        self._cache: LRUCache[str, tuple[float, KnownKey | None]] = LRUCache(CACHE_SIZE)

    async def require(self, headers: Mapping[str, str], scope: Scope) -> str:
        """Return the name of a request's key if it has a scope.

        Args:
            headers: of the request, names in lower case.
            scope: that the request needs; `admin` includes every scope.

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
        key = await self._known(hash_secret(secret))
        if key is None:
            raise Unauthenticated(
                "expected a known API key, found one that is unknown or revoked: check it or "
                "request one"
            )
        if scope not in key.scopes and "admin" not in key.scopes:
            scopes = ", ".join(sorted(key.scopes)) or "none"
            raise Forbidden(
                f"expected a key with scope '{scope}', found one with {scopes}: use another key"
            )
        return key.name

    async def _known(self, key_hash: str) -> KnownKey | None:
        if self._extra_hash is not None and hmac.compare_digest(key_hash, self._extra_hash):
            return KnownKey(ENVIRONMENT, frozenset({"admin"}))
        now = self._clock()
        cached_at, cached = self._cache.get(key_hash, (-inf, None))
        if now - cached_at < CACHE_S:
            return cached
        if cached is not None:
            # only this request waits for the database; others use the cached key meanwhile
            self._cache[key_hash] = (now - CACHE_S + AWAY_S, cached)
        try:
            found = await self._find_key(key_hash)
        except StoreUnavailable:
            if cached is None:
                raise
            self._cache[key_hash] = (self._clock() - CACHE_S + AWAY_S, cached)
            return cached
        self._cache[key_hash] = (now, found)
        return found


def key_in(headers: Mapping[str, str]) -> str | None:
    """Return the API key in a request's headers, or None."""
    key = headers.get("x-api-key", "").strip()
    if key:
        return key
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None
