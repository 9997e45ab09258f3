"""Rate limits of API keys and tenants, by the sliding window counter of the library `limits`.

A replica counts what it answers; every `EXCHANGE_S` replicas exchange their counts through the
database, so that a limit holds for all of them together, but for what the others answer within
that time. While the database is away each goes on with what it knows. Measured: a charge takes
.01 ms, and an exchange is one statement a second while requests arrive.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from limits import RateLimitItemPerSecond
from limits.storage.base import SlidingWindowCounterSupport, Storage, TimestampedSlidingWindow
from limits.strategies import SlidingWindowCounterRateLimiter
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Scope

from app.core.errors import RateExceeded, StoreError
from app.core.tasks import end_tasks
from app.store.keys import KnownKey
from app.store.limits import OwnCount

logger = logging.getLogger(__name__)

Kind = Literal["requests", "diagnoses", "readings"]
KINDS: tuple[Kind, ...] = ("requests", "diagnoses", "readings")
WINDOW_S = 60
EXCHANGE_S = 1.0
CLEAN_EVERY = 300
"""Exchanges between two deletions of old counts."""
HEADERS = "hydraulic.rate_limit_headers"
"""Key in the ASGI scope: response headers that say what is left of the limits."""

_PerMinute = Annotated[int, Field(ge=1, le=10**12)]
_Bound = tuple[RateLimitItemPerSecond, tuple[str, ...]]
"""A limit, and what identifies whom it bounds."""
Exchange = Callable[[str, Mapping[str, OwnCount]], Awaitable[Mapping[str, int]]]


class RateLimits(BaseModel):
    """Most that each API key, and all keys of a tenant together, may do in a minute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_min: _PerMinute = Field(default=600_000, description="requests of any kind")
    diagnoses_per_min: _PerMinute = Field(
        default=2_000_000,
        description="diagnoses, each item of a batch counted; one of a large machine or with an "
        "explanation counts as its forward passes take, in diagnoses of the rig",
    )
    readings_per_min: _PerMinute = Field(
        default=60_000_000, description="readings sent, also duplicates and rejected lines"
    )
    tenant_factor: Annotated[float, Field(ge=1, le=1_000_000, allow_inf_nan=False)] = Field(
        default=4.0, description="limits of a tenant, as a multiple of those of a key"
    )

    @cached_property
    def items(self) -> dict[Kind, RateLimitItemPerSecond]:
        """The limits of a key as the library has them."""
        return self._items("")

    @cached_property
    def tenant_items(self) -> dict[Kind, RateLimitItemPerSecond]:
        """The limits of a tenant as the library has them."""
        return self._items("tenant-", self.tenant_factor)

    def _items(self, prefix: str, factor: float = 1.0) -> dict[Kind, RateLimitItemPerSecond]:
        amounts = {kind: int(factor * getattr(self, f"{kind}_per_min")) for kind in KINDS}
        return {
            kind: RateLimitItemPerSecond(amount, WINDOW_S, prefix + kind)
            for kind, amount in amounts.items()
        }

    @cached_property
    def policy(self) -> bytes:
        """Value of the header `RateLimit-Policy`."""
        listed = (f'"{kind}";q={each.amount};w={WINDOW_S}' for kind, each in self.items.items())
        return ", ".join(listed).encode()


class SharedCounters(Storage, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """Counters of one replica with those of the others; used by one event loop.

    Args:
        clock: seconds since 1970, of which the windows of all replicas are multiples.
    """

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._own: dict[str, int] = {}
        self._ends: dict[str, float] = {}
        self._changed: set[str] = set()
        self._others: Mapping[str, int] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        """Return what the library may wrap: nothing that is raised here."""
        return ValueError

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter of this replica; return the sum of all replicas."""
        self._own[key] = self._own.get(key, 0) + amount
        self._ends.setdefault(key, self._clock() + expiry)
        self._changed.add(key)
        return self.get(key)

    def get(self, key: str) -> int:
        """Return the sum of all replicas."""
        return self._own.get(key, 0) + self._others.get(key, 0)

    def get_expiry(self, key: str) -> float:
        """Return when a counter ends."""
        return self._ends.get(key, self._clock())

    def check(self) -> bool:
        """Return whether counting works."""
        return True

    def reset(self) -> int:
        """Forget all counters."""
        count = len(self._own)
        self._own.clear()
        self._ends.clear()
        self._changed.clear()
        return count

    def clear(self, key: str) -> None:
        """Forget a counter."""
        self._own.pop(key, None)
        self._ends.pop(key, None)
        self._changed.discard(key)

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Count an amount if it is within the limit, and return whether it is."""
        _, current = self.sliding_window_keys(key, expiry, self._clock())
        if self._weighted(key, expiry) + amount > limit:
            return False
        self.incr(current, 2 * expiry, amount)
        return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return count and seconds left of the previous window, and of the current one."""
        now = self._clock()
        previous, current = self.sliding_window_keys(key, expiry, now)
        left_s = (1 - (now / expiry) % 1) * expiry
        count = self.get(previous)
        return count, left_s if count else 0.0, self.get(current), left_s + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget the windows of a limit."""
        for each in self.sliding_window_keys(key, expiry, self._clock()):
            self.clear(each)

    def take_changed(self) -> dict[str, OwnCount]:
        """Return what this replica has counted since the last call, and forget what has ended."""
        now = self._clock()
        for key in [key for key, end in self._ends.items() if end <= now]:
            self.clear(key)
        changed, self._changed = self._changed, set()
        return {key: OwnCount(self._own[key], self._ends[key] - now) for key in changed}

    def put_back(self, changed: Mapping[str, OwnCount]) -> None:
        """Take counts that could not be exchanged as changed again."""
        self._changed.update(key for key in changed if key in self._own)

    def set_others(self, others: Mapping[str, int]) -> None:
        """Take over the counts of the other replicas."""
        self._others = others

    @property
    def is_idle(self) -> bool:
        """Whether nothing is counted here or elsewhere."""
        return not (self._own or self._others)

    def _weighted(self, key: str, expiry: int) -> float:
        previous, left_s, current, _ = self.get_sliding_window(key, expiry)
        return math.floor(previous * left_s / expiry + current)


class RateLimiter:
    """Charges requests to the limits of their keys.

    Args:
        replica: name of this replica, which no other has.
        exchange: writes counts to the database and returns those of the other replicas.
        clean: deletes old counts.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        replica: str,
        exchange: Exchange,
        clean: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._replica = replica
        self._exchange = exchange
        self._clean = clean
        self._clock = clock
        self._counters = SharedCounters(clock)
        self._limiter = SlidingWindowCounterRateLimiter(self._counters)
        self._limits = RateLimits()
        self._task: asyncio.Task[None] | None = None

    def set_limits(self, limits: RateLimits) -> None:
        """Change the limits; a limit that differs counts from zero."""
        self._limits = limits

    def start(self) -> None:
        """Start to exchange counts, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            await end_tasks({self._task})

    @property
    def is_alive(self) -> bool:
        """Whether its background work has not ended by itself."""
        return self._task is None or not self._task.done()

    def charge(self, key: KnownKey, kind: Kind, cost: int = 1) -> None:
        """Count a cost if the key and its tenant have as much left.

        Raises:
            RateExceeded: one of them has not.
        """
        # the key first: what is refused to it must not count for its tenant
        for item, names in self._bounds(key, kind):
            if not self._limiter.hit(item, *names, cost=cost):
                raise self._exceeded(item, names, kind, cost)

    def check(self, key: KnownKey, kind: Kind) -> None:
        """Refuse a key that has nothing left, before work whose cost is known at its end.

        Raises:
            RateExceeded: it has not, or its tenant has not.
        """
        for item, names in self._bounds(key, kind):
            if not self._limiter.test(item, *names):
                raise self._exceeded(item, names, kind, 1)

    def add(self, key: KnownKey, kind: Kind, cost: int) -> None:
        """Count the cost of work that was done, also beyond the limit: later requests wait."""
        for item, names in self._bounds(key, kind):
            _, current = self._counters.sliding_window_keys(
                item.key_for(*names), WINDOW_S, self._clock()
            )
            self._counters.incr(current, 2 * WINDOW_S, cost)

    def begin(self, scope: Scope, key: KnownKey) -> None:
        """Charge a request that begins, and have its response say what is left.

        Raises:
            RateExceeded: the key or its tenant has no request left.
        """
        scope[HEADERS] = lambda: self._headers(key)
        self.charge(key, "requests")

    def _bounds(self, key: KnownKey, kind: Kind) -> tuple[_Bound, _Bound]:
        limits = self._limits
        of_key = (limits.items[kind], (key.tenant, key.name))
        return of_key, (limits.tenant_items[kind], (key.tenant,))

    def _headers(self, key: KnownKey) -> list[tuple[bytes, bytes]]:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers."""
        listed = []
        for kind, item in self._limits.items.items():
            reset_at, left = self._limiter.get_window_stats(item, key.tenant, key.name)
            reset_s = max(0, math.ceil(reset_at - self._clock()))
            listed.append(f'"{kind}";r={max(0, left)};t={reset_s}')
        return [
            (b"ratelimit-policy", self._limits.policy),
            (b"ratelimit", ", ".join(listed).encode()),
        ]

    def _exceeded(
        self, item: RateLimitItemPerSecond, names: tuple[str, ...], kind: Kind, cost: int
    ) -> RateExceeded:
        reset_at, left = self._limiter.get_window_stats(item, *names)
        whose = "this API key" if len(names) > 1 else "all keys of this tenant"
        count = "more" if cost == 1 else f"{cost} more"
        return RateExceeded(
            f"expected at most {item.amount} {kind} in {WINDOW_S} s of {whose}, found {count} with "
            f"{max(0, left)} left: try again after the time in Retry-After, or have the limits "
            "raised",
            min(WINDOW_S, max(1, math.ceil(reset_at - self._clock()))),
        )

    async def _run(self) -> None:
        count, failing = 0, False
        while True:
            await asyncio.sleep(EXCHANGE_S)
            if self._counters.is_idle:
                continue
            changed = self._counters.take_changed()
            try:
                self._counters.set_others(await self._exchange(self._replica, changed))
                count += 1
                if count % CLEAN_EVERY == 0:
                    await self._clean()
                failing = False
            except StoreError as error:
                self._counters.put_back(changed)
                if not failing:
                    logger.warning("rate counts not exchanged", extra={"reason": str(error)})
                failing = True
            except Exception:
                # a task that ends would never exchange counts again
                logger.exception("rate counts not exchanged")


def headers_of(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the rate limit headers of a request's response; none of one without a key."""
    made: Any = scope.get(HEADERS)
    return [] if made is None else made()
