"""What keys and tenants cost, and what the time of a refusal tells.

`python -m tests.bench.security` prints JSON. All cases of a figure are measured in turns in one
run, so that the load of the machine is the same for all. `refused_ms` has the middle half of the
times of refusals, each by an authenticator without a cache, beside that of the same case measured
twice: where two cases differ by no more than a case from itself, the time tells nothing.
`window_ms` is the statement that reads a window, which takes its caller along; `lookup_ms` one that
does not, for the service itself (one round trip) and in a tenant's transaction (four).
"""

import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from statistics import quantiles

from app.core.errors import Unauthenticated
from app.serving.http.auth import Authenticator
from app.store.caller import DEFAULT_TENANT, SERVICE, Caller, acting_as
from app.store.embedded.server import ensure_embedded, release_embedded
from app.store.keys import new_secret
from app.store.readings import Readings
from app.store.store import Store
from tests.machines import make_machine

ROUNDS = 400
WARM_UP = 20
MACHINES = 16
SENSORS = tuple(f"S{index}" for index in range(17))
T0_S = 1_772_000_000 // 60 * 60


async def in_turns(
    cases: Mapping[str, Callable[[], Awaitable[object]]], rounds: int
) -> dict[str, dict[str, float]]:
    """Return quartiles of the milliseconds of each case, all cases once in each round."""
    taken: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for number in range(WARM_UP + rounds):
        secrets.SystemRandom().shuffle(order)
        for name in order:
            begun = time.perf_counter()
            await cases[name]()
            if number >= WARM_UP:
                taken[name].append((time.perf_counter() - begun) * 1000)
    found = {}
    for name, each in taken.items():
        low, middle, high = quantiles(each, n=4)
        found[name] = {"q25": round(low, 3), "median": round(middle, 3), "q75": round(high, 3)}
    return found


def changed(secret: str, position: int) -> str:
    """Return a secret that differs from another one at one position."""
    other = "a" if secret[position] != "a" else "b"
    return secret[:position] + other + secret[position + 1 or len(secret) :]


async def refusals(store: Store) -> dict[str, dict[str, float]]:
    """Measure how long each kind of wrong key takes to be refused."""
    key = await store.create_key("bench", ["read"])
    revoked = await store.create_key("revoked", ["read"])
    await store.revoke_key(revoked.key.key_id)

    def refusal(secret: Callable[[], str]) -> Callable[[], Awaitable[None]]:
        async def refuse() -> None:
            try:
                await Authenticator(store.find_key).require({"x-api-key": secret()}, "read")
            except Unauthenticated:
                return
            raise AssertionError("expected a refusal")

        return refuse

    first = len(key.secret) - 43
    return await in_turns(
        {
            "known handle, first character wrong": refusal(lambda: changed(key.secret, first)),
            "known handle, last character wrong": refusal(lambda: changed(key.secret, -1)),
            "the same again": refusal(lambda: changed(key.secret, -1)),
            "unknown handle": refusal(new_secret),
            "revoked": refusal(lambda: revoked.secret),
        },
        ROUNDS,
    )


async def windows(store: Store) -> dict[str, dict[str, dict[str, float]]]:
    """Measure the statement of 1 and of 16 windows, for the service and for a tenant."""
    names = [f"press-{number}" for number in range(MACHINES)]
    for name in names:
        await store.put_equipment(make_machine(name, SENSORS))
        ids = [sensor for sensor in SENSORS for _ in range(60)]
        times_us = [(T0_S + second) * 1_000_000 for _ in SENSORS for second in range(60)]
        await store.ingest_many([Readings(name, ids, times_us, [1.0] * len(ids))])

    def reading(caller: Caller, count: int) -> Callable[[], Awaitable[None]]:
        async def read() -> None:
            with acting_as(caller):
                found = await store.read_windows([(name, T0_S, 60) for name in names[:count]])
            assert all(window.count == 60 for window in found)

        return read

    callers = {"service": SERVICE, "tenant": Caller(DEFAULT_TENANT, "bench")}
    return {
        str(count): await in_turns(
            {name: reading(caller, count) for name, caller in callers.items()}, ROUNDS
        )
        for count in (1, MACHINES)
    }


async def lookups(store: Store) -> dict[str, dict[str, float]]:
    """Measure the statement that finds a machine, for the service and for a tenant."""

    def looking_up(caller: Caller) -> Callable[[], Awaitable[None]]:
        async def look_up() -> None:
            with acting_as(caller):
                assert await store.get_equipment("press-0") is not None

        return look_up

    callers = {"service": SERVICE, "tenant": Caller(DEFAULT_TENANT, "bench")}
    return await in_turns({name: looking_up(caller) for name, caller in callers.items()}, ROUNDS)


async def measure(dsn: str) -> dict[str, object]:
    """Return all figures."""
    store = Store(dsn)
    await store.migrate()
    try:
        return {
            "refused_ms": await refusals(store),
            "window_ms": await windows(store),
            "lookup_ms": await lookups(store),
        }
    finally:
        await store.close()


def main() -> None:
    """Measure on a server of its own."""
    with tempfile.TemporaryDirectory(prefix="hydraulic-bench-") as parent:
        directory = Path(parent) / "postgres"
        dsn = ensure_embedded(directory, grace_s=0.2)
        print(json.dumps(asyncio.run(measure(dsn)), indent=1))
        release_embedded(directory)


if __name__ == "__main__":
    main()
