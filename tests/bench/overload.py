"""Section `overload`: five times what the service can answer, and a key far beyond its limit.

The service runs with the shipped configuration but for a shorter `max_wait_ms`, and for the second
part with a limit that one key passes ten times.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import httpx

from tests.bench import meter
from tests.bench.compare import Bench, LoadClient, Measurement, Point
from tests.bench.systems import OURS, Running, running

MAX_WAIT_MS = 25
CONCURRENCY = 64
QUIET_RATE = 10.0
LIMIT_PER_MIN = 1_800
"""Of the noisy part: three times what the quiet key sends."""
TIMES = 5.0
NOISY_TIMES = 10.0


def measure(bench: Bench) -> dict[str, object]:
    """Measure both parts.

    Returns:
        `rows`: a measurement for each load, with its name and the memory after it; `text`: what was
            changed.
    """
    rows = [*_overloaded(bench), *_noisy(bench)]
    text = (
        f"`max_wait_ms` {MAX_WAIT_MS} in all; a limit of {LIMIT_PER_MIN} diagnoses a minute in the "
        "last two rows, which are of the quiet key. Latencies count from when a request is due."
    )
    return {"rows": rows, "text": text}


def _overloaded(bench: Bench) -> list[dict[str, object]]:
    config = {"max_wait_ms": MAX_WAIT_MS}
    directory = bench.fresh_directory("overload")
    with running(OURS, bench.dsn, directory, bench.peers_python, user_config=config) as system:
        client = LoadClient(bench, system, bench.fleet.pairs(seed=11))
        client.run(Point(8), min(3.0, bench.seconds))
        rows = [_row("unloaded", system, client.run(Point(rate=QUIET_RATE), bench.seconds))]
        full = client.run(Point(CONCURRENCY), bench.seconds)
        rows.append(_row(f"{CONCURRENCY} connections", system, full))
        rate = TIMES * full.throughput
        rows.append(_row("five times as many", system, client.run(Point(rate=rate), bench.seconds)))
        rows.append(_row("unloaded again", system, client.run(Point(rate=QUIET_RATE), 5.0)))
    return rows


def _noisy(bench: Bench) -> list[dict[str, object]]:
    config = {"limits": {"diagnoses_per_min": LIMIT_PER_MIN}, "max_wait_ms": MAX_WAIT_MS}
    directory = bench.fresh_directory("noisy")
    with running(OURS, bench.dsn, directory, bench.peers_python, user_config=config) as system:
        noisy_system = replace(system, headers=_new_key(system))
        quiet = LoadClient(bench, system, bench.fleet.pairs(seed=12))
        noisy = LoadClient(bench, noisy_system, bench.fleet.pairs(seed=13))
        quiet.run(Point(rate=QUIET_RATE), min(3.0, bench.seconds))
        rows = [_row("quiet key alone", system, quiet.run(Point(rate=QUIET_RATE), bench.seconds))]
        rate = NOISY_TIMES * LIMIT_PER_MIN / 60
        with ThreadPoolExecutor(1) as pool:
            running_noisy = pool.submit(noisy.run, Point(rate=rate), bench.seconds + 2.0)
            beside = quiet.run(Point(rate=QUIET_RATE), bench.seconds)
            sent = running_noisy.result()
        rows.append(_row("quiet key beside a noisy one", system, beside))
        print(f"noisy key: {sent.sent} sent, {sent.refused} refused in {sent.refused_p95:.1f} ms")
    return rows


def _new_key(system: Running) -> dict[str, str]:
    order = {"name": "noisy", "scopes": ["diagnose"]}
    url = f"http://127.0.0.1:{system.port}/v1/keys"
    made = httpx.post(url, headers=system.headers, json=order, timeout=30).raise_for_status()
    return {"authorization": f"Bearer {made.json()['secret']}"}


def _row(name: str, system: Running, found: Measurement) -> dict[str, object]:
    pss_mb = sum(item.pss_mb for item in meter.memory_of(system.processes()))
    print(
        f"{name}: {found.sent} sent, {found.throughput:.0f}/s answered, p95 {found.p95:.1f} ms, "
        f"{found.refused} refused in {found.refused_p95:.1f} ms, {found.errors}, {pss_mb:.0f} MB",
        flush=True,
    )
    return {"name": name, "pss_mb": pss_mb, **asdict(found)}
