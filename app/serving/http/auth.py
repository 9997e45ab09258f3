"""API keys and their scopes at the door.

A key arrives as `Authorization: Bearer KEY` or `X-API-Key: KEY`. The store holds only SHA-256 hashes; what was found is
remembered for a short time, so a revoked key stops within `CACHE_S` and a known one works while the database is away.
Invariant: no key and no hash of one is ever logged or returned.
"""

import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

from app.core.errors import Forbidden, StoreUnavailable, Unauthenticated
from app.store.keys import KnownKey, Scope, hash_secret

CACHE_S = 10.0
CACHE_SIZE = 10_000
AWAY_S = 5.0
"""How long a known key is taken as it was before the database, which was away, is asked again."""

ENVIRONMENT = "HYDRAULIC_API_KEY"
"""What the key of the environment is called."""

FindKey = Callable[[str], Awaitable[KnownKey | None]]
"""Looks a key's hash up: whose it is and its scopes, or None when there is no such key. May raise StoreUnavailable."""


class Authenticator:
    """Checks who asks and what they may do.

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
        self._seen: OrderedDict[str, tuple[float, KnownKey | None]] = OrderedDict()

    async def require(self, headers: Mapping[str, str], scope: Scope) -> str:
        """Let a request pass, or raise.

        Args:
            headers: of the request, names in lower case.
            scope: what the request needs; `admin` holds every scope.

        Returns:
            The key's name.

        Raises:
            Unauthenticated: no key, or one that is not known.
            Forbidden: the key lacks the scope.
            StoreUnavailable: the key has not been seen yet and the database is away.
        """
        secret = key_in(headers)
        if secret is None:
            raise Unauthenticated(
                "expected an API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY', found none: a first start "
                "writes one to var/api_key"
            )
        key = await self._known(hash_secret(secret))
        if key is None:
            raise Unauthenticated(
                "expected a known API key, found one that is unknown or revoked: check it or ask for one"
            )
        if scope not in key.scopes and "admin" not in key.scopes:
            held = ", ".join(sorted(key.scopes)) or "none"
            raise Forbidden(
                f"expected a key with scope '{scope}', found one with {held}: use another key"
            )
        return key.name

    async def _known(self, key_hash: str) -> KnownKey | None:
        if self._extra_hash is not None and hmac.compare_digest(key_hash, self._extra_hash):
            return KnownKey(ENVIRONMENT, frozenset({"admin"}))
        now = self._clock()
        seen = self._seen.get(key_hash)
        if seen is not None and now - seen[0] < CACHE_S:
            return seen[1]
        held = None if seen is None else seen[1]
        if held is not None:
            # Only this request asks, and pays the wait when the database is away; others go on with what was known.
            self._seen[key_hash] = (now - CACHE_S + AWAY_S, held)
        try:
            found = await self._find_key(key_hash)
        except StoreUnavailable:
            if held is None:
                raise
            self._seen[key_hash] = (self._clock() - CACHE_S + AWAY_S, held)
            return held
        self._seen[key_hash] = (now, found)
        self._seen.move_to_end(key_hash)
        while len(self._seen) > CACHE_SIZE:
            self._seen.popitem(last=False)
        return found


def key_in(headers: Mapping[str, str]) -> str | None:
    """Return the secret that a request shows, or None."""
    key = headers.get("x-api-key", "").strip()
    if key:
        return key
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None
